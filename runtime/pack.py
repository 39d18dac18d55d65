"""What a model sees of a pack: sequences laid end to end, and which condition row each token follows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Grid = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pack:
    """T tokens in S segments; R condition rows, each one noise level of one segment.

    A clip without conditions has one row a segment. Given tokens follow a row of a lower noise level.
    """

    cu_seqlens: Tensor  # int32 [S + 1], the first token of each segment, then T
    row: Tensor  # int32 [T], the condition row of each token
    timestep: Tensor  # float32 [R], 1000 sigma
    row_segment: Tensor  # int32 [R], the segment of each row
    text: Tensor  # [L, D] text states of all segments, no padding
    cu_seqlens_text: Tensor  # int32 [S + 1], the first text state of each segment, then L
    layout: dict[str, Tensor]  # what the family's `layout` says of each token's place, [T, n] each
    max_seqlen: int | None = None


def offsets(lengths: list[int]) -> Tensor:
    """int32 [n + 1]: the running sum of lengths, from 0."""
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
