"""HunyuanVideo's VAE (arXiv 2412.03603): 4x8x8. Its norms and attention span frames, so chunks are diffusers' own.

Chunks begin every 3 latent frames (12 pixel frames) and are of 5 (17), each by itself: it repeats its first frame, of
which only the very first chunk gives anything. What two chunks share is blended.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from . import staged_vae
from .frames import Triple, enlarge
from .layers import Stream
from .staged_vae import Parts, ScaledVAE, settings
from .vae import Attention, Conv3d, GroupNorm, UpConv3d

DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 16,
    "down_block_types": ["HunyuanVideoDownBlock3D"] * 4,
    "up_block_types": ["HunyuanVideoUpBlock3D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "spatial_compression_ratio": 8,
    "temporal_compression_ratio": 4,
    "mid_block_add_attention": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
}
GROUP = 4
STEP, OVERLAP = 3, 1  # latent frames from chunk to chunk, and that two share beside the first
TAIL = "tail"  # in a stream: the end of the last chunk, to be blended


def sides_of(stage: int, config: dict[str, Any]) -> Triple:
    """By how much a stage of either half changes the size."""
    count = len(config["block_out_channels"])
    space = 2 if stage < int(config["spatial_compression_ratio"]).bit_length() - 1 else 1
    time = 2 if count - 3 <= stage < count - 1 else 1
    return time, space, space


def _conv(cin: int, cout: int, stride: Triple = (1, 1, 1)) -> Conv3d:
    return Conv3d(cin, cout, (3, 3, 3), stride, repeat=True, edges="nearest")


class Up(nn.Module):
    """Larger by nearest-neighbour interpolation, but the first frame in space only; then a convolution."""

    def __init__(self, channels: int, sides: Triple) -> None:
        super().__init__()
        self.time = sides[0]
        wide = partial(UpConv3d, channels, channels, 3, repeat=True, edges="nearest")
        self.conv = wide() if sides[1] > 1 else _conv(channels, channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        if self.time > 1:
            x = torch.cat((x[:1], enlarge(x[1:], (self.time, 1, 1))))
        return self.conv(x, stream)


def stitched(chunk: Tensor, stream: Stream, group: int) -> Tensor:
    """What is new in a chunk [t, h, w, c] and not to be blended with a later one; `group` frames are a latent's."""
    first = TAIL not in stream
    if not first:
        chunk = chunk[1:]
        shared = min(len(stream[TAIL]), len(chunk))
        rise = torch.arange(shared, dtype=torch.float32, device=chunk.device).view(-1, 1, 1, 1) / max(shared, 1)
        rise = rise.to(chunk.dtype)
        head = stream[TAIL][len(stream[TAIL]) - shared :] * (1 - rise) + chunk[:shared] * rise
        chunk = torch.cat((head, chunk[shared:]))
    stream[TAIL] = chunk[max(len(chunk) - OVERLAP * group, 0) :].clone()
    return chunk[: STEP * group + first]


class Encoder(staged_vae.Encoder):
    """Pixels -> mean and log variance of the latents."""

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return stitched(super().forward(x, {}), stream, 1)


class Decoder(staged_vae.Decoder):
    """Latents -> pixels."""

    def forward(self, z: Tensor, stream: Stream) -> Tensor:
        return stitched(super().forward(z, {}), stream, GROUP)


class HunyuanVideoVAE(ScaledVAE):
    """Both halves of an `AutoencoderKLHunyuanVideo`."""

    group = GROUP

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        config = settings(config, DEFAULTS)
        if config["temporal_compression_ratio"] != GROUP:
            raise ValueError(f"temporal_compression_ratio is {config['temporal_compression_ratio']}; allowed: {GROUP}")
        self.latent_channels = config["latent_channels"]
        self.factor = config["spatial_compression_ratio"]
        self.encoder = Encoder(_parts(config, encodes=True), config)
        self.decoder = Decoder(_parts(config, encodes=False), config)

    def latent_chunks(self, frames: int) -> list[slice]:
        return _chunks(frames, 1)

    def pixel_chunks(self, frames: int) -> list[slice]:
        return _chunks(frames, GROUP)


def _chunks(frames: int, group: int) -> list[slice]:
    """Chunks of frames of which `group` are one latent frame's. A clip of less than a chunk is whole."""
    size = (STEP + OVERLAP) * group
    if frames <= size:
        return [slice(0, frames)]
    return [slice(i, min(i + size + 1, frames)) for i in range(0, frames - 1, STEP * group)]


def _parts(config: dict[str, Any], encodes: bool) -> Parts:
    def norm(channels: int, activation: bool = True) -> GroupNorm:
        return GroupNorm(channels, config["norm_num_groups"], across=True, activation=activation)

    def attention(channels: int) -> nn.Module | None:
        wanted = config["mid_block_add_attention"]
        return Attention(channels, norm(channels, activation=False), causal=True) if wanted else None

    def resize(stage: int, channels: int) -> nn.Module | None:
        sides = sides_of(stage, config)
        if max(sides) == 1:
            return None
        return _conv(channels, channels, sides) if encodes else Up(channels, sides)

    return Parts(norm=norm, norm_out=norm, conv=_conv, attention=attention, resize=resize)
