"""Latte's transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..entry import Entry
from ..makes import channels_first, linear, matrix
from .dit import attention_and_mlp

FUSED = (
    "queries, keys and values of each self-attention, in one matrix",
    "the cross-attentions' keys and values of all blocks, in one matrix, projected once for a prompt",
    "the bias of the time projection, into the scale-shift tables of all blocks",
)


def entries(config: dict[str, Any]) -> list[Entry]:
    """Which tensors of a `LatteTransformer3DModel` become which of `runtime.models.latte.LatteTransformer`."""
    depth, order = config["num_layers"], channels_first(config["patch_size"] ** 2)
    space = [f"transformer_blocks.{i}" for i in range(depth)]
    time = [f"temporal_transformer_blocks.{i}" for i in range(depth)]
    tables = tuple(f"{name}.scale_shift_table" for pair in zip(space, time, strict=True) for name in pair)
    return [
        Entry("embed.weight", ("pos_embed.proj.weight",), matrix),
        Entry("embed.bias", ("pos_embed.proj.bias",)),
        *linear("time1", "adaln_single.emb.timestep_embedder.linear_1"),
        *linear("time2", "adaln_single.emb.timestep_embedder.linear_2"),
        *linear("text1", "caption_projection.linear_1"),
        *linear("text2", "caption_projection.linear_2"),
        *linear("text_kv", *(f"{name}.attn2.{part}" for name in space for part in ("to_k", "to_v"))),
        Entry("time_modulation.weight", ("adaln_single.linear.weight",)),
        Entry("modulation", ("adaln_single.linear.bias", *tables), _modulation),
        Entry("head_modulation", ("scale_shift_table",)),
        *(entry for i, name in enumerate(space) for entry in _space(f"space.{i}", name)),
        *(entry for i, name in enumerate(time) for entry in attention_and_mlp(f"time.{i}", name)),
        Entry("head.weight", ("proj_out.weight",), order),
        Entry("head.bias", ("proj_out.bias",), order),
    ]


def _space(target: str, source: str) -> list[Entry]:
    return [
        *attention_and_mlp(target, source),
        *linear(f"{target}.cross_q", f"{source}.attn2.to_q"),
        *linear(f"{target}.cross_out", f"{source}.attn2.to_out.0"),
    ]


def _modulation(tensors: Sequence[Tensor]) -> Tensor:
    """The time projection's bias [6 * D] and the blocks' tables [6, D], space and time by turns -> [2 N, 6 * D]."""
    bias, *tables = tensors
    return torch.stack(tables).flatten(1) + bias


def adapt(config: dict[str, Any], clip: dict[str, Any]) -> dict[str, Any]:
    """diffusers takes one frame, or as many as its positions in time."""
    latents, frames = clip["latents"], config["video_length"]
    if latents.shape[1] == 1:
        return clip
    return {**clip, "latents": latents[:, torch.arange(frames) % latents.shape[1]]}
