"""DiT (arXiv 2212.09748), packed: images of a class.

T tokens, S segments, R condition rows, N blocks, D width, H heads, K dimensions a head, C features of a token. In
diffusers' class every block embeds timestep and label by weights of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import gated_residual, modulate, norm_silu, varlen_attention
from ..pack import Grid, Pack
from .layers import Linear, parameter
from .transformer import PackedModel, places, timestep_features

TIME_WIDTH = 256
EPS = 1e-6  # of the norms before attentions and head; the config's is of those before MLPs


def sincos(positions: tuple[Tensor, ...], width: int) -> Tensor:
    """Sines and cosines of positions, float64 [tokens] an axis, side by side -> [tokens, width]."""
    each = width // len(positions)
    return torch.cat([timestep_features(place, each, sin_first=True) for place in positions], 1)


def image_places(grid: Grid, side: int, scale: int = 1) -> tuple[Tensor, Tensor]:
    """x and y of every token of a grid, float64 [tokens], in units in which each side is `side` / `scale` long."""
    _, y, x = places(grid)
    return x * (side / grid[2] / scale), y * (side / grid[1] / scale)


def check_blocks(config: dict[str, Any], norm_type: str) -> None:
    """ValueError for blocks that no checkpoint of these classes has had."""
    wanted = {
        "norm_type": norm_type,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_elementwise_affine": False,
    }
    for name, value in wanted.items():
        if config[name] != value:
            raise ValueError(f"{name} must be {value!r}, got {config[name]!r}")


class Block(nn.Module):
    """Attention and MLP, each between a modulated norm and a gated residual."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads, self.eps = heads, eps
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.fc1, self.fc2 = Linear(width, 4 * width), Linear(4 * width, width)

    def attention(self, h_TD: Tensor, cu_seqlens: Tensor, max_seqlen: int | None = None) -> Tensor:
        """Of all heads side by side, before the output's projection."""
        q, k, v = self.qkv(h_TD).view(len(h_TD), 3, self.heads, -1).unbind(1)
        return varlen_attention(q, k, v, cu_seqlens, max_seqlen=max_seqlen).flatten(1)

    def mlp(self, h_TD: Tensor) -> Tensor:
        hidden: Tensor = self.fc1(h_TD, "gelu_tanh")
        out: Tensor = self.fc2(hidden)
        return out


class LabelledBlock(Block):
    """A block with an embedding of timestep and label of its own."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__(width, heads, eps)
        self.time2 = Linear(width, width)
        self.modulation = Linear(width, 6 * width)

    def condition(self, time_RD: Tensor, label_RD: Tensor) -> Tensor:
        """SiLU of the sum of both embeddings [R, D]; time_RD is the hidden layer of the first."""
        return norm_silu(self.time2(time_RD) + label_RD, norm="none")

    def forward(self, x_TD: Tensor, h_TD: Tensor, tables: tuple[Tensor, ...], pack: Pack) -> tuple[Tensor, Tensor]:
        """x, and x normed and modulated for this block -> the same for the next one.

        tables: this block's gate, shift, scale, gate [R, D], then the next norm's shift and scale.
        """
        gate1, shift2, scale2, gate2, next_shift, next_scale = tables
        y_TD = self.out(self.attention(h_TD, pack.cu_seqlens, pack.max_seqlen))
        x_TD, h_TD = gated_residual(x_TD, y_TD, gate1, pack.row, shift=shift2, scale=scale2, eps=self.eps)
        return gated_residual(x_TD, self.mlp(h_TD), gate2, pack.row, shift=next_shift, scale=next_scale, eps=EPS)


class DiTTransformer(PackedModel):
    """The noise, and with twice the channels how its variance lies between its bounds (arXiv 2102.09672, section 3.1).

    Timesteps in 0..999; `labels` are numbers of classes, of which the last stands for none.
    """

    text_width = 0

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        check_blocks(config, "ada_norm_zero")
        heads, depth, patch = config["num_attention_heads"], config["num_layers"], config["patch_size"]
        self.width = width = heads * config["attention_head_dim"]
        self.patch = (1, patch, patch)
        self.in_channels = config["in_channels"]
        self.out_channels = config.get("out_channels") or self.in_channels
        self.side = config["sample_size"] // patch
        self.extras = {"labels": ()}
        self.embed = Linear(self.in_channels * patch**2, width)
        self.time1 = Linear(TIME_WIDTH, depth * width)
        self.labels = parameter(config["num_embeds_ada_norm"] + 1, depth * width)
        self.blocks = nn.ModuleList([LabelledBlock(width, heads, config["norm_eps"]) for _ in range(depth)])
        self.head_modulation = Linear(width, 2 * width)
        self.head = Linear(width, self.out_channels * patch**2)

    def layout(self, grid: Grid, **extras: float) -> dict[str, Tensor]:
        if grid[0] != 1:
            raise ValueError(f"this model makes images: latents must have one frame, got {grid[0]}")
        return {"position": sincos(image_places(grid, self.side), self.width)}

    def embed_extra(self, name: str, value: Tensor) -> Tensor:
        """A label -> its embedding in all blocks [N * D]."""
        label = float(value)
        if not label.is_integer() or not 0 <= label < len(self.labels):
            raise ValueError(f"labels must be whole numbers from 0 to {len(self.labels) - 1}, got {label:g}")
        return self.labels[int(label)]

    def forward(self, x_TC: Tensor, pack: Pack) -> Tensor:
        """Tokens of the pack [T, C] -> what the model says of them [T, C_out]."""
        waves = timestep_features(pack.timestep, TIME_WIDTH, shift=1).to(self.time1.weight.dtype)
        times = self.time1(waves, "silu").split(self.width, 1)
        labels = pack.extra["labels"].index_select(0, pack.row_segment).split(self.width, 1)
        blocks: list[Any] = list(self.blocks)
        active = [b.condition(a.contiguous(), c) for b, a, c in zip(blocks, times, labels, strict=True)]
        x_TD = self.embed(x_TC)
        x_TD = (x_TD + pack.layout["position"]).to(x_TD.dtype)
        tables = blocks[0].modulation(active[0]).chunk(6, 1)
        h_TD = modulate(x_TD, tables[0], tables[1], pack.row, eps=EPS)
        for i, block in enumerate(blocks):
            if i + 1 < len(blocks):
                after = blocks[i + 1].modulation(active[i + 1]).chunk(6, 1)
            else:
                after = self.head_modulation(active[0]).chunk(2, 1)  # the head follows the first block's embedding
            x_TD, h_TD = block(x_TD, h_TD, (*tables[2:], *after[:2]), pack)
            tables = after
        return self.head(h_TD)
