"""The stated shape of each family of transformers, as data: what `packdit bench peers` and `make gpu-check` run.

A fraction of the published model: its head dim and the ratios of its widths, with about 384 features and a few blocks.
Configs are those of diffusers' classes, complete, so that the packed models can be made without diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..runtime.pack import Grid

# Grids of tokens (t, y, x). The mix is of images and clips of 16 to 256 tokens, each size twice.
CLIP: Grid = (5, 8, 8)
MIX: tuple[Grid, ...] = ((1, 4, 4), (1, 8, 8), (4, 8, 8), (1, 4, 4), (2, 8, 8), (1, 8, 8), (4, 8, 8), (2, 8, 8))
TEXT_STATES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """config: of diffusers' class; clip: the one clip; mix: the mixed pack."""

    config: Mapping[str, Any]
    clip: Grid = CLIP
    mix: tuple[Grid, ...] = MIX


FAMILIES = {
    "WanTransformer3DModel": Family(
        config={
            "patch_size": (1, 2, 2),
            "num_attention_heads": 3,
            "attention_head_dim": 128,
            "in_channels": 16,
            "out_channels": 16,
            "text_dim": 512,
            "freq_dim": 256,
            "ffn_dim": 2240,
            "num_layers": 6,
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "eps": 1e-6,
            "image_dim": None,
            "added_kv_proj_dim": None,
            "rope_max_seq_len": 1024,
            "pos_embed_seq_len": None,
        }
    ),
}
