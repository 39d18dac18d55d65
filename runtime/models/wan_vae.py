"""Wan's VAE (arXiv 2503.20314): 2.1 (4x8x8, 16 channels), and 2.2 (4x16x16, 48 channels), whose stages have shortcuts
that only average or repeat.

Norms and attention are per frame and convolutions causal, so any chunks of whole groups give the whole clip's result.
A clip's first frame passes the layers that change the frame rate unchanged.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .frames import fold, mean_of_groups, unfold, unfold_by_channel
from .layers import Stream
from .vae import AFTER, Attention, Conv3d, Middle, Res, RmsNorm, UpConv3d, VideoVAE, conv2d, is_first

DEFAULTS: dict[str, Any] = {
    "base_dim": 96,
    "decoder_base_dim": None,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "is_residual": False,
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": None,
}
EPS = 1e-24  # diffusers divides by the norm itself, or by 1e-12 where that is larger


def _norm(channels: int, activation: bool = True) -> RmsNorm:
    return RmsNorm(channels, activation=activation, eps=EPS)


def _conv(cin: int, cout: int) -> Conv3d:
    return Conv3d(cin, cout, (3, 3, 3))


def _res(cin: int, cout: int) -> Res:
    return Res(cin, cout, _norm, _conv)


def _middle(channels: int) -> Middle:
    attention = Attention(channels, _norm(channels, activation=False))
    return Middle(_res(channels, channels), attention, _res(channels, channels))


class Down(nn.Module):
    """Residual blocks, then half the height and width (`space`) and half the frames (`time`)."""

    def __init__(self, cin: int, cout: int, depth: int, *, space: bool, time: bool, shortcut: bool) -> None:
        super().__init__()
        self.channels = cout if shortcut else None
        self.sides = (2 if time else 1, 2 if space else 1, 2 if space else 1)
        self.blocks = nn.ModuleList([_res(cout if i else cin, cout) for i in range(depth)])
        self.space = conv2d(cout, cout, stride=2, padding=AFTER) if space else None
        self.time = Conv3d(cout, cout, (3, 1, 1), (2, 1, 1)) if time else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        first, h = is_first(self, stream), x
        for block in self.blocks:
            h = block(h, stream)
        if self.space is not None:
            h = self.space(h, stream)
        if self.time is not None:
            h = self.halve(self.time, h, first, stream)
        if self.channels is None:
            return h
        if first and self.time is not None:
            x = torch.cat((torch.zeros_like(x[:1]), x))
        return h + mean_of_groups(unfold_by_channel(x, self.sides), self.channels)

    def halve(self, conv: Conv3d, x: Tensor, first: bool, stream: Stream) -> Tensor:
        """The first frame as it is; then each window begins with the frame before it."""
        if not first:
            return conv(x, stream)
        stream[conv] = x[:1].clone()
        return torch.cat((x[:1], conv(x[1:], stream))) if len(x) > 1 else x


class Up(nn.Module):
    """Residual blocks, then twice the frames (`time`) and twice the height and width (`space`)."""

    def __init__(self, cin: int, cout: int, depth: int, *, space: bool, time: bool, shortcut: bool) -> None:
        super().__init__()
        self.channels = cout if shortcut else None
        self.sides = (2 if time else 1, 2, 2)
        self.blocks = nn.ModuleList([_res(cout if i else cin, cout) for i in range(depth)])
        self.time = Conv3d(cout, 2 * cout, (3, 1, 1)) if time else None
        self.space = UpConv3d(cout, cout if shortcut else cout // 2) if space else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        first, h = is_first(self, stream), x
        for block in self.blocks:
            h = block(h, stream)
        if self.time is not None:
            h = self.twice(self.time, h, first, stream)
        if self.space is None:
            return h
        h = self.space(h, stream)
        return h if self.channels is None else h + self.repeated(x, self.channels, first)

    def twice(self, conv: Conv3d, x: Tensor, first: bool, stream: Stream) -> Tensor:
        """The first frame as it is; the convolution sees those after it."""
        if not first:
            return fold(conv(x, stream), (2, 1, 1))
        return torch.cat((x[:1], fold(conv(x[1:], stream), (2, 1, 1)))) if len(x) > 1 else x

    def repeated(self, x: Tensor, channels: int, first: bool) -> Tensor:
        """The block's input in the shape of its output: channels in diffusers' order (c, t, y, x), each repeated."""
        a, b, d = self.sides
        count = channels * a * b * d // x.shape[-1]
        x = x.repeat_interleave(count, -1).unflatten(-1, (channels, a * b * d)).transpose(-1, -2).flatten(-2)
        x = fold(x, self.sides)
        return x[a - 1 :] if first else x


class Encoder(nn.Module):
    """Pixels in whole groups -> mean and log variance of the latents."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        widths = [config["base_dim"] * n for n in (1, *config["dim_mult"])]
        depth, shortcut, latent = config["num_res_blocks"], config["is_residual"], 2 * config["z_dim"]
        self.patch = config["patch_size"] or 1
        times = [*config["temperal_downsample"], False]
        spaces = [True] * (len(widths) - 2) + [False]
        self.conv_in = _conv(config["in_channels"], widths[0])
        self.stages = nn.ModuleList(
            Down(cin, cout, depth, space=space, time=time, shortcut=shortcut)
            for (cin, cout), space, time in zip(pairwise(widths), spaces, times, strict=True)
        )
        self.middle = _middle(widths[-1])
        self.norm_out, self.conv_out = _norm(widths[-1]), _conv(widths[-1], latent)
        self.quant = conv2d(latent, latent, 1)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv_in(unfold(x, (1, self.patch, self.patch)), stream)
        for stage in self.stages:
            x = stage(x, stream)
        x = self.norm_out(self.middle(x, stream), stream)
        return self.quant(self.conv_out(x, stream), stream)


class Decoder(nn.Module):
    """Latents -> pixels: one frame of the first, then groups."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        base = config["decoder_base_dim"] or config["base_dim"]
        widths = [base * n for n in (config["dim_mult"][-1], *config["dim_mult"][::-1])]
        depth, shortcut, latent = config["num_res_blocks"] + 1, config["is_residual"], config["z_dim"]
        self.patch = config["patch_size"] or 1
        times = [*config["temperal_downsample"][::-1], False]
        self.quant = conv2d(latent, latent, 1)
        self.conv_in, self.middle = _conv(latent, widths[0]), _middle(widths[0])
        self.stages = nn.ModuleList()
        for i, ((cin, cout), time) in enumerate(zip(pairwise(widths), times, strict=True)):
            entering = cin // 2 if i and not shortcut else cin
            self.stages.append(Up(entering, cout, depth, space=i < len(times) - 1, time=time, shortcut=shortcut))
        self.norm_out, self.conv_out = _norm(widths[-1]), _conv(widths[-1], config["out_channels"])

    def forward(self, z: Tensor, stream: Stream) -> Tensor:
        x = self.middle(self.conv_in(self.quant(z, stream), stream), stream)
        for stage in self.stages:
            x = stage(x, stream)
        x = self.conv_out(self.norm_out(x, stream), stream)
        return fold(x, (1, self.patch, self.patch)).clamp(-1, 1)


class WanVAE(VideoVAE):
    """Both halves of an `AutoencoderKLWan`."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        config = {**DEFAULTS, **config}
        if config["attn_scales"]:
            raise ValueError(f"attn_scales is {config['attn_scales']}; allowed: none")
        self.latent_channels = config["z_dim"]
        self.factor = 2 ** (len(config["dim_mult"]) - 1) * (config["patch_size"] or 1)
        self.group = 2 ** sum(config["temperal_downsample"])
        self.encoder, self.decoder = Encoder(config), Decoder(config)
