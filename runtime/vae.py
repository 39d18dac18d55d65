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


class StreamingVAE:
    """Encodes and decodes clips of any size in chunks of whole groups."""

    def __init__(
        self, model: Any, config: dict[str, Any], device: torch.device, dtype: torch.dtype, backend: str | None
    ) -> None:
        self.model, self.device, self.dtype, self.backend = model, device, dtype, backend
        self.latent_channels: int = config["latent_channels"]
        shape = (self.latent_channels, 1, 1, 1)
        self.mean = torch.tensor(config["latents_mean"], dtype=torch.float32, device=device).view(shape)
        self.std = torch.tensor(config["latents_std"], dtype=torch.float32, device=device).view(shape)

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
        if video.ndim != 4 or video.shape[0] != 3 or (video.shape[1] - 1) % self.model.group:
            raise ValueError(f"a video must be [3, 1 + {self.model.group}k, height, width], got {list(video.shape)}")
        if video.shape[2] % self.model.factor or video.shape[3] % self.model.factor:
            raise ValueError(f"height and width must be multiples of {self.model.factor}, got {list(video.shape[2:])}")
        x = video.permute(1, 2, 3, 0).to(self.device, self.dtype).contiguous()
        stream: Stream = {}
        chunks = [x[:1], *x[1:].split(self.model.group)] if len(x) > 1 else [x]
        with using(self.backend):
            parts = [self.model.encoder(chunk, stream) for chunk in chunks]
        return torch.cat(parts).permute(3, 0, 1, 2).float().contiguous()

    def stream(self, latent: Tensor) -> Iterator[Tensor]:
        """Latent [C, T, H, W] -> chunks of pixels [n, height, width, 3] in -1..1: one frame, then groups."""
        z = latent.permute(1, 2, 3, 0).to(self.device, self.dtype).contiguous()
        carried: Stream = {}
        for frame in z.split(1):
            with torch.inference_mode(), using(self.backend):
                chunk: Tensor = self.model.decoder(frame, carried)
            yield chunk

    def decode(self, latent: Tensor) -> Tensor:
        """Latent [C, T, H, W] -> video [3, frames, height, width] in -1..1 (float32)."""
        if latent.ndim != 4 or latent.shape[0] != self.latent_channels:
            raise ValueError(f"a latent must be [{self.latent_channels}, T, H, W], got {list(latent.shape)}")
        return torch.cat(list(self.stream(latent))).permute(3, 0, 1, 2).float().contiguous()


def to_bytes(pixels: Tensor) -> Tensor:
    """Pixels in -1..1 -> uint8 0..255, rounded."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
