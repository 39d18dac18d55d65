"""Latte (arXiv 2401.03048), packed: attention within frames and over time by turns.

T tokens, S segments, R condition rows, L text states, N pairs of blocks, D width, H heads, K dimensions a head, C
features of a token. `space_offsets` are of the frames, `time_offsets` of the places, whose tokens `by_place` lists and
`by_frame` puts back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import gated_residual, modulate, norm_silu, varlen_attention
from ..pack import Grid, Pack, offsets
from .dit import EPS, TIME_WIDTH, Block, check_blocks, image_places, sincos
from .layers import Linear, parameter
from .transformer import PackedModel, places, timestep_features


class SpaceBlock(Block):
    """Attention within each frame, cross-attention without a norm before it or a gate, MLP."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__(width, heads, eps)
        self.cross_q, self.cross_out = Linear(width, width), Linear(width, width)

    def cross(self, x_TD: Tensor, text_L2D: Tensor, pack: Pack) -> Tensor:
        q_THK = self.cross_q(x_TD).unflatten(1, (self.heads, -1))
        k_LHK, v_LHK = text_L2D.unflatten(2, (self.heads, -1)).unbind(1)
        bounds = pack.cu_seqlens, pack.cu_seqlens_text
        y = varlen_attention(q_THK, k_LHK, v_LHK, *bounds, key_bias=pack.text_bias, max_seqlen=pack.max_seqlen)
        out: Tensor = self.cross_out(y.flatten(1))
        return out

    def forward(
        self, x_TD: Tensor, h_TD: Tensor, text_L2D: Tensor, tables: tuple[Tensor, ...], pack: Pack
    ) -> tuple[Tensor, Tensor]:
        """x, and x normed and modulated for this block -> x, and what the MLP adds to it before its gate.

        tables: this block's gate, shift, scale [R, D].
        """
        gate, shift, scale = tables
        y_TD = self.out(self.attention(h_TD, pack.index["space_offsets"]))
        x_TD = gated_residual(x_TD, y_TD, gate, pack.row)
        whole = torch.ones_like(gate[:1]).expand_as(gate)
        y_TD = self.cross(x_TD, text_L2D, pack)
        x_TD, h_TD = gated_residual(x_TD, y_TD, whole, pack.row, shift=shift, scale=scale, eps=self.eps)
        return x_TD, self.mlp(h_TD)


class TimeBlock(Block):
    """Attention of each place over time, MLP."""

    def forward(self, x_TD: Tensor, h_TD: Tensor, tables: tuple[Tensor, ...], pack: Pack) -> tuple[Tensor, Tensor]:
        """As `SpaceBlock`."""
        gate, shift, scale = tables
        y_TD = self.attention(h_TD.index_select(0, pack.index["by_place"]), pack.index["time_offsets"])
        y_TD = self.out(y_TD.index_select(0, pack.index["by_frame"]))
        x_TD, h_TD = gated_residual(x_TD, y_TD, gate, pack.row, shift=shift, scale=scale, eps=self.eps)
        return x_TD, self.mlp(h_TD)


class LatteTransformer(PackedModel):
    """The noise, and with twice the channels how its variance lies between its bounds. Timesteps in 0..999."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        check_blocks(config, "ada_norm_single")
        heads, depth, patch = config["num_attention_heads"], config["num_layers"], config["patch_size"]
        self.width = width = heads * config["attention_head_dim"]
        if config["cross_attention_dim"] != width:
            raise ValueError(f"cross_attention_dim must be the width {width}, got {config['cross_attention_dim']}")
        self.depth, self.eps = depth, config["norm_eps"]
        self.patch = (1, patch, patch)
        self.in_channels = config["in_channels"]
        self.out_channels = config.get("out_channels") or self.in_channels
        self.text_width = config["caption_channels"]
        self.side, self.scale = config["sample_size"] // patch, max(config["sample_size"] // 64, 1)
        self.embed = Linear(self.in_channels * patch**2, width)
        self.time1, self.time2 = Linear(TIME_WIDTH, width, wide=True), Linear(width, width, wide=True)
        self.text1, self.text2 = Linear(self.text_width, width), Linear(width, width)
        self.text_kv = Linear(width, 2 * depth * width)
        self.time_modulation = Linear(width, 6 * width, bias=False)  # each block has a bias of its own
        self.modulation, self.head_modulation = (
            parameter(2 * depth, 6 * width, wide=True),
            parameter(2, width, wide=True),
        )
        self.space = nn.ModuleList([SpaceBlock(width, heads, self.eps) for _ in range(depth)])
        self.time = nn.ModuleList([TimeBlock(width, heads, self.eps) for _ in range(depth)])
        self.head = Linear(width, self.out_channels * patch**2)

    def layout(self, grid: Grid, **extras: float) -> dict[str, Tensor]:
        """A single frame has no place in time, not even the first."""
        moment = sincos((places(grid)[0],), self.width)
        place = sincos(image_places(grid, self.side, self.scale), self.width)
        return {"place": place, "moment": moment if grid[0] > 1 else torch.zeros_like(moment)}

    def indices(self, grids: Sequence[Grid], text_lengths: Sequence[int]) -> dict[str, Tensor]:
        starts = offsets([t * y * x for t, y, x in grids])[:-1].tolist()
        by_place = torch.cat(
            [
                start + torch.arange(t * y * x).view(t, y * x).T.flatten()
                for start, (t, y, x) in zip(starts, grids, strict=True)
            ]
        )
        return {
            "space_offsets": offsets([y * x for t, y, x in grids for _ in range(t)]),
            "time_offsets": offsets([t for t, y, x in grids for _ in range(y * x)]),
            "by_place": by_place,
            "by_frame": by_place.argsort(),
        }

    def embed_text(self, text: Tensor) -> Tensor:
        """Text states [l, text_width] -> keys and values of all cross-attentions, [l, N * 2 * D]."""
        states: Tensor = self.text_kv(self.text2(self.text1(text, "gelu_tanh")))
        return states

    def condition(self, timestep_R: Tensor) -> tuple[Tensor, Tensor]:
        """The time embedding [R, D], float32, and its part [R, 6 * D] of every block's modulation."""
        waves = timestep_features(timestep_R, TIME_WIDTH).to(self.time1.weight.dtype)
        time_RD = self.time2(self.time1(waves, "silu"))
        active_RD = norm_silu(time_RD, norm="none").to(self.time_modulation.weight.dtype)
        return time_RD, self.time_modulation(active_RD)

    def forward(self, x_TC: Tensor, pack: Pack) -> Tensor:
        """Tokens of the pack [T, C] -> what the model says of them [T, C_out]."""
        time_RD, shared = self.condition(pack.timestep)
        text = pack.text.unflatten(1, (self.depth, 2, self.width)).unbind(1)
        x_TD = self.embed(x_TC)
        x_TD = (x_TD + pack.layout["place"]).to(x_TD.dtype)
        tables = (shared + self.modulation[0]).chunk(6, 1)
        h_TD = modulate(x_TD, tables[0], tables[1], pack.row, eps=self.eps)
        for i in range(2 * self.depth):
            if i % 2 == 0:
                x_TD, y_TD = self.space[i // 2](x_TD, h_TD, text[i // 2], tables[2:5], pack)
            else:
                x_TD, y_TD = self.time[i // 2](x_TD, h_TD, tables[2:5], pack)
            is_last = i + 1 == 2 * self.depth
            if is_last:
                after = tuple(time_RD + table_D for table_D in self.head_modulation)
            else:
                after = (shared + self.modulation[i + 1]).chunk(6, 1)
            following = {"shift": after[0], "scale": after[1], "eps": EPS if is_last else self.eps}
            if i == 0:  # what moment a frame is at is told once, between the first two blocks
                x_TD = gated_residual(x_TD, y_TD, tables[5], pack.row)
                x_TD = (x_TD + pack.layout["moment"]).to(x_TD.dtype)
                h_TD = modulate(x_TD, row=pack.row, **following)
            else:
                x_TD, h_TD = gated_residual(x_TD, y_TD, tables[5], pack.row, **following)
            tables = after
        return self.head(h_TD)
