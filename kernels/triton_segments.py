"""What the Triton kernels of attention over segments share: who computes what, and how a tile is read and written.

Programs are numbered segment by segment in the order of the work table, within a segment head by head: the longest
segments of all heads start first, so that the last wave is full, and blocks that share keys run side by side. The table
may have spare entries, so that one grid serves every plan of a bucket; their programs write the zeros of rows that lie
in no segment.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634


def split_dim(head_dim: int, dtype: torch.dtype) -> tuple[int, int]:
    """A head's columns as two powers of two, or one and 0: 80 is 64 and 16, 96 is 64 and 32 (but not in float32)."""
    least = 32 if dtype.itemsize == 1 else 16  # columns of one matrix instruction
    padded = max(least, triton.next_power_of_2(head_dim))
    wide = padded // 2
    tail = max(least, triton.next_power_of_2(max(head_dim - wide, 1)))
    return (wide, tail) if dtype.itemsize < 4 and wide >= least and wide + tail < padded else (padded, 0)


@triton.jit
def fill_outside(
    out: tl.tensor,
    cu_seqlens: tl.tensor,
    num_segments: int,
    num_tokens: int,
    spare: int,
    place: int,
    num_heads: tl.constexpr,
    head_dim: tl.constexpr,
    columns: tl.constexpr,
    query_block: tl.constexpr,
    block_m: tl.constexpr,
) -> None:  # zeros to a block of rows that lie in no segment; there are at least as many spare entries as such blocks
    parts: tl.constexpr = query_block // block_m
    first = tl.load(cu_seqlens)
    end = tl.load(cu_seqlens + num_segments)
    outside = spare * query_block + place % parts * block_m + tl.arange(0, block_m)
    row = tl.where(outside < first, outside, end + outside - first)
    column = tl.arange(0, columns)[None, :]
    target = out + (row.to(tl.int64)[:, None] * num_heads + place // parts) * head_dim + column
    zeros = tl.zeros([block_m, columns], out.dtype.element_ty)
    tl.store(target, zeros, (row < num_tokens)[:, None] & (column < head_dim))


@triton.jit
def place_of(
    program: int,
    entry: int,
    block: int,
    num_q: int,
    num_heads: tl.constexpr,
    query_block: tl.constexpr,
    block_m: tl.constexpr,
    backwards: tl.constexpr,
) -> tl.tuple:  # head and first query, in the segment, of a program of the table's entry for the segment's block
    parts: tl.constexpr = query_block // block_m
    blocks = tl.cdiv(num_q, query_block) * parts
    place = program - (entry - block) * (parts * num_heads)  # among the segment's programs, head by head
    part = place % blocks
    if backwards:
        part = blocks - 1 - part
    return place // blocks, part * block_m


@triton.jit
def load_block(
    pointers: tl.tensor, rows: tl.tensor, columns: tl.tensor, ragged: tl.constexpr, padded: tl.constexpr
) -> tl.tensor:  # zeros where a row does not exist, which may be where ragged, and beyond the head where padded
    if ragged and padded:
        return tl.load(pointers, rows[:, None] & columns[None, :], other=0.0)
    if ragged:
        return tl.load(pointers, rows[:, None], other=0.0)
    if padded:
        return tl.load(pointers, columns[None, :], other=0.0)
    return tl.load(pointers)


@triton.jit
def store_block(
    target: tl.tensor,
    rows: tl.tensor,
    acc_wide: tl.tensor,
    acc_tail: tl.tensor,
    norm: tl.tensor,
    head_dim: tl.constexpr,
    wide: tl.constexpr,
    tail: tl.constexpr,
) -> None:  # acc / norm, or 0 where no key was seen
    norm = tl.where(norm == 0, 1.0, norm)[:, None]
    dtype: tl.constexpr = target.dtype.element_ty
    column = tl.arange(0, wide)[None, :]
    tl.store(target + column, (acc_wide / norm).to(dtype), rows[:, None] & (column < head_dim))
    if tail:
        column = wide + tl.arange(0, tail)[None, :]
        tl.store(target + column, (acc_tail / norm).to(dtype), rows[:, None] & (column < head_dim))


def make_work(cu_seqlens: Tensor, num_tokens: int, block: int) -> Tensor:
    """The table that the planner writes, built on the device without reading it back: int32 [N, 2].

    N = ceil(num_tokens / block) + segments is enough for any lengths; entries that are left over have segment -1.
    """
    num_segments = cu_seqlens.shape[0] - 1
    lengths, order = cu_seqlens.diff().sort(descending=True, stable=True)
    blocks = (lengths + (block - 1)) // block
    ends = blocks.cumsum(0)
    entry = torch.arange(triton.cdiv(num_tokens, block) + num_segments, device=cu_seqlens.device)
    if num_segments == 0:
        return torch.stack((torch.full_like(entry, -1), torch.zeros_like(entry)), 1).int()
    rank = torch.searchsorted(ends, entry, right=True)
    inside, rank = rank < num_segments, rank.clamp(max=num_segments - 1)
    before = (ends - blocks)[rank]
    return torch.stack((torch.where(inside, order[rank], -1), torch.where(inside, entry - before, 0)), 1).int()


def new_output(q: Tensor, num_entries: int, num_segments: int, block: int) -> Tensor:
    """The output of attention for q [T, H, D]: zeros where a table of this size may not have enough spare entries."""
    enough = num_entries >= triton.cdiv(q.shape[0], block) + num_segments
    return (torch.empty if enough else torch.zeros)(q.shape, dtype=q.dtype, device=q.device)
