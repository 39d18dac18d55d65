"""CogVideoX's transformer, of every size: 2B, 5B and 1.5, text and image to video."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..entry import Entry
from ..makes import first, layer_norm, linear, matrix, stack

FUSED = (
    "queries, keys and values of each attention, in one matrix",
    "the adaptive-norm projections of all blocks, in one matrix",
)


def entries(config: dict[str, Any]) -> list[Entry]:
    """Which tensors of a `CogVideoXTransformer3DModel` become which of `runtime.models.cogvideox`."""
    depth, newer = config["num_layers"], config.get("patch_size_t") is not None
    norms = [f"transformer_blocks.{i}.norm{n}" for i in range(depth) for n in (1, 2)]
    has_bias, learned = newer or config.get("patch_bias", True), config.get("use_learned_positional_embeddings", False)
    return [
        Entry("embed.weight", ("patch_embed.proj.weight",), matrix),
        *([Entry("embed.bias", ("patch_embed.proj.bias",))] if has_bias else ()),
        *linear("text", "patch_embed.text_proj"),
        *([Entry("position", ("patch_embed.pos_embedding",), first)] if learned else ()),
        *linear("time1", "time_embedding.linear_1"),
        *linear("time2", "time_embedding.linear_2"),
        *(_ofs() if config.get("ofs_embed_dim") is not None else ()),
        *linear("modulation", *(f"{norm}.linear" for norm in norms)),
        Entry("norm_scale", tuple(f"{norm}.norm.weight" for norm in norms), _scales),
        Entry("norm_shift", tuple(f"{norm}.norm.bias" for norm in norms), stack),
        *(entry for i in range(depth) for entry in _block(i, config)),
        *layer_norm("norm", "norm_final"),
        *linear("head_modulation", "norm_out.linear"),
        *layer_norm("head_norm", "norm_out.norm"),
        *linear("head", "proj_out"),
    ]


def _block(index: int, config: dict[str, Any]) -> list[Entry]:
    name, source = f"blocks.{index}", f"transformer_blocks.{index}"
    qkv = linear(f"{name}.qkv", *(f"{source}.attn1.{part}" for part in ("to_q", "to_k", "to_v")))
    return [
        *(qkv if config["attention_bias"] else qkv[:1]),
        *(
            Entry(f"{name}.{which}_{part}", (f"{source}.attn1.norm_{which}.{part}",))
            for which in ("q", "k")
            for part in ("weight", "bias")
        ),
        *linear(f"{name}.out", f"{source}.attn1.to_out.0"),
        *linear(f"{name}.fc1", f"{source}.ff.net.0.proj"),
        *linear(f"{name}.fc2", f"{source}.ff.net.2"),
    ]


def _ofs() -> list[Entry]:
    return [*linear("ofs1", "ofs_embedding.linear_1"), *linear("ofs2", "ofs_embedding.linear_2")]


def _scales(tensors: Sequence[Tensor]) -> Tensor:
    """The weights of norms -> the scales of `modulate`, which multiplies by 1 + scale."""
    return stack(tensors) - 1


def peer(model: Any, *, latents: Tensor, timesteps: float, text: Tensor, ofs: float | None = None) -> Tensor:
    """What diffusers says of one clip, with the rotary tables that its pipeline makes."""
    from diffusers import CogVideoXPipeline

    config, (_, frames, height, width) = model.config, latents.shape
    angles = None
    if config.use_rotary_positional_embeddings:
        owner = SimpleNamespace(vae_scale_factor_spatial=1, transformer=model)
        make = CogVideoXPipeline._prepare_rotary_positional_embeddings
        angles = make(owner, height, width, frames, latents.device)
    (out,) = model(
        latents.transpose(0, 1)[None],
        text[None],
        torch.tensor([timesteps]),
        ofs=None if ofs is None else torch.as_tensor(ofs)[None],
        image_rotary_emb=angles,
        return_dict=False,
    )
    result: Tensor = out[0].transpose(0, 1)
    return result


def adapt(config: dict[str, Any], clip: dict[str, Any]) -> dict[str, Any]:
    """diffusers adds positions to text of one length only, and learned ones to frames of one size."""
    learned = config.get("use_learned_positional_embeddings", False)
    if config["use_rotary_positional_embeddings"] and not learned:
        return clip
    text, latents = clip["text"], clip["latents"]
    clip = {**clip, "text": text[torch.arange(config["max_text_seq_length"]) % len(text)]}
    if learned:
        y, x = (torch.arange(config[f"sample_{side}"]) for side in ("height", "width"))
        clip["latents"] = latents[:, :, y % latents.shape[2]][..., x % latents.shape[3]]
    return clip
