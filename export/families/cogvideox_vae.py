"""CogVideoX's VAE."""

from __future__ import annotations

from typing import Any

from ...runtime.models.cogvideox_vae import DEFAULTS
from ..entry import Entry
from ..staged import Names, half, resized
from ..vae_makes import affine, pixel_conv

FUSED = ("the factor and the term of each norm in the decoder, in one matrix",)


def entries(config: dict[str, Any]) -> list[Entry]:
    """Which tensors of an `AutoencoderKLCogVideoX` become which of `runtime.models.cogvideox_vae.CogVideoXVAE`."""
    config, names = {**DEFAULTS, **config}, Names(conv=".conv")
    stages = list(range(len(config["block_out_channels"]) - 1))
    return [
        *half("encoder", names, config),
        *resized("encoder.stages.{}.resize.conv", "encoder.down_blocks.{}.downsamplers.0.conv", stages),
        *half("decoder", Names(conv=".conv", norm=_norm), config),
        *resized("decoder.stages.{}.resize.conv", "decoder.up_blocks.{}.upsamplers.0.conv", stages),
    ]


def _norm(target: str, source: str) -> list[Entry]:
    return [
        *affine(f"{target}.norm", f"{source}.norm_layer"),
        *pixel_conv(f"{target}.condition", f"{source}.conv_y.conv", f"{source}.conv_b.conv"),
    ]
