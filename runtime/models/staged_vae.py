"""VAEs of stages with group norms: of images, CogVideoX, HunyuanVideo. They differ in norms and convolutions.

Each stage is residual blocks, then, where the size changes, a layer that does that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..request import quote
from .layers import Stream
from .vae import Middle, Res, VideoVAE, conv2d


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a half is made of: a norm of so many channels, with SiLU, and the last one; a convolution; the attention in
    the middle, where there is any; what changes the size after a stage (its number and its channels), where something
    does."""

    norm: Callable[[int], nn.Module]
    norm_out: Callable[[int], nn.Module]
    conv: Callable[[int, int], nn.Module]
    attention: Callable[[int], nn.Module | None]
    resize: Callable[[int, int], nn.Module | None]

    def middle(self, channels: int) -> Middle:
        before, after = (Res(channels, channels, self.norm, self.conv) for _ in range(2))
        return Middle(before, self.attention(channels), after)

    def stages(self, widths: Sequence[int], depth: int) -> nn.ModuleList:
        """A stage between each width and the next."""
        return nn.ModuleList(Stage(self, i, *ends, depth) for i, ends in enumerate(pairwise(widths)))


class Stage(nn.Module):
    """Residual blocks, and what changes the size after them."""

    def __init__(self, parts: Parts, number: int, cin: int, cout: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Res(cout if i else cin, cout, parts.norm, parts.conv) for i in range(depth))
        self.resize = parts.resize(number, cout)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        for block in self.blocks:
            x = block(x, stream)
        return x if self.resize is None else self.resize(x, stream)


class Encoder(nn.Module):
    """Pixels -> mean and log variance of the latents."""

    def __init__(self, parts: Parts, config: dict[str, Any]) -> None:
        super().__init__()
        widths, latent = config["block_out_channels"], 2 * config["latent_channels"]
        self.conv_in = parts.conv(config["in_channels"], widths[0])
        self.stages = parts.stages([widths[0], *widths], config["layers_per_block"])
        self.middle = parts.middle(widths[-1])
        self.norm_out, self.conv_out = parts.norm_out(widths[-1]), parts.conv(widths[-1], latent)
        self.quant = conv2d(latent, latent, 1) if config["use_quant_conv"] else None

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv_in(x, stream)
        for stage in self.stages:
            x = stage(x, stream)
        x = self.conv_out(self.norm_out(self.middle(x, stream), stream), stream)
        return x if self.quant is None else self.quant(x, stream)


class Decoder(nn.Module):
    """Latents -> pixels."""

    def __init__(self, parts: Parts, config: dict[str, Any]) -> None:
        super().__init__()
        widths, latent = config["block_out_channels"][::-1], config["latent_channels"]
        self.quant = conv2d(latent, latent, 1) if config["use_post_quant_conv"] else None
        self.conv_in, self.middle = parts.conv(latent, widths[0]), parts.middle(widths[0])
        self.stages = parts.stages([widths[0], *widths], config["layers_per_block"] + 1)
        self.norm_out, self.conv_out = parts.norm_out(widths[-1]), parts.conv(widths[-1], config["out_channels"])

    def forward(self, z: Tensor, stream: Stream) -> Tensor:
        z = z if self.quant is None else self.quant(z, stream)
        x = self.middle(self.conv_in(z, stream), stream)
        for stage in self.stages:
            x = stage(x, stream)
        return self.conv_out(self.norm_out(x, stream), stream)


def settings(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The config with the family's defaults, whose types of blocks are the only ones. ValueError for others."""
    full = {**defaults, **config}
    for name in ("down_block_types", "up_block_types"):
        if list(full[name]) != defaults[name][:1] * len(full["block_out_channels"]):
            raise ValueError(f"{name} is {full[name]}; allowed: {defaults[name][0]} for each of block_out_channels")
    if full["act_fn"] not in ("silu", "swish"):
        raise ValueError(f"act_fn is {full['act_fn']!r}; allowed: silu")
    return full


class ScaledVAE(VideoVAE):
    """A VAE whose latents are scaled by one factor, after a shift, or after latents_mean and latents_std, if any."""

    def normalization(self, config: dict[str, Any]) -> tuple[Tensor, Tensor]:
        shift, factor = config.get("shift_factor") or 0.0, config.get("scaling_factor")
        if not isinstance(shift, int | float) or not isinstance(factor, int | float) or not factor:
            raise ValueError(f"the VAE's scaling_factor must be a number, got {quote(factor)} after {quote(shift)}")
        if config.get("latents_mean") is None:
            mean, std = torch.full((self.latent_channels,), float(shift)), torch.ones(self.latent_channels)
        else:
            mean, std = super().normalization(config)
        return mean, std / factor
