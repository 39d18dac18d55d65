"""Wan's transformer (arXiv 2503.20314), packed: 2.1 T2V and I2V, 2.2 5B, and each expert of the A14B.

T tokens, S segments, R condition rows, L text states, N blocks, D width, H heads, K dimensions a head, C features of a
token. A condition row is one timestep of one sequence: tokens of different timesteps (2.2 5B) follow different rows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import gated_residual, modulate, norm_silu, qk_norm_rope, varlen_attention
from ..pack import Grid, Pack
from .layers import LayerNorm, Linear, parameter
from .transformer import PackedModel, places, rope_angles, rope_table, timestep_features

IMAGE_EPS = 1e-5  # of the norms around the image's projection; the config's is of the blocks'


class Attention(nn.Module):
    """Queries and output of an attention to keys and values [L, 2, D] that were projected at admission."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads, self.eps = heads, eps
        self.q, self.out = Linear(width, width), Linear(width, width)
        self.q_norm = parameter(width)

    def forward(self, x_TD: Tensor, text_L2D: Tensor, image_M2D: Tensor | None, pack: Pack) -> Tensor:
        """The image, where there is one, is attended to by itself, and what that gives is added."""
        q_THK = norm_silu(self.q(x_TD), self.q_norm, activation=False, eps=self.eps).unflatten(1, (self.heads, -1))
        k_LHK, v_LHK = text_L2D.unflatten(2, (self.heads, -1)).unbind(1)
        offsets = pack.cu_seqlens, pack.cu_seqlens_text
        y = varlen_attention(q_THK, k_LHK, v_LHK, *offsets, key_bias=pack.text_bias, max_seqlen=pack.max_seqlen)
        if image_M2D is not None:
            k_MHK, v_MHK = image_M2D.unflatten(2, (self.heads, -1)).unbind(1)
            offsets = pack.cu_seqlens, pack.extra["cu_seqlens_image"]
            y = y + varlen_attention(q_THK, k_MHK, v_MHK, *offsets, max_seqlen=pack.max_seqlen)
        return self.out(y.flatten(1))


class Block(nn.Module):
    """Self-attention, cross-attention, MLP. Only the first and the last have gates."""

    def __init__(self, width: int, heads: int, mlp: int, eps: float, cross_norm: bool) -> None:
        super().__init__()
        self.heads, self.eps = heads, eps
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.q_norm, self.k_norm = parameter(width), parameter(width)
        self.cross_norm = LayerNorm(width, eps) if cross_norm else None
        self.cross = Attention(width, heads, eps)
        self.fc1, self.fc2 = Linear(width, mlp), Linear(mlp, width)

    def attention(self, h_TD: Tensor, pack: Pack) -> Tensor:
        q, k, v = self.qkv(h_TD).view(len(h_TD), 3, self.heads, -1).unbind(1)
        q, k = qk_norm_rope(
            *(q, k, pack.layout["cos"], pack.layout["sin"]),
            q_weight=self.q_norm,
            k_weight=self.k_norm,
            across_heads=True,
            eps=self.eps,
        )
        y_THK = varlen_attention(q, k, v, pack.cu_seqlens, max_seqlen=pack.max_seqlen)
        return self.out(y_THK.flatten(1))

    def forward(
        self,
        x_TD: Tensor,
        h_TD: Tensor,
        states: tuple[Tensor, Tensor | None],
        tables: tuple[Tensor, ...],
        pack: Pack,
    ) -> tuple[Tensor, Tensor]:
        """x, and x normed and modulated for this block -> the same for the next one.

        states: this block's keys and values of text and image; tables: its gate, shift, scale, gate [R, D] after the
        first two, then the next norm's shift and scale.
        """
        gate1, shift2, scale2, gate2, next_shift, next_scale = tables
        y_TD = self.attention(h_TD, pack)
        if self.cross_norm is None:
            x_TD = h_TD = gated_residual(x_TD, y_TD, gate1, pack.row)
        else:
            shift, scale = (a.expand_as(gate1) for a in (self.cross_norm.shift, self.cross_norm.scale))
            x_TD, h_TD = gated_residual(x_TD, y_TD, gate1, pack.row, shift=shift, scale=scale, eps=self.eps)
        y_TD = self.cross(h_TD, *states, pack)
        whole = torch.ones_like(gate1[:1]).expand_as(gate1)
        x_TD, h_TD = gated_residual(x_TD, y_TD, whole, pack.row, shift=shift2, scale=scale2, eps=self.eps)
        y_TD = self.fc2(self.fc1(h_TD, "gelu_tanh"))
        return gated_residual(x_TD, y_TD, gate2, pack.row, shift=next_shift, scale=next_scale, eps=self.eps)


class ImageEmbedding(nn.Module):
    """An image encoder's states [n, image_dim] -> [n, D]."""

    def __init__(self, image_dim: int, width: int, num_rows: int | None) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(image_dim, IMAGE_EPS), LayerNorm(width, IMAGE_EPS)
        self.fc1, self.fc2 = Linear(image_dim, image_dim), Linear(image_dim, width)
        self.position = None if num_rows is None else parameter(num_rows, image_dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.position is not None:  # of the first and the last frame
            if len(x) != len(self.position):
                raise ValueError(f"image must be [{len(self.position)}, {x.shape[1]}], got {list(x.shape)}")
            x = x + self.position
        return self.norm2(self.fc2(self.fc1(self.norm1(x), "gelu")))


class WanTransformer(PackedModel):
    """What the model predicts, velocity = noise - clean. Timesteps in 0..1000."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        heads, self.head_dim, depth = config["num_attention_heads"], config["attention_head_dim"], config["num_layers"]
        width, image_dim = heads * self.head_dim, config.get("image_dim")
        check_config(config, width)
        self.patch = tuple(config["patch_size"])
        self.in_channels = config["in_channels"]
        self.out_channels = config.get("out_channels") or self.in_channels
        self.text_width, self.frequencies = config["text_dim"], config["freq_dim"]
        self.width, self.depth, self.eps = width, depth, config["eps"]
        volume = math.prod(self.patch)
        self.embed = Linear(self.in_channels * volume, width)
        self.time1, self.time2 = Linear(self.frequencies, width, wide=True), Linear(width, width, wide=True)
        self.text1, self.text2 = Linear(self.text_width, width), Linear(width, width)
        self.text_kv, self.text_k_norm = Linear(width, 2 * depth * width), parameter(depth, width)
        if image_dim is not None:
            self.extras = {"image": (None, image_dim)}
            self.image = ImageEmbedding(image_dim, width, config.get("pos_embed_seq_len"))
            self.image_kv, self.image_k_norm = Linear(width, 2 * depth * width), parameter(depth, width)
        self.time_modulation = Linear(width, 6 * width, bias=False)  # each block has a bias of its own
        self.modulation, self.head_modulation = parameter(depth, 6 * width, wide=True), parameter(2, width, wide=True)
        shape = width, heads, config["ffn_dim"], self.eps, config["cross_attn_norm"]
        self.blocks = nn.ModuleList([Block(*shape) for _ in range(depth)])
        self.head = Linear(width, self.out_channels * volume)

    def layout(self, grid: Grid, **extras: float) -> dict[str, Tensor]:
        side = self.head_dim // 6  # pairs that turn with y, and as many with x
        return rope_table(rope_angles(places(grid), (self.head_dim // 2 - 2 * side, side, side), 10000.0))

    def embed_text(self, text: Tensor) -> Tensor:
        """Text states [l, text_width] -> keys and values of all blocks, [l, N * 2 * D]."""
        return self.keys_values(self.text2(self.text1(text, "gelu_tanh")), self.text_kv, self.text_k_norm)

    def embed_extra(self, name: str, value: Tensor) -> Tensor:
        """Image states [n, image_dim] -> keys and values of all blocks, [n, N * 2 * D]."""
        return self.keys_values(self.image(value), self.image_kv, self.image_k_norm)

    def keys_values(self, states_LD: Tensor, project: Linear, k_norm_ND: Tensor) -> Tensor:
        """Of every block the keys, normed, and the values of these states."""
        both = project(states_LD).unflatten(1, (self.depth, 2, self.width))
        for i, weight_D in enumerate(k_norm_ND):
            both[:, i, 0] = norm_silu(both[:, i, 0], weight_D, activation=False, eps=self.eps)
        return both.flatten(1)

    def condition(self, timestep_R: Tensor) -> tuple[Tensor, Tensor]:
        """The time embedding [R, D], float32, and its part [R, 6 * D] of every block's modulation."""
        waves = timestep_features(timestep_R, self.frequencies).to(self.time1.weight.dtype)
        time_RD = self.time2(self.time1(waves, "silu"))
        active_RD = norm_silu(time_RD, norm="none").to(self.time_modulation.weight.dtype)
        return time_RD, self.time_modulation(active_RD)

    def forward(self, x_TC: Tensor, pack: Pack) -> Tensor:
        """Tokens of the pack [T, C] -> their velocities [T, C_out]."""
        time_RD, shared = self.condition(pack.timestep)
        text = pack.text.unflatten(1, (self.depth, 2, self.width)).unbind(1)
        image = (
            pack.extra["image"].unflatten(1, (self.depth, 2, self.width)).unbind(1)
            if self.extras
            else [None] * self.depth
        )
        x_TD = self.embed(x_TC)
        tables = (shared + self.modulation[0]).chunk(6, 1)
        h_TD = modulate(x_TD, tables[0], tables[1], pack.row, eps=self.eps)
        for i, block in enumerate(self.blocks):
            if i + 1 < self.depth:
                after = (shared + self.modulation[i + 1]).chunk(6, 1)
            else:
                after = tuple(time_RD + table_D for table_D in self.head_modulation)
            x_TD, h_TD = block(x_TD, h_TD, (text[i], image[i]), (*tables[2:], *after[:2]), pack)
            tables = after
        return self.head(h_TD)


def check_config(config: dict[str, Any], width: int) -> None:
    """ValueError for what no checkpoint of the class has had."""
    norm = config.get("qk_norm", "rms_norm_across_heads")
    if norm != "rms_norm_across_heads":
        raise ValueError(f"qk_norm must be rms_norm_across_heads, got {norm!r}")
    added, image_dim = config.get("added_kv_proj_dim"), config.get("image_dim")
    if added != (None if image_dim is None else width):
        raise ValueError(f"added_kv_proj_dim must be the width {width} with image_dim and null without, got {added}")
