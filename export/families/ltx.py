"""LTX-Video's transformer, 2B and 13B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..entry import Entry
from ..makes import linear, stack

FUSED = (
    "queries, keys and values of each self-attention, in one matrix",
    "the cross-attentions' keys and values of all blocks, in one matrix, projected once for a prompt",
    "the bias of the time projection, into the scale-shift tables of all blocks",
)


def entries(config: dict[str, Any]) -> list[Entry]:
    """Which tensors of an `LTXVideoTransformer3DModel` become which of `runtime.models.ltx.LTXTransformer`."""
    blocks = range(config["num_layers"])
    sources = [f"transformer_blocks.{i}" for i in blocks]
    tables = tuple(f"{source}.scale_shift_table" for source in sources)
    return [
        *linear("embed", "proj_in"),
        *linear("time1", "time_embed.emb.timestep_embedder.linear_1"),
        *linear("time2", "time_embed.emb.timestep_embedder.linear_2"),
        *linear("text1", "caption_projection.linear_1"),
        *linear("text2", "caption_projection.linear_2"),
        *linear("text_kv", *(f"{source}.attn2.{part}" for source in sources for part in ("to_k", "to_v"))),
        Entry("text_k_norm", tuple(f"{source}.attn2.norm_k.weight" for source in sources), stack),
        Entry("time_modulation.weight", ("time_embed.linear.weight",)),
        Entry("modulation", ("time_embed.linear.bias", *tables), _modulation),
        Entry("head_modulation", ("scale_shift_table",)),
        *(entry for i, source in zip(blocks, sources, strict=True) for entry in _block(f"blocks.{i}", source)),
        *linear("head", "proj_out"),
    ]


def _block(name: str, source: str) -> list[Entry]:
    return [
        *linear(f"{name}.qkv", *(f"{source}.attn1.{part}" for part in ("to_q", "to_k", "to_v"))),
        Entry(f"{name}.q_norm", (f"{source}.attn1.norm_q.weight",)),
        Entry(f"{name}.k_norm", (f"{source}.attn1.norm_k.weight",)),
        *linear(f"{name}.out", f"{source}.attn1.to_out.0"),
        *linear(f"{name}.cross.q", f"{source}.attn2.to_q"),
        Entry(f"{name}.cross.q_norm", (f"{source}.attn2.norm_q.weight",)),
        *linear(f"{name}.cross.out", f"{source}.attn2.to_out.0"),
        *linear(f"{name}.fc1", f"{source}.ff.net.0.proj"),
        *linear(f"{name}.fc2", f"{source}.ff.net.2"),
    ]


def _modulation(tensors: Sequence[Tensor]) -> Tensor:
    """The time projection's bias [6 * D] and the blocks' tables [6, D] -> [depth, 6 * D]."""
    bias, *tables = tensors
    return torch.stack(tuple(tables)).flatten(1) + bias


def peer(
    model: Any,
    *,
    latents: Tensor,
    timesteps: float | Tensor,
    text: Tensor,
    latent_seconds: float,
    latent_pixels: float,
) -> Tensor:
    """What diffusers says of one clip, whose latents it takes and gives as tokens."""
    frames, height, width = latents.shape[1:]
    (out,) = model(
        latents.flatten(1).T[None],
        text[None],
        torch.as_tensor(timesteps, dtype=torch.float32).reshape(1, -1),
        torch.ones(1, len(text)),
        num_frames=frames,
        height=height,
        width=width,
        rope_interpolation_scale=(latent_seconds, latent_pixels, latent_pixels),
        return_dict=False,
    )
    result: Tensor = out[0].T.unflatten(1, (frames, height, width))
    return result
