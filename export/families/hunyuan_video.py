"""HunyuanVideo's transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..entry import Entry
from ..makes import layer_norm, linear, matrix

FUSED = (
    "queries, keys and values of each stream of each attention, in one matrix",
    "the refiner's projections of a prompt's states and of their mean, once for a prompt",
)


def entries(config: dict[str, Any]) -> list[Entry]:
    """Which tensors of a `HunyuanVideoTransformer3DModel` become which of
    `runtime.models.hunyuan_video.HunyuanVideoTransformer`."""
    refiner, condition = "context_embedder", "time_text_embed"
    return [
        Entry("embed.weight", ("x_embedder.proj.weight",), matrix),
        Entry("embed.bias", ("x_embedder.proj.bias",)),
        *_embedding("time.mlp", f"{condition}.timestep_embedder"),
        *_embedding("pooled", f"{condition}.text_embedder"),
        *(_embedding("guidance.mlp", f"{condition}.guidance_embedder") if config["guidance_embeds"] else ()),
        *linear("refiner.embed", f"{refiner}.proj_in"),
        *_embedding("refiner.time.mlp", f"{refiner}.time_text_embed.timestep_embedder"),
        *_embedding("refiner.mean", f"{refiner}.time_text_embed.text_embedder"),
        *(entry for i in range(config["num_refiner_layers"]) for entry in _refiner(i)),
        *(entry for i in range(config["num_layers"]) for entry in _dual(i)),
        *(entry for i in range(config["num_single_layers"]) for entry in _single(i)),
        Entry("head_modulation.weight", ("norm_out.linear.weight",), _shift_first),
        Entry("head_modulation.bias", ("norm_out.linear.bias",), _shift_first),
        *linear("head", "proj_out"),
    ]


def _embedding(target: str, source: str) -> list[Entry]:
    return [*linear(f"{target}.fc1", f"{source}.linear_1"), *linear(f"{target}.fc2", f"{source}.linear_2")]


def _mlp(target: str, source: str) -> list[Entry]:
    return [*linear(f"{target}.fc1", f"{source}.net.0.proj"), *linear(f"{target}.fc2", f"{source}.net.2")]


def _qkv(target: str, source: str, *parts: str) -> list[Entry]:
    return linear(f"{target}.qkv", *(f"{source}.{part}" for part in parts))


def _refiner(i: int) -> list[Entry]:
    target, source = f"refiner.blocks.{i}", f"context_embedder.token_refiner.refiner_blocks.{i}"
    return [
        *layer_norm(f"{target}.norm1", f"{source}.norm1"),
        *layer_norm(f"{target}.norm2", f"{source}.norm2"),
        *_qkv(target, f"{source}.attn", "to_q", "to_k", "to_v"),
        *linear(f"{target}.out", f"{source}.attn.to_out.0"),
        *_mlp(f"{target}.mlp", f"{source}.ff"),
        *linear(f"{target}.modulation", f"{source}.norm_out.linear"),
    ]


def _dual(i: int) -> list[Entry]:
    source, video, text = f"transformer_blocks.{i}", f"blocks.{i}.video", f"blocks.{i}.text"
    return [
        *linear(f"{video}.modulation", f"{source}.norm1.linear"),
        *_qkv(video, f"{source}.attn", "to_q", "to_k", "to_v"),
        Entry(f"{video}.q_norm", (f"{source}.attn.norm_q.weight",)),
        Entry(f"{video}.k_norm", (f"{source}.attn.norm_k.weight",)),
        *linear(f"{video}.out", f"{source}.attn.to_out.0"),
        *_mlp(f"{video}.mlp", f"{source}.ff"),
        *linear(f"{text}.modulation", f"{source}.norm1_context.linear"),
        *_qkv(text, f"{source}.attn", "add_q_proj", "add_k_proj", "add_v_proj"),
        Entry(f"{text}.q_norm", (f"{source}.attn.norm_added_q.weight",)),
        Entry(f"{text}.k_norm", (f"{source}.attn.norm_added_k.weight",)),
        *linear(f"{text}.out", f"{source}.attn.to_add_out"),
        *_mlp(f"{text}.mlp", f"{source}.ff_context"),
    ]


def _single(i: int) -> list[Entry]:
    target, source = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
    return [
        *linear(f"{target}.modulation", f"{source}.norm.linear"),
        *_qkv(target, f"{source}.attn", "to_q", "to_k", "to_v"),
        Entry(f"{target}.q_norm", (f"{source}.attn.norm_q.weight",)),
        Entry(f"{target}.k_norm", (f"{source}.attn.norm_k.weight",)),
        *linear(f"{target}.fc1", f"{source}.proj_mlp"),
        *linear(f"{target}.out", f"{source}.proj_out"),
    ]


def _shift_first(tensors: Sequence[Tensor]) -> Tensor:
    """Rows of scale, then shift -> shift, then scale."""
    scale, shift = tensors[0].chunk(2)
    return torch.cat((shift, scale))


def peer(
    model: Any,
    *,
    latents: Tensor,
    timesteps: float,
    text: Tensor,
    pooled: Tensor,
    guidance: float | None = None,
) -> Tensor:
    """What diffusers says of one clip, no text state masked."""
    (out,) = model(
        latents[None],
        torch.tensor([timesteps], dtype=torch.float32),
        text[None],
        torch.ones(1, len(text), dtype=torch.int64),
        pooled[None].to(text.dtype),
        None if guidance is None else torch.as_tensor(guidance, dtype=torch.float32)[None],
        return_dict=False,
    )
    result: Tensor = out[0]
    return result
