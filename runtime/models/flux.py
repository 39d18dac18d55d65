"""Flux's transformer (Black Forest Labs, FLUX.1: dev and schnell), packed: two streams, then one.

T tokens, L text states, S segments, R condition rows, D width, H heads, K dimensions a head, C features of a token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import gated_residual, modulate, varlen_attention
from ..pack import Grid, Pack
from .layers import Linear
from .sd3 import FREQUENCIES, TABLES, Attention, Condition, JointBlock, Pair, Tables
from .transformer import PackedModel, places, rope_angles, rope_table, timestep_features

SIDE = 2  # of the patches that diffusers' pipeline makes: its class takes them for channels
THETA = 10000.0
UNIT = 1000.0  # timesteps and guidance in what their features take
SINGLE_TABLES = 3  # of a block of one stream: shift, scale, gate


class SingleBlock(nn.Module):
    """Tokens and text with the same weights; attention and MLP side by side."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, normed=True, output=False)
        self.fc1, self.fc2 = Linear(width, 4 * width), Linear(5 * width, width)

    def forward(self, both: Pair, tables: Tables, after: Tables, pack: Pack, angles: Pair) -> Pair:
        """x, and x modulated for this block, in the joint order -> the same for the next one."""
        assert pack.joint is not None
        x_JD, h_JD = both
        q, k, v = self.attention.project(h_JD, angles)
        y_JD = varlen_attention(q, k, v, pack.joint.cu_seqlens, max_seqlen=pack.joint.max_seqlen).flatten(1)
        y_JD = self.fc2(torch.cat([y_JD, self.fc1(h_JD, "gelu_tanh")], 1))
        return gated_residual(x_JD, y_JD, tables[2], pack.joint.row, shift=after[0], scale=after[1])


class FluxTransformer(PackedModel):
    """What the model predicts of images, velocity = noise - clean. Timesteps are sigma itself, in 0..1."""

    joint = True
    patch = (1, SIDE, SIDE)

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        width, self.depth, self.num_single = heads * head_dim, config["num_layers"], config["num_single_layers"]
        self.axes = tuple(config["axes_dims_rope"])
        channels, out_channels = config["in_channels"], config.get("out_channels") or config["in_channels"]
        check_config(config, head_dim, (channels, out_channels))
        self.in_channels, self.out_channels = channels // SIDE**2, out_channels // SIDE**2
        self.text_width = config["joint_attention_dim"]
        self.extras = {"pooled": (config["pooled_projection_dim"],)}
        self.embed, self.text = Linear(channels, width), Linear(self.text_width, width)
        self.condition = Condition(width, config["pooled_projection_dim"])
        if config.get("guidance_embeds"):
            self.extras["guidance"] = ()
            self.guidance1, self.guidance2 = Linear(FREQUENCIES, width), Linear(width, width)
        num_tables = 2 * TABLES * self.depth + SINGLE_TABLES * self.num_single
        self.modulation, self.last_modulation = Linear(width, num_tables * width), Linear(width, 2 * width)
        self.blocks = nn.ModuleList([JointBlock(width, heads, normed=True) for _ in range(self.depth)])
        self.singles = nn.ModuleList([SingleBlock(width, heads) for _ in range(self.num_single)])
        self.head = Linear(width, out_channels)

    def layout(self, grid: Grid, **extras: float) -> dict[str, Tensor]:
        return rope_table(rope_angles(places(grid), [n // 2 for n in self.axes], THETA))

    def embed_text(self, text: Tensor) -> Tensor:
        """Text states [l, text_width] -> [l, D]."""
        return self.text(text)

    def embed_extra(self, name: str, value: Tensor) -> Tensor:
        """Pooled text [pooled_projection_dim], or a guidance scale -> [D]."""
        if name == "pooled":
            return self.condition.embed_pooled(value)
        waves = timestep_features(UNIT * value[None], FREQUENCIES).to(self.guidance1.weight.dtype)
        return self.guidance2(self.guidance1(waves, "silu"))[0]

    def tables(self, pack: Pack) -> tuple[list[tuple[Tables, Tables]], list[Tables]]:
        """Of every block of two streams those of tokens and text; of every block of one its own; each list ends with
        what follows, a shift and a scale. All [R, D]."""
        added = [pack.extra[name] for name in ("guidance", "pooled") if name in self.extras]
        condition_RD = self.condition(UNIT * pack.timestep, pack.row_segment, *added)
        tables = self.modulation(condition_RD).split(condition_RD.shape[1], 1)
        start = 2 * TABLES * self.depth
        blocks = [tables[i : i + TABLES] for i in range(0, start, TABLES)]
        singles = [tables[i : i + SINGLE_TABLES] for i in range(start, len(tables), SINGLE_TABLES)]
        singles.append(self.last_modulation(condition_RD).chunk(2, 1))
        return [*zip(blocks[::2], blocks[1::2], strict=True), (singles[0], singles[0])], singles

    def forward(self, x_TC: Tensor, pack: Pack) -> Tensor:
        """Tokens of the pack [T, C] -> their velocities [T, C_out]."""
        assert pack.joint is not None
        doubles, singles = self.tables(pack)
        x_TD = self.embed(x_TC)
        of_tokens, of_text = doubles[0]
        tokens = x_TD, modulate(x_TD, of_tokens[0], of_tokens[1], pack.row)
        text = pack.text, modulate(pack.text, of_text[0], of_text[1], pack.joint.text_row)
        cos, sin = pack.layout["cos"], pack.layout["sin"]
        for block, tables, after in zip(self.blocks, doubles[:-1], doubles[1:], strict=True):
            tokens, text = block(tokens, text, tables, after, pack, (cos, sin))
        both = pack.joint.gather(tokens[0], text[0]), pack.joint.gather(tokens[1], text[1])
        still = cos.new_ones(len(pack.text), cos.shape[1])  # text has no place: it is turned by an angle of 0
        angles = pack.joint.gather(cos, still), pack.joint.gather(sin, torch.zeros_like(still))
        for single, own, following in zip(self.singles, singles[:-1], singles[1:], strict=True):
            both = single(both, own, following, pack, angles)
        return self.head(pack.joint.split(both[1])[0])


def check_config(config: dict[str, Any], head_dim: int, channels: tuple[int, int]) -> None:
    """ValueError for what no checkpoint of the class has had."""
    if config.get("patch_size", 1) != 1:
        raise ValueError(f"patch_size must be 1, as the pipeline makes patches of its own, got {config['patch_size']}")
    if any(n % SIDE**2 for n in channels):
        raise ValueError(f"in_channels and out_channels must be multiples of {SIDE**2}, got {channels}")
    axes = config["axes_dims_rope"]
    if len(axes) != 3 or sum(axes) != head_dim or any(n % 2 for n in axes):
        raise ValueError(f"axes_dims_rope must be three even numbers of the sum {head_dim}, got {list(axes)}")
