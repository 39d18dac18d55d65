"""The VAE as a stream: frames out before the last latent is in, with memory that does not grow with duration.

Latents [C, T, H, W] are what the VAE itself speaks; `normalize` and `denormalize` go to and from what the transformer
works on. Every chunk's result is the whole clip's, bit for bit on the CPU (models/shapes_vae.py says why).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..kernels.backend import using
from .models.layers import Stream
from .request import quote


class StreamingVAE:
    """Encodes and decodes clips of any size in chunks of whole groups."""

    def __init__(
        self, model: Any, config: dict[str, Any], device: torch.device, dtype: torch.dtype, backend: str | None
    ) -> None:
        self.model, self.device, self.dtype, self.backend = model, device, dtype, backend
        self.latent_channels: int = config["latent_channels"]
        self.mean = self._statistic(config, "latents_mean")
        self.std = self._statistic(config, "latents_std")

    def _statistic(self, config: dict[str, Any], name: str) -> Tensor:
        """[channels, 1, 1, 1]; ValueError where the config has no number for each channel."""
        values = config.get(name)
        if not isinstance(values, list) or len(values) != self.latent_channels or set(map(type, values)) - {int, float}:
            raise ValueError(f"the VAE's {name} must be {self.latent_channels} numbers, got {quote(values)}")
        return torch.tensor(values, dtype=torch.float32, device=self.device).view(-1, 1, 1, 1)

    def latent_grid(self, width: int, height: int, frames: int) -> tuple[int, int, int]:
        """(t, y, x) of the latent of a clip."""
        return 1 + (frames - 1) // self.model.group, height // self.model.factor, width // self.model.factor

    def normalize(self, z: Tensor) -> Tensor:
        """The VAE's latent -> the transformer's, mean 0 and variance 1 a channel."""
        return (z.to(self.device) - self.mean) / self.std

    def denormalize(self, z: Tensor) -> Tensor:
        """The transformer's latent -> the VAE's."""
        return z.to(self.device) * self.std + self.mean

    @torch.inference_mode()
    def encode(self, video: Tensor) -> Tensor:
        """[3, frames, height, width] in -1..1, 1 + k * group frames -> latent [C, 1 + k, H, W] in float32."""
        if video.ndim != 4 or video.shape[0] != 3 or 0 in video.shape or (video.shape[1] - 1) % self.model.group:
            raise ValueError(f"a video must be [3, 1 + {self.model.group}k, height, width], got {list(video.shape)}")
        if video.shape[2] % self.model.factor or video.shape[3] % self.model.factor:
            raise ValueError(f"height and width must be multiples of {self.model.factor}, got {list(video.shape[2:])}")
        stream: Stream = {}
        groups = video.split([1] + [self.model.group] * ((video.shape[1] - 1) // self.model.group), dim=1)
        with using(self.backend):
            parts = [self.model.encoder(self._pixels(group), stream) for group in groups]
        return torch.cat(parts).permute(3, 0, 1, 2).float().contiguous()

    def _pixels(self, x: Tensor) -> Tensor:
        """[C, T, H, W] -> [T, H, W, C] on this VAE's device."""
        return x.permute(1, 2, 3, 0).to(self.device, self.dtype).contiguous()

    def stream(self, latent: Tensor) -> Iterator[Tensor]:
        """Latent [C, T, H, W] -> chunks of pixels [n, height, width, 3] in -1..1: one frame, then groups."""
        carried: Stream = {}
        for frame in latent.split(1, dim=1):
            with torch.inference_mode(), using(self.backend):
                chunk: Tensor = self.model.decoder(self._pixels(frame), carried)
            yield chunk

    def decode(self, latent: Tensor) -> Tensor:
        """Latent [C, T, H, W] -> video [3, frames, height, width] in -1..1 (float32)."""
        if latent.ndim != 4 or latent.shape[0] != self.latent_channels or 0 in latent.shape:
            raise ValueError(f"a latent must be [{self.latent_channels}, T, H, W], not empty, got {list(latent.shape)}")
        return torch.cat(list(self.stream(latent))).permute(3, 0, 1, 2).float().contiguous()


def to_bytes(pixels: Tensor) -> Tensor:
    """Pixels in -1..1 -> uint8 0..255, rounded."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
