"""The VAE as a stream: frames out before the last latent is in, with memory that does not grow with duration.

Latents [C, T, H, W] are what the VAE itself speaks; `normalize` and `denormalize` go to and from what the transformer
works on. Chunks give the whole clip's result, bit for bit on the CPU, wherever the model's own norms do not span
frames; where they do, chunks are diffusers' own (the files of models/ say which).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.backend import using
from .models.vae import END, VideoVAE
from .tiles import Tiles


class StreamingVAE:
    """Encodes and decodes clips of any size in chunks of whole groups."""

    def __init__(
        self, model: Any, config: dict[str, Any], device: torch.device, dtype: torch.dtype, backend: str | None
    ) -> None:
        self.model: VideoVAE = model
        self.device, self.dtype, self.backend = device, dtype, backend
        self.latent_channels = self.model.latent_channels
        self.mean, self.std = (v.detach().float().view(-1, 1, 1, 1) for v in self.model.normalization(config))
        self.inverts = bool(config.get("invert_scale_latents"))

    def latent_grid(self, width: int, height: int, frames: int) -> tuple[int, int, int]:
        """(t, y, x) of the latent of a clip."""
        return 1 + (frames - 1) // self.model.group, height // self.model.factor, width // self.model.factor

    def normalize(self, z: Tensor) -> Tensor:
        """The VAE's latent -> the transformer's, mean 0 and variance 1 a channel.

        Where the config says invert_scale_latents (CogVideoX 1.5, of given frames), the inverse of its scale.
        """
        centered, std = z.to(self.device) - self.mean.to(self.device), self.std.to(self.device)
        return centered * std if self.inverts else centered / std

    def denormalize(self, z: Tensor) -> Tensor:
        """The transformer's latent -> the VAE's."""
        return z.to(self.device) * self.std.to(self.device) + self.mean.to(self.device)

    def encode(self, video: Tensor, *, tile: int | None = None) -> Tensor:
        """[3, frames, height, width] in -1..1, 1 + k * group frames -> latent [C, 1 + k, H, W] in float32.

        `tile` as in `stream`. The mean of the distribution, which diffusers calls its mode.
        """
        self._check_video(video)
        chunks = self.model.pixel_chunks(video.shape[1])
        parts = self._run(self.model.encoder, video, chunks, tile, (self.model.factor, 1), {})
        return torch.cat([part[..., : self.latent_channels] for part in parts]).permute(3, 0, 1, 2).float().contiguous()

    def _check_video(self, video: Tensor) -> None:
        group, factor = self.model.group, self.model.factor
        if video.ndim != 4 or video.shape[0] != 3 or 0 in video.shape or (video.shape[1] - 1) % group:
            raise ValueError(f"a video must be [3, 1 + {group}k, height, width], got {list(video.shape)}")
        if video.shape[2] % factor or video.shape[3] % factor:
            raise ValueError(f"height and width must be multiples of {factor}, got {list(video.shape[2:])}")

    def stream(self, latent: Tensor, *, tile: int | None = None, **conditions: Any) -> Iterator[Tensor]:
        """Latent [C, T, H, W] -> chunks of pixels [n, height, width, 3] in -1..1, as soon as they are known.

        A chunk may be empty, where the model looks ahead. conditions: what the model's decoder takes beside latents
        (`VideoVAE.begin`). Frames wider or higher than `tile` pixels are decoded in tiles of that side, each for the
        whole clip, and blended: memory for a tile, no frame before the last tile is done, and another result than that
        of whole frames, which a warning says.
        """
        if latent.ndim != 4 or latent.shape[0] != self.latent_channels or 0 in latent.shape:
            raise ValueError(f"a latent must be [{self.latent_channels}, T, H, W], not empty, got {list(latent.shape)}")
        chunks = self.model.latent_chunks(latent.shape[1])
        return self._run(self.model.decoder, latent, chunks, tile, (1, self.model.factor), conditions)

    def decode(self, latent: Tensor, *, tile: int | None = None, **conditions: Any) -> Tensor:
        """Latent [C, T, H, W] -> video [3, frames, height, width] in -1..1 (float32); arguments as in `stream`."""
        return torch.cat(list(self.stream(latent, tile=tile, **conditions))).permute(3, 0, 1, 2).float().contiguous()

    def _run(
        self,
        half: nn.Module,
        clip: Tensor,
        chunks: list[slice],
        tile: int | None,
        scales: tuple[int, int],
        conditions: dict[str, Any],
    ) -> Iterator[Tensor]:
        """What `half` makes of a clip [C, T, H, W], chunk by chunk. `scales`: pixels of a latent's side, in and out."""
        if tile is None or max(clip.shape[2:]) * self.model.factor <= tile * scales[0]:
            return self._whole(half, clip, chunks, conditions)
        warnings.warn(f"frames are in tiles of {tile} pixels, which is not equal to whole frames", stacklevel=3)
        height, width = (side // scales[0] for side in clip.shape[2:])
        tiles = Tiles.of(height, width, tile // self.model.factor)
        return self._tiled(half, clip, chunks, tiles, scales, conditions)

    def _whole(
        self, half: nn.Module, clip: Tensor, chunks: list[slice], conditions: dict[str, Any]
    ) -> Iterator[Tensor]:
        stream = self.model.begin(**conditions)
        for chunk in chunks:
            frames = clip[:, chunk].permute(1, 2, 3, 0).to(self.device, self.dtype).contiguous()
            if self.model.looks_ahead and chunk is chunks[-1]:
                stream[END] = True
            with torch.inference_mode(), using(self.backend):
                out: Tensor = half(frames, stream)
            yield out

    def _tiled(
        self,
        half: nn.Module,
        clip: Tensor,
        chunks: list[slice],
        tiles: Tiles,
        scales: tuple[int, int],
        conditions: dict[str, Any],
    ) -> Iterator[Tensor]:
        """As `_whole`; an empty chunk for each that is decoded, so that others can have their turn, then all."""
        total: Tensor | None = None
        for number, place in enumerate(tiles.places):
            done: list[Tensor] = []
            for chunk in self._whole(half, tiles.crop(place, clip, scales[0]), chunks, conditions):
                done.append(chunk.cpu())
                yield chunk.new_empty(0, tiles.height * scales[1], tiles.width * scales[1], chunk.shape[3])
            lengths = [len(chunk) for chunk in done]
            total = tiles.add(total, number, torch.cat(done), scales[1])
        assert total is not None
        yield from total.split(lengths)


def to_bytes(pixels: Tensor) -> Tensor:
    """Pixels in -1..1 -> uint8 0..255, rounded."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
