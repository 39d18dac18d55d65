"""CogVideoX's VAE (arXiv 2408.06072): 4x8x8. Its group norms span the frames of a chunk, so chunks are diffusers' own.

They are of 2 latent frames (8 pixel frames), the first of one more where the number is odd. An odd number n stands for
1 + 4 (n - 1) frames, an even one for 4 n: there is no frame that stands alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import norm_silu
from . import staged_vae
from .frames import enlarge
from .layers import Linear, Stream
from .staged_vae import Parts, ScaledVAE, settings
from .vae import AFTER, Conv3d, GroupNorm, UpConv3d, conv2d

DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["CogVideoXDownBlock3D"] * 4,
    "up_block_types": ["CogVideoXUpBlock3D"] * 4,
    "block_out_channels": [128, 256, 256, 512],
    "latent_channels": 16,
    "layers_per_block": 3,
    "act_fn": "silu",
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "temporal_compression_ratio": 4,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
LATENT = "latent"  # in a stream: the chunk's latents
LATENT_CHUNK, PIXEL_CHUNK = 2, 8


def halvings(config: dict[str, Any]) -> int:
    """How many stages change the frame rate."""
    return int(config["temporal_compression_ratio"]).bit_length() - 1


def _conv(cin: int, cout: int) -> Conv3d:
    return Conv3d(cin, cout, (3, 3, 3), repeat=True)


class Down(nn.Module):
    """Half the height and width and, with `time`, half the frames: means of pairs."""

    def __init__(self, channels: int, time: bool) -> None:
        super().__init__()
        self.time, self.conv = time, conv2d(channels, channels, stride=2, padding=AFTER)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        if self.time:
            alone = len(x) % 2  # the first of an odd number of frames
            pairs = x[alone:]
            x = torch.cat((x[:alone], (pairs[::2] + pairs[1::2]) / 2))
        return self.conv(x, stream)


class Up(nn.Module):
    """Twice the height and width and, with `time`, every frame twice."""

    def __init__(self, channels: int, time: bool) -> None:
        super().__init__()
        self.time, self.conv = time, UpConv3d(channels, channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv(x, stream)  # of each frame alone, so equal frames need it once
        if not self.time or len(x) == 1:
            return x
        alone = len(x) % 2
        return torch.cat((x[:alone], enlarge(x[alone:], (2, 1, 1))))


class SpatialNorm(nn.Module):
    """Group norm, then each pixel's factor and term, linear in its latent (arXiv 2209.09002), then SiLU."""

    def __init__(self, channels: int, groups: int, latent: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, groups, across=True, activation=False)
        self.condition = Linear(latent, 2 * channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        factors = self.condition(stream[LATENT])
        normed = self.norm(x, stream)
        alone = int(len(x) > 1 and len(x) % 2)  # the first frame's latent is the first of all
        for pixels, latents in ((normed[:alone], factors[:alone]), (normed[alone:], factors[alone:])):
            if len(pixels):
                _affine(pixels, latents)
        return norm_silu(normed, norm="none")


def _affine(pixels: Tensor, latents: Tensor) -> None:
    """pixels [t, h, w, c] = pixels * factor + term, in place, of the nearest of latents [t', h', w', 2 c]."""
    t, h, w = latents.shape[:3]
    blocks = pixels.view(t, len(pixels) // t, h, pixels.shape[1] // h, w, pixels.shape[2] // w, -1)
    factor, term = latents[:, None, :, None, :, None].chunk(2, -1)
    blocks.mul_(factor).add_(term)


class Decoder(staged_vae.Decoder):
    """Latents -> pixels; the norms see the latents."""

    def forward(self, z: Tensor, stream: Stream) -> Tensor:
        stream[LATENT] = z
        return super().forward(z, stream)


class CogVideoXVAE(ScaledVAE):
    """Both halves of an `AutoencoderKLCogVideoX`."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        config = settings(config, DEFAULTS)
        for name in ("use_quant_conv", "use_post_quant_conv"):
            if config[name]:
                raise ValueError(f"{name} is {config[name]}; allowed: False")
        self.latent_channels = config["latent_channels"]
        self.factor = 2 ** (len(config["block_out_channels"]) - 1)
        self.group = 2 ** halvings(config)
        self.encoder = staged_vae.Encoder(_parts(config, encodes=True), config)
        self.decoder = Decoder(_parts(config, encodes=False), config)

    def latent_chunks(self, frames: int) -> list[slice]:
        return _chunks(frames, LATENT_CHUNK)

    def pixel_chunks(self, frames: int) -> list[slice]:
        return _chunks(frames, PIXEL_CHUNK)


def _chunks(frames: int, size: int) -> list[slice]:
    """Chunks of `size` frames, the first with what is left over."""
    first = size + frames % size if frames > size else frames
    return [slice(0, first), *(slice(i, i + size) for i in range(first, frames, size))]


def _parts(config: dict[str, Any], encodes: bool) -> Parts:
    groups, last = config["norm_num_groups"], len(config["block_out_channels"]) - 1

    def norm(channels: int, eps: float = config["norm_eps"]) -> nn.Module:
        if encodes:
            return GroupNorm(channels, groups, across=True, eps=eps)
        return SpatialNorm(channels, groups, config["latent_channels"])

    def norm_out(channels: int) -> nn.Module:
        return norm(channels, eps=1e-6)  # whatever the config says

    def resize(stage: int, channels: int) -> nn.Module | None:
        if stage == last:
            return None
        return (Down if encodes else Up)(channels, stage < halvings(config))

    return Parts(norm=norm, norm_out=norm_out, conv=_conv, attention=lambda channels: None, resize=resize)
