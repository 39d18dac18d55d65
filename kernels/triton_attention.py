"""The Triton kernel of `varlen_attention`: flash attention forward (arXiv 2205.14135, algorithm 1) over segments.

Apart from its reference because Triton is optional and a kernel needs it to be defined. A program takes one entry of
the work table, a block of queries of one segment, for one head, and goes over that segment's keys in order. It reads
through pointers and no row of another segment, so that not even a NaN of a neighbour reaches it; and its order of
operations follows from the widths, the dtype and the segment alone, so a segment's result does not depend on its
companions.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .backend import interpreted

LOG2_E = 1.4426950408889634


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """How a program cuts its work. block_m divides QUERY_BLOCK."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def tiles(padded_dim: int, dtype: torch.dtype, arch: int) -> Tiles:
    """For a GPU of compute capability arch (90 is Hopper). Not lengths: they must not change a segment's bits.

    Not timed on a GPU yet: large tiles that compile without spills and fit the chip's shared memory.
    """
    if dtype == torch.float32:
        if padded_dim > 128:
            return Tiles(block_m=16, block_n=16, num_warps=4, num_stages=1)
        return Tiles(block_m=64 if padded_dim <= 64 else 32, block_n=32, num_warps=8, num_stages=1)
    if padded_dim > 128:
        return Tiles(block_m=64, block_n=32, num_warps=4 if wide_products(arch) else 8, num_stages=2)
    block_n = 64 if padded_dim <= 64 or wide_products(arch) else 32
    return Tiles(block_m=128, block_n=block_n, num_warps=8, num_stages=2)


def wide_products(arch: int) -> bool:
    """Whether matrix products read shared memory rather than registers: Hopper's wgmma, Blackwell's tcgen05."""
    return 90 <= arch < 120


def current_arch() -> int:
    """The compute capability of the GPU that kernels are compiled for; Hopper's under the interpreter."""
    return 90 if interpreted() else triton.runtime.driver.active.get_current_target().arch


@triton.jit
def attention_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    out: tl.tensor,
    work: tl.tensor,
    cu_seqlens_q: tl.tensor,
    cu_seqlens_k: tl.tensor,
    scale: float,
    stride_qt: int,
    stride_qh: int,
    stride_kt: int,
    stride_kh: int,
    stride_vt: int,
    stride_vh: int,
    num_heads: int,
    head_dim: tl.constexpr,
    padded_dim: tl.constexpr,
    unit: tl.constexpr,
    group: tl.constexpr,
    causal: tl.constexpr,
    query_block: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
) -> None:
    stride_qt, stride_qh = stride_qt * unit, stride_qh * unit  # now known to be multiples: loads are wide
    stride_kt, stride_kh = stride_kt * unit, stride_kh * unit
    stride_vt, stride_vh = stride_vt * unit, stride_vh * unit
    parts: tl.constexpr = query_block // block_m
    entry = tl.program_id(0) // parts
    segment = tl.load(work + 2 * entry)
    if segment < 0:
        return
    first_q = tl.load(cu_seqlens_q + segment).to(tl.int64)
    num_q = (tl.load(cu_seqlens_q + segment + 1) - first_q).to(tl.int32)
    start = tl.load(work + 2 * entry + 1) * query_block + tl.program_id(0) % parts * block_m
    if start >= num_q:
        return
    first_k = tl.load(cu_seqlens_k + segment).to(tl.int64)
    num_k = (tl.load(cu_seqlens_k + segment + 1) - first_k).to(tl.int32)
    head = tl.program_id(1).to(tl.int64)

    query = start + tl.arange(0, block_m)
    column = tl.arange(0, padded_dim)
    in_head = (column < head_dim)[None, :]
    mask_q = (query < num_q)[:, None] & in_head
    q_pointers = q + (first_q + query)[:, None] * stride_qt + head * stride_qh + column[None, :]
    q_block = tl.load(q_pointers, mask_q, other=0.0)

    last_key = query + (num_k - num_q)  # the last that a causal query sees: bottom right
    end = num_k
    if causal:
        end = tl.minimum(num_k, start + block_m + num_k - num_q)
    top = tl.full([block_m], float("-inf"), tl.float32)
    norm = tl.zeros([block_m], tl.float32)
    acc = tl.zeros([block_m, padded_dim], tl.float32)
    key = tl.arange(0, block_n)
    k_pointers = k + (first_k + key)[:, None] * stride_kt + head // group * stride_kh + column[None, :]
    v_pointers = v + (first_k + key)[:, None] * stride_vt + head // group * stride_vh + column[None, :]
    for offset in tl.range(0, end, block_n):
        in_segment = offset + key < num_k
        mask_k = in_segment[:, None] & in_head
        k_block = tl.load(k_pointers, mask_k, other=0.0)
        scores = tl.dot(q_block, tl.trans(k_block), input_precision="ieee") * scale
        visible = in_segment[None, :]
        if causal:
            visible = visible & (offset + key[None, :] <= last_key[:, None])
        scores = tl.where(visible, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)  # no key seen so far: all weights 0, not NaN
        weights = tl.exp2(scores - base[:, None])
        decay = tl.exp2(top - base)
        norm = norm * decay + tl.sum(weights, 1)
        v_block = tl.load(v_pointers, mask_k, other=0.0)
        acc = tl.dot(weights.to(v_block.dtype), v_block, acc * decay[:, None], input_precision="ieee")
        top = new_top
        k_pointers += block_n * stride_kt
        v_pointers += block_n * stride_vt
    acc = acc / tl.where(norm == 0, 1.0, norm)[:, None]
    target = out + ((first_q + query)[:, None] * num_heads + head) * head_dim + column[None, :]
    tl.store(target, acc.to(out.dtype.element_ty), mask_q)


def make_work(cu_seqlens: Tensor, num_tokens: int, block: int) -> Tensor:
    """The table that the planner writes, built on the device without reading it back: int32 [N, 2].

    N = ceil(num_tokens / block) + segments is enough for any lengths; entries that are left over have segment -1.
    """
    num_segments = cu_seqlens.shape[0] - 1
    blocks = (cu_seqlens.diff() + (block - 1)) // block
    ends = blocks.cumsum(0)
    entry = torch.arange(triton.cdiv(num_tokens, block) + num_segments, device=cu_seqlens.device)
    segment = torch.searchsorted(ends, entry, right=True)
    inside = segment < num_segments
    before = (ends - blocks)[segment.clamp(max=max(num_segments - 1, 0))] if num_segments else entry
    return torch.stack((torch.where(inside, segment, -1), torch.where(inside, entry - before, 0)), 1).int()


def launch_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    work: Tensor,
    causal: bool,
    scale: float,
    query_block: int,
) -> Tensor:
    """As `varlen_attention`; a head of q, k and v is contiguous, and so are the other tensors."""
    out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)  # rows in no segment have no program
    if q.numel() == 0 or work.shape[0] == 0:
        return out
    num_heads, head_dim = q.shape[1:]
    padded_dim = max(16, triton.next_power_of_2(head_dim))
    cut = tiles(padded_dim, q.dtype, current_arch())
    strides = [stride for x in (q, k, v) for stride in x.stride()[:2]]
    unit = math.gcd(*strides, 16)
    attention_kernel[(work.shape[0] * (query_block // cut.block_m), num_heads)](
        *(q, k, v, out, work, cu_seqlens_q, cu_seqlens_k, scale * LOG2_E),
        *(stride // unit for stride in strides),
        num_heads,
        head_dim=head_dim,
        padded_dim=padded_dim,
        unit=unit,
        group=num_heads // k.shape[1],
        causal=causal,
        query_block=query_block,
        block_m=cut.block_m,
        block_n=cut.block_n,
        num_warps=cut.num_warps,
        num_stages=cut.num_stages,
    )
    return out
