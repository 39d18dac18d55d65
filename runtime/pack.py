"""What a model sees of a pack: sequences laid end to end, and which condition row each token follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .models.transformer import PackedModel

Grid = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segment:
    """One sequence of a pack: L tokens that follow R noise levels, and l embedded text states."""

    grid: Grid  # of the tokens
    layout: dict[str, Tensor]  # the model's `layout` of that grid, [L, n] each
    row: Tensor  # int64 [L] on the host: which of `timesteps` each token follows
    timesteps: Sequence[float]  # R
    text: Tensor  # [l, W], of the model's `embed_text`
    text_bias: Tensor | None = None  # float32 [l]: log of how many equal states each one stands for
    extra: dict[str, Tensor] = field(default_factory=dict)  # of the model's `embed_extra`, without the batch dimension


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Joint:
    """Where a segment's tokens and its text states lie when both share one attention: tokens, then text.

    T tokens and L text states of S segments.
    """

    token_place: Tensor  # int64 [T], the place of each token among the T + L
    text_place: Tensor  # int64 [L], of each text state
    cu_seqlens: Tensor  # int32 [S + 1]
    text_row: Tensor  # int32 [L], the condition row of each text state: its segment's noisiest
    row: Tensor  # int32 [T + L], the condition row of each place
    max_seqlen: int

    def gather(self, tokens: Tensor, text: Tensor) -> Tensor:
        """tokens [T, ...] and text [L, ...], also strided -> both [T + L, ...], segment by segment."""
        if len(self.cu_seqlens) == 2:
            return torch.cat([tokens, text])
        both = tokens.new_empty(len(tokens) + len(text), *tokens.shape[1:])
        return both.index_copy_(0, self.token_place, tokens).index_copy_(0, self.text_place, text)

    def split(self, both: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `gather`."""
        if len(self.cu_seqlens) == 2:
            return both[: len(self.token_place)], both[len(self.token_place) :]
        return both.index_select(0, self.token_place), both.index_select(0, self.text_place)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pack:
    """T tokens in S segments; R condition rows, each one noise level of one segment; L text states.

    A clip without conditions has one row a segment. Given tokens follow a row of a lower noise level.
    """

    cu_seqlens: Tensor  # int32 [S + 1], the first token of each segment, then T
    row: Tensor  # int32 [T], the condition row of each token
    timestep: Tensor  # float32 [R], what diffusers' forward takes: 1000 sigma in flow models
    row_segment: Tensor  # int32 [R], the segment of each row
    text: Tensor  # [L, W] text states of all segments as the model's `embed_text` gave them, no padding
    cu_seqlens_text: Tensor  # int32 [S + 1], the first text state of each segment, then L
    text_bias: Tensor | None = None  # float32 [L], added to the scores of each state as a key
    layout: dict[str, Tensor]  # what the family's `layout` says of each token's place, [T, n] each
    extra: dict[str, Tensor] = field(default_factory=dict)  # [S, ...]; or all rows, with their "cu_seqlens_" + name
    index: dict[str, Tensor] = field(default_factory=dict)  # the family's `indices`
    joint: Joint | None = None  # where the family is joint
    max_seqlen: int | None = None


def offsets(lengths: Sequence[int]) -> Tensor:
    """int32 [n + 1]: the running sum of lengths, from 0."""
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def make_pack(model: PackedModel, segments: Sequence[Segment], device: torch.device) -> Pack:
    """Lays segments end to end for `model`, from what the host knows."""
    lengths, text_lengths = [len(s.row) for s in segments], [len(s.text) for s in segments]
    bases = offsets([len(s.timesteps) for s in segments])[:-1].tolist()
    row = torch.cat([s.row + base for s, base in zip(segments, bases, strict=True)]).to(torch.int32)
    owners = [i for i, s in enumerate(segments) for _ in s.timesteps]
    joint = None
    if model.joint:
        noisiest = [
            base + max(range(len(s.timesteps)), key=lambda k, s=s: s.timesteps[k])  # type: ignore[misc]
            for s, base in zip(segments, bases, strict=True)
        ]
        joint = make_joint(lengths, text_lengths, row, noisiest, device)
    return Pack(
        cu_seqlens=offsets(lengths).to(device),
        row=row.to(device),
        timestep=torch.tensor([t for s in segments for t in s.timesteps], dtype=torch.float32, device=device),
        row_segment=torch.tensor(owners, dtype=torch.int32, device=device),
        text=torch.cat([s.text for s in segments]),
        cu_seqlens_text=offsets(text_lengths).to(device),
        text_bias=_text_bias(segments),
        layout={k: torch.cat([s.layout[k] for s in segments]) for k in segments[0].layout},
        extra=_extra(model, segments, device),
        index={k: v.to(device) for k, v in model.indices([s.grid for s in segments], text_lengths).items()},
        joint=joint,
        max_seqlen=max(lengths),
    )


def make_joint(
    lengths: Sequence[int], text_lengths: Sequence[int], row: Tensor, segment_row: Sequence[int], device: torch.device
) -> Joint:
    """The joint order of segments of these lengths.

    row: int32 [T], the condition row of each token; segment_row: the one that a segment's text follows.
    """
    pairs = list(zip(lengths, text_lengths, strict=True))
    totals = [a + b for a, b in pairs]
    cu_seqlens = offsets(totals)
    starts = cu_seqlens[:-1].tolist()
    token_place = torch.cat([torch.arange(start, start + a) for start, (a, _) in zip(starts, pairs, strict=True)])
    text_place = torch.cat(
        [torch.arange(start + a, start + a + b) for start, (a, b) in zip(starts, pairs, strict=True)]
    )
    text_row = torch.tensor(segment_row, dtype=torch.int32).repeat_interleave(torch.tensor(text_lengths))
    both = torch.empty(sum(totals), dtype=torch.int32)
    both[token_place], both[text_place] = row, text_row
    return Joint(
        token_place=token_place.to(device),
        text_place=text_place.to(device),
        cu_seqlens=cu_seqlens.to(device),
        text_row=text_row.to(device),
        row=both.to(device),
        max_seqlen=max(totals),
    )


def _text_bias(segments: Sequence[Segment]) -> Tensor | None:
    if all(s.text_bias is None for s in segments):
        return None
    return torch.cat(
        [
            torch.zeros(len(s.text), device=s.text.device) if s.text_bias is None else s.text_bias.to(s.text.device)
            for s in segments
        ]
    )


def _extra(model: PackedModel, segments: Sequence[Segment], device: torch.device) -> dict[str, Tensor]:
    extra = {}
    for name in segments[0].extra:
        values = [s.extra[name] for s in segments]
        if model.extras[name][:1] == (None,):
            extra[name] = torch.cat(values)
            extra[f"cu_seqlens_{name}"] = offsets([len(v) for v in values]).to(device)
        else:
            extra[name] = torch.stack(values)
    return extra
