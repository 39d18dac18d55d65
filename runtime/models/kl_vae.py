"""The VAE of image models (arXiv 2112.10752): Stable Diffusion, SD3, Flux, DiT, and, a frame at a time, Latte."""

from __future__ import annotations

from typing import Any

from torch import nn

from .staged_vae import Decoder, Encoder, Parts, ScaledVAE, settings
from .vae import AFTER, Attention, GroupNorm, UpConv3d, conv2d

DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}


def _parts(config: dict[str, Any], encodes: bool) -> Parts:
    groups, last = config["norm_num_groups"], len(config["block_out_channels"]) - 1

    def norm(channels: int) -> GroupNorm:
        return GroupNorm(channels, groups)

    def attention(channels: int) -> nn.Module | None:
        wanted = config["mid_block_add_attention"]
        return Attention(channels, GroupNorm(channels, groups, activation=False)) if wanted else None

    def resize(stage: int, channels: int) -> nn.Module | None:
        if stage == last:
            return None
        return conv2d(channels, channels, stride=2, padding=AFTER) if encodes else UpConv3d(channels, channels)

    return Parts(norm=norm, norm_out=norm, conv=conv2d, attention=attention, resize=resize)


class ImageVAE(ScaledVAE):
    """Both halves of an `AutoencoderKL`. A video is as many images."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        config = settings(config, DEFAULTS)
        self.latent_channels = config["latent_channels"]
        self.factor = 2 ** (len(config["block_out_channels"]) - 1)
        self.encoder = Encoder(_parts(config, encodes=True), config)
        self.decoder = Decoder(_parts(config, encodes=False), config)
