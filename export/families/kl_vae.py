"""The VAE of image models."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...runtime.models.kl_vae import DEFAULTS
from ..entry import Entry
from ..staged import Names, attention, half, quant, resized

FUSED = ("queries, keys and values of each attention, in one matrix",)
RENAMED = (  # as checkpoints of 2022 have them
    (r"\.attentions\.0\.query\.", ".attentions.0.to_q."),
    (r"\.attentions\.0\.key\.", ".attentions.0.to_k."),
    (r"\.attentions\.0\.value\.", ".attentions.0.to_v."),
    (r"\.attentions\.0\.proj_attn\.", ".attentions.0.to_out.0."),
)


def entries(config: dict[str, Any]) -> list[Entry]:
    """Which tensors of an `AutoencoderKL` become which of `runtime.models.kl_vae.ImageVAE`."""
    config = {**DEFAULTS, **config}
    names, stages = Names(norm_out="conv_norm_out"), list(range(len(config["block_out_channels"]) - 1))
    attends = config["mid_block_add_attention"]
    return [
        *half("encoder", names, config),
        *(attention("encoder") if attends else ()),
        *resized("encoder.stages.{}.resize", "encoder.down_blocks.{}.downsamplers.0.conv", stages),
        *half("decoder", names, config),
        *(attention("decoder") if attends else ()),
        *resized("decoder.stages.{}.resize", "decoder.up_blocks.{}.upsamplers.0.conv", stages),
        *quant(config),
    ]


def decode(model: Any, latent: Tensor) -> Tensor:
    """diffusers' own, frame by frame: [C, T, H, W] -> [3, T, height, width]."""
    frames: Tensor = model.decode(latent.movedim(1, 0)).sample
    return frames.movedim(0, 1)


def encode(model: Any, video: Tensor) -> Tensor:
    """The inverse of `decode`."""
    latents: Tensor = model.encode(video.movedim(1, 0)).latent_dist.mode()
    return latents.movedim(0, 1)
