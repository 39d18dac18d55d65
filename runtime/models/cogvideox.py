"""CogVideoX's transformer (arXiv 2408.06072), packed: 2B, 5B and 1.5, text and image to video.

T tokens, L text states, J = T + L of both in the order of `Pack.joint`, R condition rows, D width, H heads, K a head's
width, C features of a token. Tokens and text pass the same weights, each modulated by its own half of the tables: rows
2r are those of tokens, rows 2r + 1 those of text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import gated_residual, modulate, norm_silu, qk_norm_rope, varlen_attention
from ..pack import Grid, Joint, Pack
from .layers import LayerNorm, Linear, parameter
from .transformer import PackedModel, places, rope_angles, rope_table, timestep_features

QK_EPS = 1e-6  # of the norms of queries and keys; the config's is of the blocks'
Angles = tuple[Tensor, Tensor] | None  # cos and sin [J, K / 2], where positions are rotary
Tables = tuple[Tensor, Tensor, Tensor]  # shift, scale and gate [2R, D]


class Block(nn.Module):
    """Joint attention and MLP, each between a modulated norm and a gated residual."""

    def __init__(self, width: int, heads: int, mlp: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.heads, self.eps = heads, eps
        self.qkv, self.out = Linear(width, 3 * width, bias=bias), Linear(width, width)
        self.q_weight, self.q_bias = parameter(width // heads), parameter(width // heads)
        self.k_weight, self.k_bias = parameter(width // heads), parameter(width // heads)
        self.fc1, self.fc2 = Linear(width, mlp), Linear(mlp, width)

    def attention(self, h_JD: Tensor, angles: Angles, joint: Joint) -> Tensor:
        q, k, v = self.qkv(h_JD).view(len(h_JD), 3, self.heads, -1).unbind(1)
        q, k = (
            norm_silu(a, weight, bias, norm="layer", activation=False, eps=QK_EPS)
            for a, weight, bias in ((q, self.q_weight, self.q_bias), (k, self.k_weight, self.k_bias))
        )
        if angles is not None:
            q, k = qk_norm_rope(q, k, *angles, norm="none")
        y_JHK = varlen_attention(q, k, v, joint.cu_seqlens, max_seqlen=joint.max_seqlen)
        return self.out(y_JHK.flatten(1))

    def forward(
        self, x_JD: Tensor, h_JD: Tensor, tables: tuple[Tensor, ...], row_J: Tensor, angles: Angles, joint: Joint
    ) -> tuple[Tensor, Tensor]:
        """x, and x normed and modulated for this block -> the same for the next one.

        tables: this block's gate, shift, scale, gate [2R, D] after the first two, then the next norm's shift and scale.
        """
        gate1, shift2, scale2, gate2, next_shift, next_scale = tables
        y_JD = self.attention(h_JD, angles, joint)
        x_JD, h_JD = gated_residual(x_JD, y_JD, gate1, row_J, shift=shift2, scale=scale2, eps=self.eps)
        y_JD = self.fc2(self.fc1(h_JD, "gelu_tanh"))
        return gated_residual(x_JD, y_JD, gate2, row_J, shift=next_shift, scale=next_scale, eps=self.eps)


class CogVideoXTransformer(PackedModel):
    """What the scheduler's prediction type says, of timesteps in 0..1000."""

    joint = True

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        check_config(config)
        heads, self.head_dim, depth = config["num_attention_heads"], config["attention_head_dim"], config["num_layers"]
        side, frames = config["patch_size"], config.get("patch_size_t")
        self.is_newer = frames is not None  # 1.5: a token is more than one frame, and places are counted otherwise
        self.patch = (frames or 1, side, side)
        self.in_channels, self.out_channels = config["in_channels"], config["out_channels"]
        self.text_width, self.width, self.depth = config["text_embed_dim"], heads * self.head_dim, depth
        self.eps, time_width, ofs_width = config["norm_eps"], config["time_embed_dim"], config.get("ofs_embed_dim")
        sin_first, shift = not config["flip_sin_to_cos"], float(config["freq_shift"])
        self.waves = partial(timestep_features, sin_first=sin_first, shift=shift)
        self.scales = config["temporal_interpolation_scale"], config["spatial_interpolation_scale"]
        groups = (config["sample_frames"] - 1) // config["temporal_compression_ratio"] + 1
        self.trained: Grid = (groups, config["sample_height"] // side, config["sample_width"] // side)
        self.is_rotary = config["use_rotary_positional_embeddings"]
        self.text_length = config["max_text_seq_length"]
        volume = math.prod(self.patch)
        self.embed = Linear(self.in_channels * volume, self.width, bias=self.is_newer or config.get("patch_bias", True))
        self.text = Linear(self.text_width, self.width)
        learned = config.get("use_learned_positional_embeddings", False)
        self.position = parameter(self.text_length + math.prod(self.trained), self.width) if learned else None
        self.time1, self.time2 = Linear(self.width, time_width, wide=True), Linear(time_width, time_width, wide=True)
        if ofs_width is not None:
            self.extras = {"ofs": ()}
            self.ofs1, self.ofs2 = Linear(ofs_width, ofs_width, wide=True), Linear(ofs_width, ofs_width, wide=True)
        self.modulation = Linear(time_width, depth * 12 * self.width)
        self.norm_scale, self.norm_shift = (parameter(2 * depth, self.width, wide=True) for _ in range(2))
        self.blocks = nn.ModuleList(
            [Block(self.width, heads, 4 * self.width, self.eps, config["attention_bias"]) for _ in range(depth)]
        )
        self.norm = LayerNorm(self.width, self.eps)
        self.head_modulation, self.head_norm = Linear(time_width, 2 * self.width), LayerNorm(self.width, self.eps)
        self.head = Linear(self.width, self.out_channels * volume)

    def layout(self, grid: Grid, **extras: float) -> dict[str, Tensor]:
        found = {} if self.is_rotary and self.position is None else {"position": self.absolute(grid)}
        return {**found, **self.rotary(grid)} if self.is_rotary else found

    def absolute(self, grid: Grid) -> Tensor:
        """What is added to each token [tokens, D], float64: as learned, where it was, else sines of t, x and y.

        ValueError for a frame's size that a model with learned positions was not trained for.
        """
        if self.position is not None:
            if grid[1:] != self.trained[1:]:
                raise ValueError(f"frames must be {self.trained[1:]} (y, x) tokens, got {grid[1:]}")
            if grid == self.trained:
                return self.position[self.text_length :].double()
        t, y, x = places(grid)
        time, space = self.scales
        axes = (t / time, self.width // 4), (x / space, self.width * 3 // 8), (y / space, self.width * 3 // 8)
        return torch.cat([timestep_features(place, width, sin_first=True) for place, width in axes], 1)

    def rotary(self, grid: Grid) -> dict[str, Tensor]:
        """Angles of the places in a frame: its own in 1.5, before as if scaled into the frame that was trained."""
        t, y, x = places(grid)
        if not self.is_newer:
            top, left, height, width = fit(grid[1:], self.trained[1:])
            y, x = spread(y, grid[1], top, height), spread(x, grid[2], left, width)
        side = self.head_dim // 8 * 3 // 2  # pairs that turn with y, and as many with x
        return rope_table(rope_angles((t, y, x), (self.head_dim // 8, side, side), 10000.0))

    def embed_text(self, text: Tensor) -> Tensor:
        """Text states [l, text_width] -> [l, D]."""
        return self.text(text)

    def embed_extra(self, name: str, value: Tensor) -> Tensor:
        """The number `ofs` -> its part [time_embed_dim] of the time embedding, float32."""
        features = self.waves(value[None], self.ofs1.weight.shape[1]).to(self.ofs1.weight.dtype)
        return self.ofs2(self.ofs1(features, "silu"))[0]

    def indices(self, grids: Sequence[Grid], text_lengths: Sequence[int]) -> dict[str, Tensor]:
        """`text_position`, where positions were learned: of each text state; the last where there is none to add."""
        if self.position is None:
            return {}
        for length in text_lengths:
            if length > self.text_length:
                raise ValueError(f"text must have at most {self.text_length} states, got {length}")
        rows = [
            torch.arange(length) if grid == self.trained else torch.full((length,), self.text_length)
            for grid, length in zip(grids, text_lengths, strict=True)
        ]
        return {"text_position": torch.cat(rows)}

    def condition(self, pack: Pack) -> Tensor:
        """SiLU of the time embedding [R, time_embed_dim], in the dtype of the model."""
        features = self.waves(pack.timestep, self.width).to(self.time1.weight.dtype)
        time = self.time2(self.time1(features, "silu"))
        if self.extras:
            time = time + pack.extra["ofs"].index_select(0, pack.row_segment)
        return norm_silu(time, norm="none").to(self.modulation.weight.dtype)

    def tables(self, condition: Tensor) -> list[Tables]:
        """Of each norm of the blocks in turn; its own weight and bias are within the shift and the scale."""
        shared = self.modulation(condition).unflatten(1, (2 * self.depth, 2, 3 * self.width)).unbind(1)
        found = []
        for table, own_scale, own_shift in zip(shared, self.norm_scale, self.norm_shift, strict=True):
            shift, scale, gate = table.flatten(0, 1).chunk(3, 1)
            found.append((shift + own_shift * (1 + scale), (1 + own_scale) * (1 + scale) - 1, gate))
        return found

    def enter(self, x_TC: Tensor, pack: Pack, joint: Joint) -> Tensor:
        """Tokens and text with their positions, [J, D]."""
        x_TD, text_LD = self.embed(x_TC), pack.text
        if "position" in pack.layout:
            x_TD = x_TD + pack.layout["position"].to(x_TD.dtype)
        if self.position is not None:
            positions = F.pad(self.position[: self.text_length], (0, 0, 0, 1))
            text_LD = text_LD + positions.index_select(0, pack.index["text_position"])
        return joint.gather(x_TD, text_LD)

    def forward(self, x_TC: Tensor, pack: Pack) -> Tensor:
        """Tokens of the pack [T, C] -> the model's output [T, C_out]."""
        joint = pack.joint
        assert joint is not None
        condition = self.condition(pack)
        tables = self.tables(condition)
        row_J = joint.gather(2 * pack.row, 2 * joint.text_row + 1)
        x_JD, angles = self.enter(x_TC, pack, joint), turns(pack, joint)
        shift, scale, gate = tables[0]
        h_JD = modulate(x_JD, shift, scale, row_J, eps=self.eps)
        last = self.norm.shift.expand_as(gate), self.norm.scale.expand_as(gate)
        for i, block in enumerate(self.blocks):
            (*_, gate1), second = tables[2 * i : 2 * i + 2]
            after = tables[2 * i + 2][:2] if i + 1 < self.depth else last
            x_JD, h_JD = block(x_JD, h_JD, (gate1, *second, *after), row_J, angles, joint)
        shift, scale = self.head_modulation(condition).chunk(2, 1)
        shift, scale = shift + self.head_norm.shift * (1 + scale), (1 + self.head_norm.scale) * (1 + scale) - 1
        return self.head(modulate(joint.split(h_JD)[0], shift, scale, pack.row, eps=self.eps))


def turns(pack: Pack, joint: Joint) -> Angles:
    """cos and sin of tokens and text, which does not turn; None where positions are not rotary."""
    if "cos" not in pack.layout:
        return None
    cos, sin = pack.layout["cos"], pack.layout["sin"]
    still = cos.new_ones(len(joint.text_place), cos.shape[1])
    return joint.gather(cos, still), joint.gather(sin, torch.zeros_like(still))


def fit(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where a picture of this (height, width) lies that is scaled to fit into a frame, at its centre: top, left,
    height, width."""
    factor = frame[0] / size[0] if size[0] / size[1] > frame[0] / frame[1] else frame[1] / size[1]
    height, width = (round(factor * n) for n in size)
    return round((frame[0] - height) / 2), round((frame[1] - width) / 2), height, width


def spread(place: Tensor, count: int, start: int, length: int) -> Tensor:
    """Places 0..count - 1 evenly from `start` to one part of `count` before the end that a side of `length` has."""
    if count == 1:
        return place + start
    return start + place * (((start + length) * (count - 1) / count - start) / (count - 1))


def check_config(config: dict[str, Any]) -> None:
    """ValueError for what no checkpoint of the class has had."""
    for name, only in (
        ("activation_fn", "gelu-approximate"),
        ("timestep_activation_fn", "silu"),
        ("norm_elementwise_affine", True),
    ):
        if config[name] != only:
            raise ValueError(f"{name} must be {only}, got {config[name]!r}")
    rotary, learned = config["use_rotary_positional_embeddings"], config.get("use_learned_positional_embeddings", False)
    if learned and not rotary:
        raise ValueError("use_learned_positional_embeddings must be false without rotary ones, got true")
    if config.get("patch_size_t") is not None and (learned or not rotary):
        raise ValueError("with patch_size_t the positions must be rotary alone, got others")
    ofs, time = config.get("ofs_embed_dim"), config["time_embed_dim"]
    if ofs not in (None, time):
        raise ValueError(f"ofs_embed_dim must be time_embed_dim {time} or null, got {ofs}")
