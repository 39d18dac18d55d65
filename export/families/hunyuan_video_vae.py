"""HunyuanVideo's VAE."""

from __future__ import annotations

from typing import Any

from ...runtime.models.hunyuan_video_vae import DEFAULTS, sides_of
from ..entry import Entry
from ..staged import Names, attention, half, quant, resized

FUSED = ("queries, keys and values of each attention, in one matrix",)


def entries(config: dict[str, Any]) -> list[Entry]:
    """Which tensors of an `AutoencoderKLHunyuanVideo` become which of
    `runtime.models.hunyuan_video_vae.HunyuanVideoVAE`."""
    config = {**DEFAULTS, **config}
    names = Names(conv=".conv", shortcut=".conv", norm_out="conv_norm_out")
    stages = [i for i in range(len(config["block_out_channels"])) if max(sides_of(i, config)) > 1]
    attends = config["mid_block_add_attention"]
    return [
        *half("encoder", names, config),
        *(attention("encoder") if attends else ()),
        *resized("encoder.stages.{}.resize", "encoder.down_blocks.{}.downsamplers.0.conv.conv", stages),
        *half("decoder", names, config),
        *(attention("decoder") if attends else ()),
        *resized("decoder.stages.{}.resize.conv", "decoder.up_blocks.{}.upsamplers.0.conv.conv", stages),
        *quant(config),
    ]
