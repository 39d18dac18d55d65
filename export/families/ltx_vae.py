"""LTX-Video's VAE, 0.9.0 to 0.9.8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...runtime.models.ltx_vae import DEFAULTS, is_old, scalings
from ..entry import Entry
from ..makes import layer_norm, linear
from ..vae_makes import axes, collect, conv, inputs, outputs, vector

FUSED: tuple[str, ...] = ()


def entries(config: dict[str, Any]) -> list[Entry]:
    """Which tensors of an `AutoencoderKLLTXVideo` become which of `runtime.models.ltx_vae.LTXVAE`."""
    config = {**DEFAULTS, **config}
    side = config["patch_size"]
    patches = axes((1, side, side), (1, 3, 2, 0))  # (c, t, x, y) in diffusers
    head = [
        *linear("decoder.embed.fc1", "decoder.time_embedder.timestep_embedder.linear_1"),
        *linear("decoder.embed.fc2", "decoder.time_embedder.timestep_embedder.linear_2"),
        Entry("decoder.table", ("decoder.scale_shift_table",)),
        Entry("decoder.timestep_scale", ("decoder.timestep_scale_multiplier",), vector),
    ]
    return [
        *conv("encoder.conv_in", "encoder.conv_in.conv", inputs(patches)),
        *_down(config),
        *collect(
            _res(f"encoder.middle.{j}", f"encoder.mid_block.resnets.{j}") for j in range(config["layers_per_block"][-1])
        ),
        *conv("encoder.conv_out", "encoder.conv_out.conv"),
        *conv("decoder.conv_in", "decoder.conv_in.conv"),
        *_up(config),
        *conv("decoder.conv_out", "decoder.conv_out.conv", outputs(patches), patches),
        *(head if config["timestep_conditioning"] else ()),
        Entry("latents_mean", ("latents_mean",)),
        Entry("latents_std", ("latents_std",)),
    ]


def _down(config: dict[str, Any]) -> list[Entry]:
    widths, made = [*config["block_out_channels"], config["block_out_channels"][-1]], []
    for i, scaling in enumerate(scalings(config)):
        target, source = f"encoder.stages.{i}", f"encoder.down_blocks.{i}"
        blocks = range(config["layers_per_block"][i])
        made += collect(_res(f"{target}.blocks.{j}", f"{source}.resnets.{j}") for j in blocks)
        if scaling == "conv":
            made += conv(f"{target}.resize", f"{source}.downsamplers.0.conv")
        elif scaling is not None:
            made += conv(f"{target}.resize.conv", f"{source}.downsamplers.0.conv.conv")
        if is_old(config) and widths[i] != widths[i + 1]:
            made += _res(f"{target}.exit", f"{source}.conv_out", projects=True)
    return made


def _up(config: dict[str, Any]) -> list[Entry]:
    """The middle is the first stage."""
    widths, depths = config["decoder_block_out_channels"][::-1], config["decoder_layers_per_block"][::-1]
    noises, timestep, made, width = config["decoder_inject_noise"][::-1], config["timestep_conditioning"], [], widths[0]
    for i, depth in enumerate(depths):
        target, source = f"decoder.stages.{i}", f"decoder.up_blocks.{i - 1}" if i else "decoder.mid_block"
        if timestep:
            made += linear(f"{target}.embed.fc1", f"{source}.time_embedder.timestep_embedder.linear_1")
            made += linear(f"{target}.embed.fc2", f"{source}.time_embedder.timestep_embedder.linear_2")
        if i:
            factor = config["upsample_factor"][-i]
            entering, width = width // factor, widths[i - 1] // factor
            if entering != width:
                made += _res(f"{target}.entry", f"{source}.conv_in", projects=True, noise=noises[i])
            if config["decoder_spatio_temporal_scaling"][-i]:
                order = axes((2, 2, 2), (1, 2, 3, 0))  # (c, t, y, x) in diffusers
                made += conv(f"{target}.resize.conv", f"{source}.upsamplers.0.conv.conv", outputs(order), order)
        for j in range(depth):
            names = f"{target}.blocks.{j}", f"{source}.resnets.{j}"
            made += _res(*names, noise=noises[i], timestep=timestep)
    return made


def _res(
    target: str, source: str, *, projects: bool = False, noise: bool = False, timestep: bool = False
) -> list[Entry]:
    scales = f"{source}.per_channel_scale1", f"{source}.per_channel_scale2"
    return [
        *collect(conv(f"{target}.conv{n}", f"{source}.conv{n}.conv") for n in (1, 2)),
        *(layer_norm(f"{target}.norm3", f"{source}.norm3") if projects else ()),
        *(conv(f"{target}.shortcut", f"{source}.conv_shortcut.conv") if projects else ()),
        *([Entry(f"{target}.noise", scales, _stacked)] if noise else ()),
        *([Entry(f"{target}.table", (f"{source}.scale_shift_table",))] if timestep else ()),
    ]


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """[n, 1, 1] each -> [2, n]."""
    return torch.stack([t.flatten() for t in tensors])


def decode(model: Any, latent: Tensor) -> Tensor:
    """diffusers' own, with the timestep and the noise that the runtime has where it is told nothing."""
    timestep = torch.zeros(1, dtype=latent.dtype) if model.config.timestep_conditioning else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        video: Tensor = model.decode(latent[None], timestep).sample[0]
    return video
