"""Entries of the VAEs that `runtime.models.staged_vae` runs: what their names have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .entry import Entry
from .vae_makes import affine, collect, conv, pixel_conv


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """How a family spells what follows the common part of a name."""

    conv: str = ""  # of a convolution
    shortcut: str = ""  # of the convolution beside a residual block's two
    norm_out: str = "norm_out"
    norm: Callable[[str, str], list[Entry]] = affine  # the entries of a norm, of a target and a source


def half(name: str, names: Names, config: dict[str, Any]) -> list[Entry]:
    """All of the encoder or the decoder but the convolutions of one pixel at the latents."""
    widths = list(config["block_out_channels"])
    way, extra = ("down", 0) if name == "encoder" else ("up", 1)
    entering = [widths[0], *widths] if way == "down" else [widths[-1], *widths[::-1]]
    depth = config["layers_per_block"] + extra
    return [
        *conv(f"{name}.conv_in", f"{name}.conv_in{names.conv}"),
        *collect(
            _res(f"{name}.stages.{i}.blocks.{j}", f"{name}.{way}_blocks.{i}.resnets.{j}", names, j == 0 and cin != cout)
            for i, (cin, cout) in enumerate(pairwise(entering))
            for j in range(depth)
        ),
        *_res(f"{name}.middle.before", f"{name}.mid_block.resnets.0", names),
        *_res(f"{name}.middle.after", f"{name}.mid_block.resnets.1", names),
        *names.norm(f"{name}.norm_out", f"{name}.{names.norm_out}"),
        *conv(f"{name}.conv_out", f"{name}.conv_out{names.conv}"),
    ]


def _res(target: str, source: str, names: Names, projects: bool = False) -> list[Entry]:
    return [
        *collect(names.norm(f"{target}.norm{n}", f"{source}.norm{n}") for n in (1, 2)),
        *collect(conv(f"{target}.conv{n}", f"{source}.conv{n}{names.conv}") for n in (1, 2)),
        *(conv(f"{target}.shortcut", f"{source}.conv_shortcut{names.shortcut}") if projects else ()),
    ]


def attention(half: str) -> list[Entry]:
    """The attention in the middle; queries, keys and values in one matrix."""
    target, source = f"{half}.middle.attention", f"{half}.mid_block.attentions.0"
    return [
        *affine(f"{target}.norm", f"{source}.group_norm"),
        *pixel_conv(f"{target}.qkv", *(f"{source}.{part}" for part in ("to_q", "to_k", "to_v"))),
        *pixel_conv(f"{target}.out", f"{source}.to_out.0"),
    ]


def resized(target: str, source: str, stages: list[int]) -> list[Entry]:
    """The convolutions that change the size after these stages, in whose names {} stands for the stage."""
    return collect(conv(target.format(i), source.format(i)) for i in stages)


def quant(config: dict[str, Any]) -> list[Entry]:
    """The convolutions of one pixel after the encoder and before the decoder, where there are any."""
    return [
        *(conv("encoder.quant", "quant_conv") if config["use_quant_conv"] else ()),
        *(conv("decoder.quant", "post_quant_conv") if config["use_post_quant_conv"] else ()),
    ]
