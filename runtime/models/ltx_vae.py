"""LTX-Video's VAE (arXiv 2501.00103), 0.9.0 to 0.9.8: 8x32x32, patches of 4x4 pixels.

The encoder is causal, with copies of the first frame before it. The decoder may look ahead: then every convolution sees
one later frame, after the last one a copy of it. So frames come out some chunks after their latents went in, residual
connections hold back what their convolutions have not reached yet, and memory is that of the look-ahead.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import norm_silu
from ..request import quote
from .frames import Triple, fold, mean_of_groups, unfold, unfold_by_channel
from .layers import LayerNorm, Linear, Stream, parameter
from .transformer import timestep_features
from .vae import Conv3d, VideoVAE, conv2d, held, is_first

OLD, NEW = "LTXVideoDownBlock3D", "LTXVideo095DownBlock3D"
DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 128,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": [OLD] * 4,
    "decoder_block_out_channels": [128, 256, 512, 512],
    "layers_per_block": [4, 3, 3, 3, 4],
    "decoder_layers_per_block": [4, 3, 3, 3, 4],
    "spatio_temporal_scaling": [True, True, True, False],
    "decoder_spatio_temporal_scaling": [True, True, True, False],
    "decoder_inject_noise": [False] * 5,
    "downsample_type": ["conv"] * 4,
    "upsample_residual": [False] * 4,
    "upsample_factor": [1] * 4,
    "timestep_conditioning": False,
    "patch_size": 4,
    "resnet_norm_eps": 1e-6,
    "decoder_causal": False,
}
EPS = 1e-8
SIDES = {"conv": (2, 2, 2), "spatial": (1, 2, 2), "temporal": (2, 1, 1), "spatiotemporal": (2, 2, 2)}
FREQUENCIES = 256
TIMESTEP, NOISE = "timestep", "noise"  # in a stream: the timestep [1], scaled; the generator of injected noise

Affine = tuple[Tensor, Tensor]  # what a norm is multiplied by, and what is added to it, [channels] each


def _conv(cin: int, cout: int, ahead: int = 0, stride: Triple = (1, 1, 1)) -> Conv3d:
    return Conv3d(cin, cout, (3, 3, 3), stride, repeat=True, ahead=ahead)


def _norm(x: Tensor, affine: Affine | None = None) -> Tensor:
    weight, bias = affine or (None, None)
    return norm_silu(x, weight, bias, eps=EPS)


class Embedding(nn.Module):
    """The timestep of a stream as `parts` vectors [channels]."""

    def __init__(self, parts: int, channels: int) -> None:
        super().__init__()
        self.parts = parts
        self.fc1, self.fc2 = Linear(FREQUENCIES, parts * channels), Linear(parts * channels, parts * channels)

    def forward(self, stream: Stream) -> Tensor:
        """[parts, channels], computed once a stream."""
        if self not in stream:
            features = timestep_features(stream[TIMESTEP], FREQUENCIES).to(self.fc1.weight.dtype)
            stream[self] = self.fc2(self.fc1(features, activation="silu")).view(self.parts, -1)
        return stream[self]


def affines(table: Tensor, embedded: Tensor) -> list[Affine]:
    """Shifts and scales [2 n, channels], of a table and of the timestep -> n times what to multiply by and to add."""
    vectors = (table + embedded).unbind(0)
    return [(1 + scale, shift) for shift, scale in zip(vectors[::2], vectors[1::2], strict=True)]


class Res(nn.Module):
    """x, or a projection of it, plus two convolutions, each after a norm that the timestep may modulate."""

    def __init__(self, cin: int, cout: int, eps: float, *, ahead: int, noise: bool = False, timestep: bool = False):
        super().__init__()
        self.conv1, self.conv2 = _conv(cin, cout, ahead), _conv(cout, cout, ahead)
        self.norm3 = None if cin == cout else LayerNorm(cin, eps)
        self.shortcut = None if cin == cout else conv2d(cin, cout, 1)
        self.noise = parameter(2, cin) if noise else None
        self.table = parameter(4, cin) if timestep else None

    def forward(self, x: Tensor, stream: Stream, embedded: Tensor | None = None) -> Tensor:
        first = second = None
        if self.table is not None and embedded is not None:
            first, second = affines(self.table, embedded)
        h = self.noisy(self.conv1(_norm(x, first), stream), 0, stream)
        h = self.noisy(self.conv2(_norm(h, second), stream), 1, stream)
        x = held(self, x, len(h), stream)
        if self.norm3 is not None and self.shortcut is not None:
            x = self.shortcut(self.norm3(x.flatten(0, 2)).view(x.shape), stream)
        return h + x

    def noisy(self, h: Tensor, which: int, stream: Stream) -> Tensor:
        """h plus noise of each pixel, the same in all frames and scaled in each channel."""
        if self.noise is None:
            return h
        if (self, which) not in stream:
            noise = torch.randn(h.shape[1:3], generator=stream[NOISE], dtype=h.dtype).to(h.device)
            stream[self, which] = noise[..., None] * self.noise[which]
        return h + stream[self, which]


class Down(nn.Module):
    """Half the sides by moving pixels to channels, plus means of the pixels."""

    def __init__(self, cin: int, cout: int, sides: Triple) -> None:
        super().__init__()
        self.sides, self.channels = sides, cout
        self.conv = _conv(cin, cout // math.prod(sides))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        if is_first(self, stream):
            x = torch.cat((x[: self.sides[0] - 1], x))
        means = mean_of_groups(unfold_by_channel(x, self.sides), self.channels)
        return unfold_by_channel(self.conv(x, stream), self.sides) + means


class Up(nn.Module):
    """Twice the sides by moving channels to pixels; the first frame stays one."""

    def __init__(self, cin: int, *, ahead: int, residual: bool, factor: int) -> None:
        super().__init__()
        self.repeats = 8 // factor if residual else 0
        self.conv = _conv(cin, cin * 8 // factor, ahead)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        h = self.conv(x, stream)
        frames, h = len(h), fold(h, (2, 2, 2))
        if self.repeats:
            x = held(self, x, frames, stream)
            x = fold(x.unflatten(-1, (-1, 8)).transpose(-1, -2).flatten(-2), (2, 2, 2))
            h = h + x.repeat(1, 1, 1, self.repeats)
        return h[1:] if frames and is_first(self, stream) else h


class DownStage(nn.Module):
    """Residual blocks, what changes the size, and a block that changes the width."""

    def __init__(self, cin: int, cout: int, depth: int, config: dict[str, Any], scaling: str | None) -> None:
        super().__init__()
        eps = config["resnet_norm_eps"]
        self.blocks = nn.ModuleList(Res(cin, cin, eps, ahead=0) for _ in range(depth))
        down = None if scaling in (None, "conv") else Down(cin, cout, SIDES[scaling])
        self.resize = _conv(cin, cin, stride=(2, 2, 2)) if scaling == "conv" else down
        self.exit = Res(cin, cout, eps, ahead=0) if is_old(config) and cin != cout else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        for block in self.blocks:
            x = block(x, stream)
        if self.resize is not None:
            x = self.resize(x, stream)
        return x if self.exit is None else self.exit(x, stream)


class UpStage(nn.Module):
    """A block that changes the width, what changes the size, and residual blocks with one embedding of the timestep."""

    def __init__(
        self, cin: int, cout: int, depth: int, config: dict[str, Any], noise: bool, up: Up | None = None
    ) -> None:
        super().__init__()
        eps, timestep, ahead = (
            config["resnet_norm_eps"],
            config["timestep_conditioning"],
            int(not config["decoder_causal"]),
        )
        if timestep and cin != cout:
            raise ValueError("timestep_conditioning is True; allowed with blocks that change the width alone: False")
        self.entry = None if cin == cout else Res(cin, cout, eps, ahead=ahead, noise=noise)
        self.embed = Embedding(4, cout) if timestep else None
        self.resize = up
        options = {"ahead": ahead, "noise": noise, "timestep": timestep}
        self.blocks = nn.ModuleList(Res(cout, cout, eps, **options) for _ in range(depth))

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        if self.entry is not None:
            x = self.entry(x, stream)
        if self.resize is not None:
            x = self.resize(x, stream)
        embedded = None if self.embed is None else self.embed(stream)
        for block in self.blocks:
            x = block(x, stream, embedded)
        return x


class Encoder(nn.Module):
    """Pixels, one frame and then groups -> the mean of each latent and one log variance for all its channels."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.patch, widths, eps = config["patch_size"], list(config["block_out_channels"]), config["resnet_norm_eps"]
        if is_old(config):
            widths.append(widths[-1])
        self.conv_in = _conv(config["in_channels"] * self.patch**2, widths[0])
        stages = zip(pairwise(widths), config["layers_per_block"], scalings(config), strict=False)
        self.stages = nn.ModuleList(DownStage(*ends, depth, config, scaling) for ends, depth, scaling in stages)
        width, depth = widths[-1], config["layers_per_block"][-1]
        self.middle = nn.ModuleList(Res(width, width, eps, ahead=0) for _ in range(depth))
        self.conv_out = _conv(widths[-1], config["latent_channels"] + 1)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv_in(unfold(x, (1, self.patch, self.patch)), stream)
        for part in [*self.stages, *self.middle]:
            x = part(x, stream)
        return self.conv_out(_norm(x), stream)


def is_old(config: dict[str, Any]) -> bool:
    """Whether the encoder is that of 0.9.0 and 0.9.1. ValueError for one that is neither that nor the later one."""
    kinds = config["down_block_types"]
    if set(kinds) not in ({OLD}, {NEW}):
        raise ValueError(f"down_block_types is {kinds}; allowed: all {OLD} or all {NEW}")
    return OLD in kinds


def scalings(config: dict[str, Any]) -> list[str | None]:
    """How each stage of the encoder changes the size."""
    scales = config["spatio_temporal_scaling"]
    kinds = ["conv"] * len(scales) if is_old(config) else config["downsample_type"]
    return [kind if scale else None for kind, scale in zip(kinds, scales, strict=True)]


class Decoder(nn.Module):
    """Latents -> pixels, as far as they can be known."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.patch, ahead = config["patch_size"], int(not config["decoder_causal"])
        depth, *depths = config["decoder_layers_per_block"][::-1]
        noise, *noises = config["decoder_inject_noise"][::-1]
        width = config["decoder_block_out_channels"][-1]
        self.conv_in = _conv(config["latent_channels"], width, ahead)
        self.stages = nn.ModuleList([UpStage(width, width, depth, config, noise)])
        for i, depth in enumerate(depths):
            factor = config["upsample_factor"][-1 - i]
            entering, width = width // factor, config["decoder_block_out_channels"][-1 - i] // factor
            up = Up(width * factor, ahead=ahead, residual=config["upsample_residual"][-1 - i], factor=factor)
            scales = config["decoder_spatio_temporal_scaling"][-1 - i]
            self.stages.append(UpStage(entering, width, depth, config, noises[i], up if scales else None))
        self.conv_out = _conv(width, config["out_channels"] * self.patch**2, ahead)
        timestep = config["timestep_conditioning"]
        self.embed = Embedding(2, width) if timestep else None
        self.table = parameter(2, width) if timestep else None
        self.timestep_scale = parameter(1) if timestep else None

    def forward(self, z: Tensor, stream: Stream) -> Tensor:
        x = self.conv_in(z, stream)
        for stage in self.stages:
            x = stage(x, stream)
        affine = None
        if self.embed is not None and self.table is not None:
            affine = affines(self.table, self.embed(stream))[0]
        return fold(self.conv_out(_norm(x, affine), stream), (1, self.patch, self.patch))


class LTXVAE(VideoVAE):
    """Both halves of an `AutoencoderKLLTXVideo`."""

    decoder: Decoder

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        config = {**DEFAULTS, **config}
        for name, only in (("encoder_causal", True), ("patch_size_t", 1)):
            if config.get(name, only) != only:
                raise ValueError(f"{name} is {config[name]}; allowed: {only}")
        self.latent_channels = config["latent_channels"]
        self.looks_ahead = not config["decoder_causal"]
        sides = [SIDES[scaling] for scaling in scalings(config) if scaling is not None]
        self.group = math.prod(side[0] for side in sides)
        self.factor = config["patch_size"] * math.prod(side[1] for side in sides)
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.latents_mean, self.latents_std = (parameter(self.latent_channels, wide=True) for _ in range(2))

    def begin(self, timestep: float = 0.0, seed: int = 0) -> Stream:
        """timestep: how noisy the latents are said to be, 0 to 1; seed: of the noise that some versions inject, drawn
        as PyTorch's CPU generator draws it."""
        stream: Stream = {NOISE: torch.Generator().manual_seed(seed)}
        scale = self.decoder.timestep_scale
        if scale is not None:
            stream[TIMESTEP] = scale.float() * timestep
        elif timestep:
            raise ValueError(f"this VAE takes no timestep, got {quote(timestep)}")
        return stream

    def normalization(self, config: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return self.latents_mean, self.latents_std / config.get("scaling_factor", 1.0)
