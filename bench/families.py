"""The stated shape of each family of transformers, as data: what `packdit bench peers` and `make gpu-check` run.

A fraction of the published model: its head dim and the ratios of its widths, with about 384 features and a few blocks.
Configs have all that the packed models read, so that those can be made without diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..runtime.pack import Grid

# Grids of tokens (t, y, x). A mix is of images and clips of 16 to 256 tokens, each size twice.
CLIP: Grid = (5, 8, 8)
MIX: tuple[Grid, ...] = 2 * ((1, 4, 4), (1, 8, 8), (4, 8, 8), (2, 8, 8))
IMAGE: Grid = (1, 16, 20)
IMAGES: tuple[Grid, ...] = 2 * ((1, 4, 4), (1, 8, 8), (1, 16, 16), (1, 8, 16))
SQUARE: Grid = (1, 16, 16)
SQUARES: tuple[Grid, ...] = 2 * ((1, 4, 4), (1, 8, 8), (1, 16, 16), (1, 12, 12))
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
            "pos_embed_seq_len": None,
        }
    ),
    "DiTTransformer2DModel": Family(
        config={
            "num_attention_heads": 6,
            "attention_head_dim": 72,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 8,
            "sample_size": 32,
            "patch_size": 2,
            "activation_fn": "gelu-approximate",
            "attention_bias": True,
            "num_embeds_ada_norm": 1000,
            "norm_type": "ada_norm_zero",
            "norm_elementwise_affine": False,
            "norm_eps": 1e-5,
        },
        clip=SQUARE,
        mix=SQUARES,
    ),
    "LatteTransformer3DModel": Family(
        config={
            "num_attention_heads": 6,
            "attention_head_dim": 72,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 4,
            "cross_attention_dim": 432,
            "attention_bias": True,
            "sample_size": 32,
            "patch_size": 2,
            "activation_fn": "gelu-approximate",
            "num_embeds_ada_norm": 1000,
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "norm_eps": 1e-6,
            "caption_channels": 512,
            "video_length": 5,
        },
        mix=2 * ((1, 4, 4), (1, 8, 8), (5, 4, 4), (5, 6, 8)),
    ),
    "CogVideoXTransformer3DModel": Family(
        config={
            "num_attention_heads": 6,
            "attention_head_dim": 64,
            "in_channels": 16,
            "out_channels": 16,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "time_embed_dim": 512,
            "ofs_embed_dim": None,
            "text_embed_dim": 512,
            "num_layers": 6,
            "attention_bias": True,
            "sample_width": 32,
            "sample_height": 32,
            "sample_frames": 17,
            "patch_size": 2,
            "patch_size_t": None,
            "temporal_compression_ratio": 4,
            "max_text_seq_length": TEXT_STATES,
            "activation_fn": "gelu-approximate",
            "timestep_activation_fn": "silu",
            "norm_elementwise_affine": True,
            "norm_eps": 1e-5,
            "spatial_interpolation_scale": 1.875,
            "temporal_interpolation_scale": 1.0,
            "use_rotary_positional_embeddings": True,
            "use_learned_positional_embeddings": False,
            "patch_bias": True,
        }
    ),
    "LTXVideoTransformer3DModel": Family(
        config={
            "in_channels": 128,
            "out_channels": 128,
            "patch_size": 1,
            "patch_size_t": 1,
            "num_attention_heads": 6,
            "attention_head_dim": 64,
            "cross_attention_dim": 384,
            "num_layers": 6,
            "activation_fn": "gelu-approximate",
            "qk_norm": "rms_norm_across_heads",
            "norm_elementwise_affine": False,
            "norm_eps": 1e-6,
            "caption_channels": 512,
            "attention_bias": True,
            "attention_out_bias": True,
        }
    ),
    "HunyuanVideoTransformer3DModel": Family(
        config={
            "in_channels": 16,
            "out_channels": 16,
            "num_attention_heads": 3,
            "attention_head_dim": 128,
            "num_layers": 2,
            "num_single_layers": 4,
            "num_refiner_layers": 1,
            "mlp_ratio": 4.0,
            "patch_size": 2,
            "patch_size_t": 1,
            "qk_norm": "rms_norm",
            "guidance_embeds": True,
            "text_embed_dim": 512,
            "pooled_projection_dim": 256,
            "rope_theta": 256.0,
            "rope_axes_dim": (16, 56, 56),
            "image_condition_type": None,
        }
    ),
    "SD3Transformer2DModel": Family(
        config={
            "sample_size": 64,
            "patch_size": 2,
            "in_channels": 16,
            "num_layers": 6,
            "attention_head_dim": 64,
            "num_attention_heads": 6,
            "joint_attention_dim": 512,
            "caption_projection_dim": 384,
            "pooled_projection_dim": 256,
            "out_channels": 16,
            "pos_embed_max_size": 48,
            "dual_attention_layers": (),
            "qk_norm": None,
        },
        clip=IMAGE,
        mix=IMAGES,
    ),
    "FluxTransformer2DModel": Family(
        config={
            "patch_size": 1,
            "in_channels": 64,
            "out_channels": None,
            "num_layers": 2,
            "num_single_layers": 4,
            "attention_head_dim": 128,
            "num_attention_heads": 3,
            "joint_attention_dim": 512,
            "pooled_projection_dim": 256,
            "guidance_embeds": True,
            "axes_dims_rope": (16, 56, 56),
        },
        clip=IMAGE,
        mix=IMAGES,
    ),
}
