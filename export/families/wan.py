"""Wan's transformer, of every size: 2.1 T2V and I2V, 2.2 5B and both experts of the A14B."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..entry import Entry
from ..makes import channels_first, first, layer_norm, linear, matrix, stack

FUSED = (
    "queries, keys and values of each self-attention, in one matrix",
    "the cross-attentions' keys and values of all blocks, in one matrix, projected once for a prompt",
    "the bias of the time projection, into the scale-shift tables of all blocks",
)
IGNORED = (r"blocks\.\d+\.attn2\.norm_added_q\.weight",)  # in I2V checkpoints; diffusers has no use for it either


def entries(config: dict[str, Any]) -> list[Entry]:
    """Which tensors of a `WanTransformer3DModel` become which of `runtime.models.wan.WanTransformer`."""
    depth, volume = config["num_layers"], math.prod(config["patch_size"])
    blocks = [f"blocks.{i}" for i in range(depth)]
    tables = tuple(f"{block}.scale_shift_table" for block in blocks)
    order = channels_first(volume)
    return [
        Entry("embed.weight", ("patch_embedding.weight",), matrix),
        Entry("embed.bias", ("patch_embedding.bias",)),
        *linear("time1", "condition_embedder.time_embedder.linear_1"),
        *linear("time2", "condition_embedder.time_embedder.linear_2"),
        *linear("text1", "condition_embedder.text_embedder.linear_1"),
        *linear("text2", "condition_embedder.text_embedder.linear_2"),
        *linear("text_kv", *(f"{block}.attn2.{part}" for block in blocks for part in ("to_k", "to_v"))),
        Entry("text_k_norm", tuple(f"{block}.attn2.norm_k.weight" for block in blocks), stack),
        *(_image(config, blocks) if config.get("image_dim") is not None else ()),
        Entry("time_modulation.weight", ("condition_embedder.time_proj.weight",)),
        Entry("modulation", ("condition_embedder.time_proj.bias", *tables), _modulation),
        Entry("head_modulation", ("scale_shift_table",), first),
        *(entry for block in blocks for entry in _block(block, config)),
        Entry("head.weight", ("proj_out.weight",), order),
        Entry("head.bias", ("proj_out.bias",), order),
    ]


def _block(name: str, config: dict[str, Any]) -> list[Entry]:
    return [
        *linear(f"{name}.qkv", *(f"{name}.attn1.{part}" for part in ("to_q", "to_k", "to_v"))),
        Entry(f"{name}.q_norm", (f"{name}.attn1.norm_q.weight",)),
        Entry(f"{name}.k_norm", (f"{name}.attn1.norm_k.weight",)),
        *linear(f"{name}.out", f"{name}.attn1.to_out.0"),
        *(layer_norm(f"{name}.cross_norm", f"{name}.norm2") if config["cross_attn_norm"] else ()),
        *linear(f"{name}.cross.q", f"{name}.attn2.to_q"),
        Entry(f"{name}.cross.q_norm", (f"{name}.attn2.norm_q.weight",)),
        *linear(f"{name}.cross.out", f"{name}.attn2.to_out.0"),
        *linear(f"{name}.fc1", f"{name}.ffn.net.0.proj"),
        *linear(f"{name}.fc2", f"{name}.ffn.net.2"),
    ]


def _image(config: dict[str, Any], blocks: list[str]) -> list[Entry]:
    source = "condition_embedder.image_embedder"
    position = [Entry("image.position", (f"{source}.pos_embed",), first)] if config.get("pos_embed_seq_len") else []
    return [
        *position,
        *layer_norm("image.norm1", f"{source}.norm1"),
        *linear("image.fc1", f"{source}.ff.net.0.proj"),
        *linear("image.fc2", f"{source}.ff.net.2"),
        *layer_norm("image.norm2", f"{source}.norm2"),
        *linear("image_kv", *(f"{block}.attn2.{part}" for block in blocks for part in ("add_k_proj", "add_v_proj"))),
        Entry("image_k_norm", tuple(f"{block}.attn2.norm_added_k.weight" for block in blocks), stack),
    ]


def _modulation(tensors: Sequence[Tensor]) -> Tensor:
    """The time projection's bias [6 * D] and the blocks' tables [1, 6, D] -> [depth, 6 * D]."""
    bias, *tables = tensors
    return torch.cat(tuple(tables)).flatten(1) + bias


def peer(
    model: Any, *, latents: Tensor, timesteps: float | Tensor, text: Tensor, image: Tensor | None = None
) -> Tensor:
    """What diffusers says of one clip. Two images of FLF2V are a batch of two."""
    if image is not None:
        image = image.unflatten(0, (2, -1)) if model.config.pos_embed_seq_len else image[None]
    time = torch.as_tensor(timesteps, dtype=torch.float32)[None]
    (out,) = model(latents[None], time, text[None], encoder_hidden_states_image=image, return_dict=False)
    result: Tensor = out[0]
    return result


def adapt(config: dict[str, Any], clip: dict[str, Any]) -> dict[str, Any]:
    """Beside an image diffusers takes the last 512 states for the text; FLF2V has a place for each row of its two."""
    if config.get("image_dim") is None:
        return clip
    text, image = clip["text"], clip["image"]
    rows = config.get("pos_embed_seq_len") or len(image)
    return {**clip, "text": text[torch.arange(512) % len(text)], "image": image[torch.arange(rows) % len(image)]}
