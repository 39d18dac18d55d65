"""The shapes transformer, packed. T tokens, S segments, R condition rows, D width, C features of a token.

Trained by examples/shapes/dit.py; `packdit export` fuses all adaptive-norm projections into one matrix. Each block is
DiT's (arXiv 2212.09748). A condition row is one noise level of one sequence: given tokens have a row of their own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import gated_residual, modulate, norm_silu, qk_norm_rope, varlen_attention
from ..pack import Grid, Pack
from . import transformer
from .layers import Linear

ROPE_SPLIT = (0.25, 0.375, 0.375)  # the share of a head's pairs that turns with t, y and x
HARMONICS = (0.5, 1.0, 2.0, 4.0, 8.0)
NUM_FEATURES = 2 * 5 * len(HARMONICS) + 4
TIME_WIDTH = 128


def rope_angles(grid: Grid, head_dim: int, theta: float, start: int = 0) -> Tensor:
    """Angles [tokens, head_dim / 2], float64: each axis turns its share of a head's pairs. `start`: the first frame."""
    pairs = head_dim // 2
    split = [round(pairs * share) for share in ROPE_SPLIT]
    split[0] = pairs - split[1] - split[2]
    t, y, x = transformer.places(grid)
    return transformer.rope_angles([t + start, y, x], split, theta)


def position_features(grid: Grid) -> Tensor:
    """Features [tokens, NUM_FEATURES], float64: where a token is, as fractions of each side and from the centre in
    units of the short side (so that a square is square at any aspect ratio), as sines and cosines; then the size."""
    frames, height, width = grid
    t, y, x = (place + 0.5 for place in transformer.places(grid))
    short = min(height, width)
    shares = [t / frames, y / height, x / width, (y - height / 2) / short, (x - width / 2) / short]
    angles = (torch.stack(shares, 1)[:, :, None] * (math.pi * torch.tensor(HARMONICS).double())).flatten(1)
    size = torch.tensor([math.log2(frames), math.log2(height), math.log2(width), 1.0]).double()
    return torch.cat([angles.sin(), angles.cos(), size.expand(len(t), 4)], 1)


def timestep_features(timestep: Tensor) -> Tensor:
    """Sinusoidal features [n, TIME_WIDTH], float64, of timesteps [n] in 0..1000."""
    return transformer.timestep_features(timestep, TIME_WIDTH)


class Block(nn.Module):
    """Attention and MLP, each between a modulated norm and a gated residual."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.q_norm = nn.Parameter(torch.empty(width // heads), requires_grad=False)
        self.k_norm = nn.Parameter(torch.empty(width // heads), requires_grad=False)
        self.fc1, self.fc2 = Linear(width, mlp), Linear(mlp, width)

    def attention(self, h_TD: Tensor, pack: Pack) -> Tensor:
        q, k, v = self.qkv(h_TD).view(len(h_TD), 3, self.heads, -1).unbind(1)
        q, k = qk_norm_rope(
            q, k, pack.layout["cos"], pack.layout["sin"], q_weight=self.q_norm, k_weight=self.k_norm, layout="half"
        )
        y = varlen_attention(q, k, v, pack.cu_seqlens, max_seqlen=pack.max_seqlen)
        return self.out(y.flatten(1))

    def forward(self, x_TD: Tensor, h_TD: Tensor, tables: list[Tensor], pack: Pack) -> tuple[Tensor, Tensor]:
        """x, and x normed and modulated for this block -> the same for the next one.

        tables: this block's gate, shift, scale, gate [R, D], then the next norm's shift and scale.
        """
        gate1, shift2, scale2, gate2, next_shift, next_scale = tables
        x_TD, h_TD = gated_residual(x_TD, self.attention(h_TD, pack), gate1, pack.row, shift=shift2, scale=scale2)
        y_TD = self.fc2(self.fc1(h_TD, "gelu_tanh"))
        return gated_residual(x_TD, y_TD, gate2, pack.row, shift=next_shift, scale=next_scale)


class ShapesTransformer(transformer.PackedModel):
    """Velocity v = noise - clean of packed tokens; timesteps are 1000 sigma.

    The network's own target has unit variance at every sigma: v = (2 sigma - 1) / s^2 x + F(x / s) / s with
    s^2 = sigma^2 + (1 - sigma)^2 (preconditioning after arXiv 2206.00364, section 5).
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, depth = config["width"], config["depth"]
        self.patch = tuple(config["patch_size"])
        self.in_channels = self.out_channels = config["in_channels"]
        self.text_width = config["text_width"]
        self.head_dim: int = width // config["heads"]
        self.theta: float = config["rope_theta"]
        self.width = width
        num_in = self.in_channels * math.prod(self.patch)
        self.embed = Linear(num_in + NUM_FEATURES, width)
        self.time1, self.time2 = Linear(TIME_WIDTH, width), Linear(width, width)
        self.text1, self.text2 = Linear(self.text_width, width), Linear(width, width)
        self.blocks = nn.ModuleList([Block(width, config["heads"], config["mlp"]) for _ in range(depth)])
        self.modulation = Linear(width, (6 * depth + 2) * width)
        self.head = Linear(width, num_in)

    def layout(self, grid: Grid, **extras: float) -> dict[str, Tensor]:
        angles = rope_angles(grid, self.head_dim, self.theta)
        return {**transformer.rope_table(angles), "features": position_features(grid)}

    def condition(self, pack: Pack) -> Tensor:
        """SiLU(time + text) [R, D] (`pack.text` ends each segment with the pooled state, as CLIP's end token does)."""
        waves = timestep_features(pack.timestep).to(self.time1.weight.dtype)
        time = self.time2(self.time1(waves, "silu"))
        pooled = pack.text.index_select(0, pack.cu_seqlens_text[1:] - 1)
        text = self.text2(self.text1(pooled, "silu"))
        return norm_silu(time + text.index_select(0, pack.row_segment), norm="none")

    def tables(self, condition: Tensor) -> list[Tensor]:
        """[R, D] each: of every block shift, scale, gate twice, for attention and MLP; the head's shift and scale."""
        return list(self.modulation(condition).split(self.width, 1))

    def forward(self, x_TC: Tensor, pack: Pack) -> Tensor:
        """Tokens of the pack [T, C] -> their velocities [T, C]."""
        tables = self.tables(self.condition(pack))
        sigma_R1 = pack.timestep[:, None] / 1000
        spread = sigma_R1 * sigma_R1 + (1 - sigma_R1) * (1 - sigma_R1)
        gain, skip, zero = (
            a.to(x_TC.dtype).expand(-1, x_TC.shape[1]).contiguous()
            for a in (1 / spread.sqrt(), (2 * sigma_R1 - 1) / spread, 0 * spread)
        )
        scaled = modulate(x_TC, zero, gain - 1, pack.row, norm="none")
        x_TD = self.embed(torch.cat([scaled, pack.layout["features"].to(x_TC.dtype)], 1))
        h_TD = modulate(x_TD, tables[0], tables[1], pack.row)
        for i, block in enumerate(self.blocks):
            x_TD, h_TD = block(x_TD, h_TD, tables[6 * i + 2 : 6 * i + 8], pack)
        kept = modulate(x_TC, zero, skip - 1, pack.row, norm="none")
        return gated_residual(kept, self.head(h_TD), gain, pack.row)
