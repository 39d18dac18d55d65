"""Wan's VAE, 2.1 and 2.2."""

from __future__ import annotations

from typing import Any

from ...runtime.models.wan_vae import DEFAULTS
from ..entry import Entry
from ..vae_makes import axes, conv, inputs, outputs, pixel_conv, vector

FUSED: tuple[str, ...] = ()


def entries(config: dict[str, Any]) -> list[Entry]:
    """Which tensors of an `AutoencoderKLWan` become which of `runtime.models.wan_vae.WanVAE`."""
    config = {**DEFAULTS, **config}
    side = config["patch_size"] or 1
    patches = axes((side, side), (2, 1, 0))  # (c, x, y) in diffusers
    return [
        *conv("encoder.conv_in", "encoder.conv_in", inputs(patches)),
        *(entry for i in range(len(config["dim_mult"])) for entry in _down(i, config)),
        *_middle_and_norm("encoder"),
        *conv("encoder.conv_out", "encoder.conv_out"),
        *conv("encoder.quant", "quant_conv"),
        *conv("decoder.quant", "post_quant_conv"),
        *conv("decoder.conv_in", "decoder.conv_in"),
        *(entry for i in range(len(config["dim_mult"])) for entry in _up(i, config)),
        *_middle_and_norm("decoder"),
        *conv("decoder.conv_out", "decoder.conv_out", outputs(patches), patches),
    ]


def _down(i: int, config: dict[str, Any]) -> list[Entry]:
    depth, last, width = config["num_res_blocks"], i == len(config["dim_mult"]) - 1, [1, *config["dim_mult"]]
    if config["is_residual"]:
        blocks = [f"encoder.down_blocks.{i}.resnets.{j}" for j in range(depth)]
        halve = f"encoder.down_blocks.{i}.downsampler"
    else:  # one list of all blocks and of what halves
        blocks = [f"encoder.down_blocks.{i * (depth + 1) + j}" for j in range(depth)]
        halve = f"encoder.down_blocks.{i * (depth + 1) + depth}"
    return [
        *_blocks(f"encoder.stages.{i}", blocks, width[i] != width[i + 1]),
        *(() if last else _resample(f"encoder.stages.{i}", halve, config["temperal_downsample"][i])),
    ]


def _up(i: int, config: dict[str, Any]) -> list[Entry]:
    last, width = i == len(config["dim_mult"]) - 1, [config["dim_mult"][-1], *config["dim_mult"][::-1]]
    source, residual = f"decoder.up_blocks.{i}", config["is_residual"]
    entering = width[i] if residual or i == 0 else width[i] / 2
    blocks = [f"{source}.resnets.{j}" for j in range(config["num_res_blocks"] + 1)]
    double = f"{source}.upsampler" if residual else f"{source}.upsamplers.0"
    return [
        *_blocks(f"decoder.stages.{i}", blocks, entering != width[i + 1]),
        *(() if last else _resample(f"decoder.stages.{i}", double, config["temperal_downsample"][-1 - i])),
    ]


def _blocks(stage: str, sources: list[str], projects: bool) -> list[Entry]:
    """Residual blocks, the first of which may project its input."""
    blocks = (_block(f"{stage}.blocks.{j}", source, projects and j == 0) for j, source in enumerate(sources))
    return [entry for block in blocks for entry in block]


def _block(target: str, source: str, projects: bool = False) -> list[Entry]:
    return [
        *(Entry(f"{target}.norm{n}.weight", (f"{source}.norm{n}.gamma",), vector) for n in (1, 2)),
        *(entry for n in (1, 2) for entry in conv(f"{target}.conv{n}", f"{source}.conv{n}")),
        *(conv(f"{target}.shortcut", f"{source}.conv_shortcut") if projects else ()),
    ]


def _resample(stage: str, source: str, in_time: bool) -> list[Entry]:
    time = conv(f"{stage}.time", f"{source}.time_conv") if in_time else ()
    return [*conv(f"{stage}.space", f"{source}.resample.1"), *time]


def _middle_and_norm(half: str) -> list[Entry]:
    source, attention = f"{half}.mid_block", f"{half}.mid_block.attentions.0"
    return [
        *_block(f"{half}.middle.before", f"{source}.resnets.0"),
        Entry(f"{half}.middle.attention.norm.weight", (f"{attention}.norm.gamma",), vector),
        *pixel_conv(f"{half}.middle.attention.qkv", f"{attention}.to_qkv"),
        *pixel_conv(f"{half}.middle.attention.out", f"{attention}.proj"),
        *_block(f"{half}.middle.after", f"{source}.resnets.1"),
        Entry(f"{half}.norm_out.weight", (f"{half}.norm_out.gamma",), vector),
    ]
