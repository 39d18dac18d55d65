"""Stable Diffusion 3's transformer (arXiv 2403.03206), packed: 3 medium, and 3.5 medium and large.

T tokens, L text states, S segments, R condition rows, D width, H heads, K dimensions a head, C features of a token.
Tokens and text have projections and MLPs of their own and share one attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import gated_residual, modulate, norm_silu, qk_norm_rope, varlen_attention
from ..pack import Grid, Pack
from .layers import Linear, parameter
from .transformer import PackedModel, timestep_features

FREQUENCIES = 256  # of the timestep's features
TABLES = 6  # of a side in a block: shift, scale, gate of its attention and of its MLP

Pair = tuple[Tensor, Tensor]
"""The tokens or the text: x, and x normed and modulated for what comes next; or a shift and a scale."""
Tables = Sequence[Tensor]


class Condition(nn.Module):
    """What adaptive norms follow: timesteps in 0..1000 and vectors [D] that a prompt adds to their embedding."""

    def __init__(self, width: int, pooled_width: int) -> None:
        super().__init__()
        self.time1, self.time2 = Linear(FREQUENCIES, width), Linear(width, width)
        self.pooled1, self.pooled2 = Linear(pooled_width, width), Linear(width, width)

    def embed_pooled(self, pooled: Tensor) -> Tensor:
        """Pooled text [pooled_width] -> [D]."""
        return self.pooled2(self.pooled1(pooled[None], "silu"))[0]

    def forward(self, timestep_R: Tensor, row_segment_R: Tensor, *added_SD: Tensor) -> Tensor:
        """-> [R, D], after the SiLU that precedes every projection to tables."""
        waves = timestep_features(timestep_R, FREQUENCIES).to(self.time1.weight.dtype)
        total_RD = self.time2(self.time1(waves, "silu"))
        for vector_SD in added_SD:
            total_RD = total_RD + vector_SD.index_select(0, row_segment_R)
        return norm_silu(total_RD, norm="none")


class Attention(nn.Module):
    """Queries, keys, values and output of one side; `normed`: an RMS norm of the queries and keys of each head."""

    def __init__(self, width: int, heads: int, *, normed: bool, output: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.q_norm = parameter(width // heads) if normed else None
        self.k_norm = parameter(width // heads) if normed else None
        self.out = Linear(width, width) if output else None

    def project(self, h_TD: Tensor, angles: Pair | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """h -> q, k, v [T, H, K], normed, and turned by angles whose cos and sin [T, K / 2] are given."""
        q, k, v = self.qkv(h_TD).view(len(h_TD), 3, self.heads, -1).unbind(1)
        if angles is not None:
            q, k = qk_norm_rope(q, k, *angles, q_weight=self.q_norm, k_weight=self.k_norm)
        elif self.q_norm is not None:
            q, k = (norm_silu(a, w, activation=False) for a, w in ((q, self.q_norm), (k, self.k_norm)))
        return q, k, v


class Side(nn.Module):
    """What tokens or text have of their own in a block. `ends`: its attention is all that the block needs of it."""

    def __init__(self, width: int, heads: int, *, normed: bool, ends: bool = False) -> None:
        super().__init__()
        self.attention = Attention(width, heads, normed=normed, output=not ends)
        self.fc1 = None if ends else Linear(width, 4 * width)
        self.fc2 = None if ends else Linear(4 * width, width)

    def forward(self, x_TD: Tensor, y_TD: Tensor, tables: Tables, after: Tables, row_T: Tensor) -> Pair:
        """x and what attention gave -> x after output and MLP, also modulated by `after`, the next shift and scale."""
        assert self.attention.out is not None
        assert self.fc1 is not None
        assert self.fc2 is not None
        gate1, shift, scale, gate2 = tables[2:TABLES]
        x_TD, h_TD = gated_residual(x_TD, self.attention.out(y_TD), gate1, row_T, shift=shift, scale=scale)
        y_TD = self.fc2(self.fc1(h_TD, "gelu_tanh"))
        return gated_residual(x_TD, y_TD, gate2, row_T, shift=after[0], scale=after[1])


class JointBlock(nn.Module):
    """Tokens and text, each with their own weights, in one attention. `last`: nothing follows for the text.

    dual: the tokens have a second attention to themselves, with three more tables.
    """

    def __init__(self, width: int, heads: int, *, normed: bool, last: bool = False, dual: bool = False) -> None:
        super().__init__()
        self.tokens = Side(width, heads, normed=normed)
        self.text = Side(width, heads, normed=normed, ends=last)
        self.second = Attention(width, heads, normed=normed) if dual else None

    def attend(self, h_TD: Tensor, h_LD: Tensor, angles: Pair | None, pack: Pack) -> tuple[Tensor, Tensor]:
        assert pack.joint is not None
        sides = zip(self.tokens.attention.project(h_TD, angles), self.text.attention.project(h_LD), strict=True)
        q, k, v = (pack.joint.gather(of_tokens, of_text) for of_tokens, of_text in sides)
        y = varlen_attention(q, k, v, pack.joint.cu_seqlens, max_seqlen=pack.joint.max_seqlen)
        return pack.joint.split(y.flatten(1))

    def attend_alone(self, attention: Attention, x_TD: Tensor, tables: Tables, pack: Pack) -> Tensor:
        """x after the tokens' attention to themselves."""
        assert attention.out is not None
        shift, scale, gate = tables
        q, k, v = attention.project(modulate(x_TD, shift, scale, pack.row))
        y_TD = varlen_attention(q, k, v, pack.cu_seqlens, max_seqlen=pack.max_seqlen).flatten(1)
        return gated_residual(x_TD, attention.out(y_TD), gate, pack.row)

    def forward(
        self,
        tokens: Pair,
        text: Pair,
        tables: tuple[Tables, Tables],
        after: tuple[Tables, Tables],
        pack: Pack,
        angles: Pair | None = None,
    ) -> tuple[Pair, Pair]:
        """Tokens and text -> the same for the next block; the last one leaves the text as it is.

        tables, after: this block's, and the next shift and scale, of tokens and of text, [R, D] each; angles: cos and
        sin [T, K / 2] of the tokens' rotary embedding.
        """
        assert pack.joint is not None
        x_TD, x_LD = tokens[0], text[0]
        y_TD, y_LD = self.attend(tokens[1], text[1], angles, pack)
        if self.second is not None:
            x_TD = self.attend_alone(self.second, x_TD, tables[0][TABLES:], pack)
        tokens = self.tokens(x_TD, y_TD, tables[0], after[0], pack.row)
        if self.text.fc1 is not None:
            text = self.text(x_LD, y_LD, tables[1], after[1], pack.joint.text_row)
        return tokens, text


class SD3Transformer(PackedModel):
    """What the model predicts of images, velocity = noise - clean. Timesteps in 0..1000."""

    joint = True

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        heads, self.depth, side = config["num_attention_heads"], config["num_layers"], config["patch_size"]
        width, dual = heads * config["attention_head_dim"], set(config.get("dual_attention_layers") or ())
        check_config(config, width)
        self.patch = (1, side, side)
        self.in_channels = config["in_channels"]
        self.out_channels = config.get("out_channels") or self.in_channels
        self.text_width = config["joint_attention_dim"]
        self.extras = {"pooled": (config["pooled_projection_dim"],)}
        self.embed = Linear(self.in_channels * side**2, width)
        self.max_side = config["pos_embed_max_size"]
        self.position = parameter(self.max_side**2, width)
        self.text = Linear(self.text_width, width)
        self.condition = Condition(width, config["pooled_projection_dim"])
        normed = config.get("qk_norm") is not None
        self.blocks = nn.ModuleList(
            [
                JointBlock(width, heads, normed=normed, last=i + 1 == self.depth, dual=i in dual)
                for i in range(self.depth)
            ]
        )
        self.num_tables = [TABLES + 3 * (i in dual) for i in range(self.depth)]
        self.modulation = Linear(width, (sum(self.num_tables) + TABLES * (self.depth - 1)) * width)
        self.last_modulation = Linear(width, 4 * width)
        self.head = Linear(width, self.out_channels * side**2)

    def layout(self, grid: Grid, **extras: float) -> dict[str, Tensor]:
        """Nothing: places are `indices`. ValueError for a grid that has places without a position."""
        if grid[0] != 1 or max(grid) > self.max_side:
            raise ValueError(f"this model makes images of at most {self.max_side} tokens a side, got {grid} (t, y, x)")
        return {}

    def indices(self, grids: Sequence[Grid], text_lengths: Sequence[int]) -> dict[str, Tensor]:
        """`place`: int64 [T], where in the square of positions, of which images are the middle, each token lies."""
        places = []
        for _, height, width in grids:
            top, left = (self.max_side - height) // 2, (self.max_side - width) // 2
            rows, columns = torch.arange(top, top + height), torch.arange(left, left + width)
            places.append((rows[:, None] * self.max_side + columns).flatten())
        return {"place": torch.cat(places)}

    def embed_text(self, text: Tensor) -> Tensor:
        """Text states [l, text_width] -> [l, D]."""
        return self.text(text)

    def embed_extra(self, name: str, value: Tensor) -> Tensor:
        """Pooled text [pooled_projection_dim] -> [D]."""
        return self.condition.embed_pooled(value)

    def tables(self, pack: Pack) -> list[tuple[Tables, Tables]]:
        """Of every block those of tokens and text, and then the head's shift and scale, [R, D] each."""
        condition_RD = self.condition(pack.timestep, pack.row_segment, pack.extra["pooled"])
        tables = self.modulation(condition_RD).split(condition_RD.shape[1], 1)
        *last_text, shift, scale = self.last_modulation(condition_RD).chunk(4, 1)
        tables = [*tables, *last_text]
        found: list[tuple[Tables, Tables]] = []
        for count in self.num_tables:
            found.append((tables[:count], tables[count : count + TABLES]))
            del tables[: count + TABLES]
        return [*found, ((shift, scale), ())]

    def forward(self, x_TC: Tensor, pack: Pack) -> Tensor:
        """Tokens of the pack [T, C] -> their velocities [T, C_out]."""
        assert pack.joint is not None
        tables = self.tables(pack)
        x_TD = self.embed(x_TC)
        x_TD = (x_TD + self.position.index_select(0, pack.index["place"])).to(x_TD.dtype)
        of_tokens, of_text = tables[0]
        tokens = x_TD, modulate(x_TD, of_tokens[0], of_tokens[1], pack.row)
        text = pack.text, modulate(pack.text, of_text[0], of_text[1], pack.joint.text_row)
        for block, own, after in zip(self.blocks, tables[:-1], tables[1:], strict=True):
            tokens, text = block(tokens, text, own, after, pack)
        return self.head(tokens[1])


def check_config(config: dict[str, Any], width: int) -> None:
    """ValueError for what no checkpoint of the class has had."""
    if config.get("qk_norm") not in (None, "rms_norm"):
        raise ValueError(f"qk_norm must be rms_norm or null, got {config['qk_norm']!r}")
    if config["caption_projection_dim"] != width:
        raise ValueError(f"caption_projection_dim must be the width {width}, got {config['caption_projection_dim']}")
