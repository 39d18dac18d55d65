"""Stable Diffusion 3's transformer: 3 medium, and 3.5 medium and large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..entry import Entry
from ..makes import channels_first, first, linear, matrix

FUSED = (
    "queries, keys and values of each attention, those of tokens and those of text, in one matrix",
    "the adaptive norms' projections of all blocks, in one matrix",
    "the text's projection and the pooled text's embedding, done once for a prompt",
)


def entries(config: dict[str, Any]) -> list[Entry]:
    """Which tensors of an `SD3Transformer2DModel` become which of `runtime.models.sd3.SD3Transformer`."""
    depth, dual = config["num_layers"], set(config.get("dual_attention_layers") or ())
    normed, order = config.get("qk_norm") is not None, channels_first(config["patch_size"] ** 2)
    blocks = [f"transformer_blocks.{i}" for i in range(depth)]
    norms = [f"{block}.{norm}.linear" for block in blocks for norm in ("norm1", "norm1_context")]
    return [
        Entry("embed.weight", ("pos_embed.proj.weight",), matrix),
        Entry("embed.bias", ("pos_embed.proj.bias",)),
        Entry("position", ("pos_embed.pos_embed",), first),
        *linear("text", "context_embedder"),
        *condition(),
        *linear("modulation", *norms[:-1]),
        *continuous("last_modulation", norms[-1], "norm_out.linear"),
        *(e for i in range(depth) for e in joint_block(i, normed=normed, last=i + 1 == depth)),
        *(e for i in sorted(dual) for e in attention(f"blocks.{i}.second", f"{blocks[i]}.attn2", normed=normed)),
        Entry("head.weight", ("proj_out.weight",), order),
        Entry("head.bias", ("proj_out.bias",), order),
    ]


def condition() -> list[Entry]:
    """The embeddings of timestep and pooled text."""
    source = "time_text_embed"
    return [
        *linear("condition.time1", f"{source}.timestep_embedder.linear_1"),
        *linear("condition.time2", f"{source}.timestep_embedder.linear_2"),
        *linear("condition.pooled1", f"{source}.text_embedder.linear_1"),
        *linear("condition.pooled2", f"{source}.text_embedder.linear_2"),
    ]


def joint_block(index: int, *, normed: bool, last: bool = False) -> list[Entry]:
    """A block of two sides; nothing follows for the last one's text."""
    name, source = f"blocks.{index}", f"transformer_blocks.{index}"
    own = attention(f"{name}.tokens.attention", f"{source}.attn", normed=normed)
    parts = tuple(f"{source}.attn.add_{part}_proj" for part in "qkv")
    text = linear(f"{name}.text.attention.qkv", *parts)
    if normed:
        text += norms(f"{name}.text.attention", f"{source}.attn", "norm_added")
    if not last:
        text += linear(f"{name}.text.attention.out", f"{source}.attn.to_add_out")
        text += mlp(f"{name}.text", f"{source}.ff_context")
    return [*own, *mlp(f"{name}.tokens", f"{source}.ff"), *text]


def attention(target: str, source: str, *, normed: bool, output: bool = True) -> list[Entry]:
    """An attention of one side to itself, as diffusers names it."""
    return [
        *linear(f"{target}.qkv", *(f"{source}.to_{part}" for part in "qkv")),
        *(norms(target, source, "norm") if normed else ()),
        *(linear(f"{target}.out", f"{source}.to_out.0") if output else ()),
    ]


def norms(target: str, source: str, name: str) -> list[Entry]:
    """Those of queries and keys."""
    return [Entry(f"{target}.{part}_norm", (f"{source}.{name}_{part}.weight",)) for part in "qk"]


def mlp(target: str, source: str) -> list[Entry]:
    return [*linear(f"{target}.fc1", f"{source}.net.0.proj"), *linear(f"{target}.fc2", f"{source}.net.2")]


def continuous(target: str, *sources: str) -> list[Entry]:
    """The projections of norms that diffusers calls continuous, whose rows give the scale before the shift."""
    return [Entry(f"{target}.{part}", tuple(f"{s}.{part}" for s in sources), _swapped) for part in ("weight", "bias")]


def _swapped(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([half for tensor in tensors for half in reversed(tensor.chunk(2))])


def peer(model: Any, *, latents: Tensor, timesteps: float | Tensor, text: Tensor, pooled: Tensor) -> Tensor:
    """What diffusers says of one clip, which is an image."""
    time = torch.as_tensor(timesteps, dtype=torch.float32).reshape(1)
    (out,) = model(latents[None, :, 0], text[None], pooled[None].to(text.dtype), time, return_dict=False)
    result: Tensor = out[0, :, None]
    return result


def adapt(config: dict[str, Any], clip: dict[str, Any]) -> dict[str, Any]:
    """The first frame: diffusers takes images."""
    return {**clip, "latents": clip["latents"][:, :1]}
