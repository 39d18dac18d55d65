"""DiT's transformer, of every size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..entry import Entry
from ..makes import channels_first, linear, matrix

FUSED = (
    "queries, keys and values of each attention, in one matrix",
    "the first layers of all blocks' time embeddings, in one matrix",
    "the label embeddings of all blocks, in one table, looked up once for a request",
)


def entries(config: dict[str, Any]) -> list[Entry]:
    """Which tensors of a `DiTTransformer2DModel` become which of `runtime.models.dit.DiTTransformer`."""
    names = [f"transformer_blocks.{i}" for i in range(config["num_layers"])]
    order = channels_first(config["patch_size"] ** 2)
    return [
        Entry("embed.weight", ("pos_embed.proj.weight",), matrix),
        Entry("embed.bias", ("pos_embed.proj.bias",)),
        *linear("time1", *(f"{name}.norm1.emb.timestep_embedder.linear_1" for name in names)),
        Entry("labels", tuple(f"{name}.norm1.emb.class_embedder.embedding_table.weight" for name in names), _beside),
        *(entry for i, name in enumerate(names) for entry in _block(f"blocks.{i}", name)),
        *linear("head_modulation", "proj_out_1"),
        Entry("head.weight", ("proj_out_2.weight",), order),
        Entry("head.bias", ("proj_out_2.bias",), order),
    ]


def attention_and_mlp(target: str, source: str) -> list[Entry]:
    """Of a `BasicTransformerBlock` what `runtime.models.dit.Block` has."""
    return [
        *linear(f"{target}.qkv", *(f"{source}.attn1.{part}" for part in ("to_q", "to_k", "to_v"))),
        *linear(f"{target}.out", f"{source}.attn1.to_out.0"),
        *linear(f"{target}.fc1", f"{source}.ff.net.0.proj"),
        *linear(f"{target}.fc2", f"{source}.ff.net.2"),
    ]


def _block(target: str, source: str) -> list[Entry]:
    return [
        *linear(f"{target}.time2", f"{source}.norm1.emb.timestep_embedder.linear_2"),
        *linear(f"{target}.modulation", f"{source}.norm1.linear"),
        *attention_and_mlp(target, source),
    ]


def _beside(tensors: Sequence[Tensor]) -> Tensor:
    """Tables [classes, D] of all blocks -> [classes, N * D]."""
    return torch.cat(tuple(tensors), 1)


def peer(model: Any, *, latents: Tensor, timesteps: float, labels: float) -> Tensor:
    """What diffusers says of one clip, an image. It gives squares."""
    time, label = torch.tensor([timesteps]), torch.tensor([int(labels)])
    (out,) = model(latents[None, :, 0], time, label, return_dict=False)
    result: Tensor = out[0, :, None]
    return result


def adapt(config: dict[str, Any], clip: dict[str, Any]) -> dict[str, Any]:
    """diffusers takes squares only; a label is a whole number."""
    side = min(clip["latents"].shape[2:])
    label = float(int(clip["timesteps"]) % (config["num_embeds_ada_norm"] + 1))
    return {**clip, "latents": clip["latents"][:, :1, :side, :side].contiguous(), "labels": label}
