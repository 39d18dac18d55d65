"""The Triton kernel of `varlen_attention`: flash attention forward (arXiv 2205.14135, algorithm 1) over segments.

Apart from its reference because Triton is optional and a kernel needs it to be defined. A program computes a block of
queries of one segment for one head. It reads through pointers and no row of another segment, so that not even a NaN of
a neighbour reaches it; and its order of operations follows from the widths, the dtype and the segment alone, so a
segment's result does not depend on its companions.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_attention_tma import fits, launch_attention_tma
from .triton_segments import LOG2_E, fill_outside, load_block, new_output, place_of, split_dim, store_block
from .tuning import Tuned, current_arch


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionKey:
    """What the cut may depend on."""

    arch: int
    dtype: torch.dtype
    head_dim: int
    causal: bool
    biased: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """How a program cuts its work: queries, keys at a time. block_m divides QUERY_BLOCK.

    max_registers None: as many a thread as the compiler likes, which may spill to fit more programs on the chip.
    fetch: "pointers"; or "engine" and "specialized", as triton_attention_tma.py has them, which falls back to the rule
    for calls that it cannot take.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    max_registers: int | None = None
    fetch: str = "pointers"


Blocks = tuple[tuple[int, int], tuple[int, int]]
# Queries and keys of a tile, of full attention and with a mask or biases, for heads of at most 64, 128 and 256 columns.
# Unverified: not timed on a GPU yet, the largest that compile without spills and fit the chip's shared memory.
HOPPER: tuple[Blocks, ...] = (((128, 128), (128, 64)), ((128, 128), (128, 64)), ((128, 32), (64, 32)))
BLACKWELL: tuple[Blocks, ...] = (((128, 64), (128, 64)), ((128, 64), (128, 64)), ((64, 64), (64, 64)))
OTHERS: tuple[Blocks, ...] = (((128, 64), (128, 32)), ((128, 32), (64, 32)), ((64, 16), (64, 16)))
FLOAT32: tuple[Blocks, ...] = (((64, 32), (32, 32)), ((32, 32), (16, 16)), ((16, 16), (16, 16)))


def rule(key: AttentionKey) -> Tiles:
    """The tables above. Of the consumer's Blackwell, sm_120, products read registers, as before Hopper."""
    columns, wide = sum(split_dim(key.head_dim, key.dtype)), key.dtype == torch.float32
    table = FLOAT32 if wide else HOPPER if key.arch == 90 else BLACKWELL if 100 <= key.arch < 120 else OTHERS
    block_m, block_n = table[(columns > 64) + (columns > 128)][key.causal or key.biased]
    stages, registers = (1, 255) if wide else (2, None)
    return Tiles(block_m=block_m, block_n=block_n, num_warps=8, num_stages=stages, max_registers=registers)


def candidates(key: AttentionKey) -> list[Tiles]:
    """What a sweep should time."""
    if key.dtype == torch.float32:
        return []
    shapes = [(128, 128, 8), (128, 64, 8), (128, 32, 8), (64, 128, 4), (64, 64, 4), (64, 32, 4)]
    found = [
        Tiles(block_m=m, block_n=n, num_warps=warps, num_stages=stages) for m, n, warps in shapes for stages in (2, 3)
    ]
    if (
        key.arch != 90
        or key.causal
        or key.biased
        or split_dim(key.head_dim, key.dtype) != (key.head_dim, 0)
        or key.head_dim > 128
    ):
        return found
    return found + [
        Tiles(block_m=128, block_n=n, num_warps=4 if fetch == "specialized" else 8, num_stages=stages, fetch=fetch)
        for fetch in ("specialized", "engine")
        for n, stages in ((64, 2), (64, 3), (128, 2))
    ]


tiles = Tuned("attention", rule, candidates)


@triton.jit
def spoil(
    target: tl.tensor,
    stored: tl.tensor,
    v: tl.tensor,
    stride: int,
    first: int,
    end: int,
    last_key: tl.tensor,
    head_dim: tl.constexpr,
) -> None:  # to stored rows of the output adds what is not finite in the values first to end, where a query sees it
    tl.debug_barrier()  # other threads have stored what this one loads
    for start in range(0, head_dim, 16):
        column = start + tl.arange(0, 16)
        mask = stored[:, None] & (column < head_dim)[None, :]
        total = tl.load(target + column[None, :], mask, other=0.0).to(tl.float32)
        for key in range(first, end):
            value = tl.load(v + tl.cast(key, tl.int64) * stride + column, column < head_dim, other=0.0).to(tl.float32)
            value = tl.where(tl.abs(value) < float("inf"), 0.0, value)
            total += tl.where((key <= last_key)[:, None], value[None, :], 0.0)
        tl.store(target + column[None, :], total.to(target.dtype.element_ty), mask)


@triton.jit
def attend(
    q_wide: tl.tensor,
    q_tail: tl.tensor,
    state: tl.tuple,  # acc_wide, acc_tail, top, norm, spoiled
    k: tl.tensor,
    v: tl.tensor,
    key_bias: tl.tensor,
    first: int,
    end: int,
    num_k: int,
    last_key: tl.tensor,
    stride_k: int,
    stride_v: int,
    scale: float,
    head_dim: tl.constexpr,
    wide: tl.constexpr,
    tail: tl.constexpr,
    biased: tl.constexpr,
    folded: tl.constexpr,
    causal: tl.constexpr,
    edge: tl.constexpr,
    block_n: tl.constexpr,
) -> tl.tuple:  # state after the keys first to end; edge: some may not exist, or not be seen by every query
    acc_wide, acc_tail, top, norm, spoiled = state
    key = tl.arange(0, block_n)
    column = tl.arange(0, wide)
    in_wide = column < head_dim
    column_tail = wide + tl.arange(0, tail if tail else 16)
    in_tail = column_tail < head_dim
    narrow: tl.constexpr = wide > head_dim
    narrow_tail: tl.constexpr = wide + tail > head_dim
    for offset in tl.range(first, end, block_n):
        exists = offset + key < num_k
        k_rows = k + tl.cast(offset, tl.int64) * stride_k + (key[:, None] * stride_k).to(tl.int32)
        v_rows = v + tl.cast(offset, tl.int64) * stride_v + (key[:, None] * stride_v).to(tl.int32)
        k_block = load_block(k_rows + column[None, :], exists, in_wide, edge, narrow)
        scores = tl.dot(q_wide, tl.trans(k_block), input_precision="ieee")
        if tail:
            k_block = load_block(k_rows + column_tail[None, :], exists, in_tail, edge, narrow_tail)
            scores = tl.dot(q_tail, tl.trans(k_block), scores, input_precision="ieee")
        if not folded:
            scores = scores * scale
        if biased:
            scores += (tl.load(key_bias + offset + key, exists, other=0.0) * 1.4426950408889634)[None, :]
        visible = exists[None, :]
        if edge:
            if causal:
                visible = visible & (offset + key[None, :] <= last_key[:, None])
            scores = tl.where(visible, scores, float("-inf"))
        factor = scale if folded else 1.0
        new_top = tl.maximum(top, tl.max(scores, 1) * factor)
        base = tl.where(new_top == float("-inf"), 0.0, new_top)  # no key seen so far: all weights 0, not NaN
        weights = tl.exp2(scores * factor - base[:, None])
        decay = tl.exp2(top - base)
        norm = norm * decay + tl.sum(weights, 1)
        top = new_top
        v_block = load_block(v_rows + column[None, :], exists, in_wide, edge, narrow)
        if causal and edge:
            finite = tl.abs(v_block.to(tl.float32)) < float("inf")
            v_block = tl.where(finite, v_block, 0.0)
            spoiled += 1 - tl.min(tl.min(finite.to(tl.int32), 1), 0)
        acc_wide = acc_wide * decay[:, None]
        acc_wide = tl.dot(weights.to(v_block.dtype), v_block, acc_wide, input_precision="ieee")
        if tail:
            v_block = load_block(v_rows + column_tail[None, :], exists, in_tail, edge, narrow_tail)
            if causal and edge:
                finite = tl.abs(v_block.to(tl.float32)) < float("inf")
                v_block = tl.where(finite, v_block, 0.0)
                spoiled += 1 - tl.min(tl.min(finite.to(tl.int32), 1), 0)
            acc_tail = acc_tail * decay[:, None]
            acc_tail = tl.dot(weights.to(v_block.dtype), v_block, acc_tail, input_precision="ieee")
    return acc_wide, acc_tail, top, norm, spoiled


@triton.jit(
    do_not_specialize=["num_segments", "num_tokens", "num_entries"],
    do_not_specialize_on_alignment=["key_bias", "work", "cu_seqlens_q", "cu_seqlens_k"],
)
def attention_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    out: tl.tensor,
    key_bias: tl.tensor,
    work: tl.tensor,
    cu_seqlens_q: tl.tensor,
    cu_seqlens_k: tl.tensor,
    num_segments: int,
    num_tokens: int,
    num_entries: int,
    scale: float,
    stride_qt: int,
    stride_qh: int,
    stride_kt: int,
    stride_kh: int,
    stride_vt: int,
    stride_vh: int,
    unit: tl.constexpr,
    num_heads: tl.constexpr,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    wide: tl.constexpr,
    tail: tl.constexpr,
    biased: tl.constexpr,
    folded: tl.constexpr,
    causal: tl.constexpr,
    query_block: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    split: tl.constexpr,
) -> None:
    stride_qt, stride_qh = stride_qt * unit, stride_qh * unit  # now known to be multiples: loads are wide
    stride_kt, stride_kh = stride_kt * unit, stride_kh * unit
    stride_vt, stride_vh = stride_vt * unit, stride_vh * unit
    parts: tl.constexpr = query_block // block_m * num_heads  # programs of an entry
    program = tl.program_id(0)
    entry = program // parts
    segment = tl.load(work + 2 * entry)
    if segment < 0:
        spare, place = num_entries - 1 - entry, program % parts
        columns: tl.constexpr = wide + wide * (tail > 0)
        fill_outside(
            *(out, cu_seqlens_q, num_segments, num_tokens, spare, place),
            *(num_heads, head_dim, columns, query_block, block_m),
        )
        return
    first_q = tl.load(cu_seqlens_q + segment).to(tl.int64)
    num_q = (tl.load(cu_seqlens_q + segment + 1) - first_q).to(tl.int32)
    # causal: the last queries, which see most keys, start first
    block = tl.load(work + 2 * entry + 1)
    head, start = place_of(program, entry, block, num_q, num_heads, query_block, block_m, causal)
    if start >= num_q:
        return
    first_k = tl.load(cu_seqlens_k + segment).to(tl.int64)
    num_k = (tl.load(cu_seqlens_k + segment + 1) - first_k).to(tl.int32)
    head = head.to(tl.int64)

    query = start + tl.arange(0, block_m)
    exists = query < num_q
    column, column_tail = tl.arange(0, wide), wide + tl.arange(0, tail if tail else 16)
    in_wide, in_tail = column < head_dim, column_tail < head_dim
    rows = q + (first_q + query)[:, None] * stride_qt + head * stride_qh
    q_wide = load_block(rows + column[None, :], exists, in_wide, True, wide > head_dim)
    q_tail = q_wide
    if tail:
        q_tail = load_block(rows + column_tail[None, :], exists, in_tail, True, wide + tail > head_dim)

    acc_wide = tl.zeros([block_m, wide], tl.float32)
    acc_tail = tl.zeros([block_m, tail if tail else 16], tl.float32)
    state = acc_wide, acc_tail, tl.full([block_m], float("-inf"), tl.float32), tl.zeros([block_m], tl.float32), 0
    last_key = query + (num_k - num_q)  # the last that a causal query sees: bottom right
    end, whole = num_k, num_k
    if causal:
        end = tl.minimum(num_k, start + block_m + num_k - num_q)
        whole = tl.minimum(num_k, tl.maximum(start + num_k - num_q + 1, 0))
    whole = whole // block_n * block_n if split else 0  # before it every query sees every key
    k += first_k * stride_kt + head // group * stride_kh
    v += first_k * stride_vt + head // group * stride_vh
    key_bias += first_k
    for edge in tl.static_range(0 if split else 1, 2):
        state = attend(
            *(q_wide, q_tail, state, k, v, key_bias, whole if edge else 0, end if edge else whole, num_k, last_key),
            *(stride_kt, stride_vt, scale, head_dim, wide, tail, biased, folded, causal, edge == 1, block_n),
        )
    acc_wide, acc_tail, _, norm, spoiled = state
    target = out + ((first_q + query)[:, None] * num_heads + head) * head_dim
    store_block(target, exists, acc_wide, acc_tail, norm, head_dim, wide, tail)
    if causal and spoiled > 0:
        spoil(target, exists, v, stride_vt, whole, end, last_key, head_dim)


def launch_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    work: Tensor,
    causal: bool,
    scale: float,
    key_bias: Tensor | None,
    query_block: int,
) -> Tensor:
    """As `varlen_attention`; a head of q, k and v is contiguous, and so are the other tensors."""
    num_entries, num_segments = work.shape[0], cu_seqlens_q.shape[0] - 1
    num_tokens, num_heads, head_dim = q.shape
    out = new_output(q, num_entries, num_segments, query_block)
    if q.numel() == 0 or num_entries == 0 or num_segments == 0:
        return out.zero_()
    key = AttentionKey(
        arch=current_arch(), dtype=q.dtype, head_dim=head_dim, causal=causal, biased=key_bias is not None
    )
    cut = tiles(key)
    if cut.fetch != "pointers":
        if fits(q, k, v, causal, scale, key_bias):
            return launch_attention_tma(
                *(q, k, v, cu_seqlens_q, cu_seqlens_k, work, scale, query_block),
                *(cut.block_m, cut.block_n, cut.fetch == "specialized", cut.num_warps, cut.num_stages),
            )
        cut = tiles.rule(key)
    wide, tail = split_dim(head_dim, q.dtype)
    strides = [stride for x in (q, k, v) for stride in x.stride()[:2]]
    unit = math.gcd(*strides, 16)
    attention_kernel[(num_entries * (query_block // cut.block_m) * num_heads,)](
        *(q, k, v, out, q if key_bias is None else key_bias, work, cu_seqlens_q, cu_seqlens_k),
        *(num_segments, num_tokens, num_entries, scale * LOG2_E),
        *(stride // unit for stride in strides),
        unit=unit,
        num_heads=num_heads,
        group=num_heads // k.shape[1],
        head_dim=head_dim,
        wide=wide,
        tail=tail,
        biased=key_bias is not None,
        folded=key_bias is None and scale > 0,
        causal=causal,
        query_block=query_block,
        block_m=cut.block_m,
        block_n=cut.block_n,
        split=q.dtype != torch.float32,
        num_warps=cut.num_warps,
        num_stages=cut.num_stages,
        maxnreg=cut.max_registers,
    )
    return out
