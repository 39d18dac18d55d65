"""Flux's transformer: FLUX.1 dev and schnell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...kernels import patchify, unpatchify
from ..entry import Entry
from ..makes import linear
from . import sd3
from .sd3 import attention, condition, continuous, joint_block

FUSED = (
    "queries, keys and values of each attention, those of tokens and those of text, in one matrix",
    "the adaptive norms' projections of all blocks, in one matrix",
    "the text's projection and the embeddings of pooled text and guidance, done once for a prompt",
)
PATCH = (1, 2, 2)


def entries(config: dict[str, Any]) -> list[Entry]:
    """Which tensors of a `FluxTransformer2DModel` become which of `runtime.models.flux.FluxTransformer`."""
    depth, num_single = config["num_layers"], config["num_single_layers"]
    norms = [f"transformer_blocks.{i}.{norm}.linear" for i in range(depth) for norm in ("norm1", "norm1_context")]
    norms += [f"single_transformer_blocks.{i}.norm.linear" for i in range(num_single)]
    return [
        *linear("embed", "x_embedder"),
        *linear("text", "context_embedder"),
        *condition(),
        *(_guidance() if config.get("guidance_embeds") else ()),
        *linear("modulation", *norms),
        *continuous("last_modulation", "norm_out.linear"),
        *(entry for i in range(depth) for entry in joint_block(i, normed=True)),
        *(entry for i in range(num_single) for entry in _single(i)),
        *linear("head", "proj_out"),
    ]


def _guidance() -> list[Entry]:
    source = "time_text_embed.guidance_embedder"
    return [*linear("guidance1", f"{source}.linear_1"), *linear("guidance2", f"{source}.linear_2")]


def _single(index: int) -> list[Entry]:
    name, source = f"singles.{index}", f"single_transformer_blocks.{index}"
    return [
        *attention(f"{name}.attention", f"{source}.attn", normed=True, output=False),
        *linear(f"{name}.fc1", f"{source}.proj_mlp"),
        *linear(f"{name}.fc2", f"{source}.proj_out"),
    ]


def peer(
    model: Any,
    *,
    latents: Tensor,
    timesteps: float | Tensor,
    text: Tensor,
    pooled: Tensor,
    guidance: float | Tensor | None = None,
) -> Tensor:
    """What diffusers says of one clip, which is an image: its tokens are patches, with their places beside them."""
    _, frames, height, width = latents.shape
    y, x = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    (out,) = model(
        hidden_states=patchify([latents], PATCH)[None],
        encoder_hidden_states=text[None],
        pooled_projections=pooled[None].to(text.dtype),
        timestep=torch.as_tensor(timesteps, dtype=torch.float32).reshape(1),
        img_ids=torch.stack([torch.zeros_like(y), y, x], -1).flatten(0, 1),
        txt_ids=torch.zeros(len(text), 3),
        guidance=None if guidance is None else torch.as_tensor(guidance, dtype=torch.float32).reshape(1),
        return_dict=False,
    )
    return unpatchify(out[0].contiguous(), [(frames, height, width)], PATCH)[0]


def adapt(config: dict[str, Any], clip: dict[str, Any]) -> dict[str, Any]:
    """An image, and timesteps in 0..1."""
    return {**sd3.adapt(config, clip), "timesteps": clip["timesteps"] / 1000}
