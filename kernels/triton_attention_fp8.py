"""The Triton kernels of `varlen_attention_fp8`: one that finds V's scales, one that rounds K and V, and the attention.

Hopper's matrix products of e4m3 read both operands along the dimension they sum over, so V is written transposed, keys
last. A segment's keys begin at a multiple of KEY_BLOCK there, and its last block is filled up with zeros: then no load
needs a mask and no row of another segment is read. Programs are placed as triton_segments.py says.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .fp8 import E4M3, LARGEST, SMALLEST_PEAK
from .triton_fp8 import check_arch, finite_peak, rounded
from .triton_segments import LOG2_E, fill_outside, load_block, new_output, place_of, split_dim, store_block
from .tuning import Tuned
from .varlen_attention import QUERY_BLOCK
from .varlen_attention_fp8 import KEY_BLOCK, WEIGHT_SCALE


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Key:
    """What the cut may depend on."""

    arch: int
    dtype: torch.dtype
    head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Tiles:
    """How a program of the attention cuts its work: queries, keys at a time, which divide QUERY_BLOCK and KEY_BLOCK."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def rule(key: Fp8Key) -> Fp8Tiles:
    """Unverified: not timed on a GPU yet, large tiles that compile without spills."""
    columns = sum(split_dim(key.head_dim, E4M3))
    if columns <= (128 if key.arch == 90 else 64 if 100 <= key.arch < 120 else 0):
        block_m, block_n = 128, 128
    else:
        block_m, block_n = 128 if columns <= 64 else 64, 64
    return Fp8Tiles(block_m=block_m, block_n=block_n, num_warps=8, num_stages=2)


def candidates(key: Fp8Key) -> list[Fp8Tiles]:
    """What a sweep should time."""
    shapes = [(128, 128, 8), (128, 64, 8), (64, 128, 4), (64, 64, 4), (128, 32, 8)]
    return [
        Fp8Tiles(block_m=m, block_n=n, num_warps=warps, num_stages=stages)
        for m, n, warps in shapes
        for stages in (2, 3)
    ]


tiles = Tuned("attention_fp8", rule, candidates)
LIMITS = {"largest": LARGEST, "smallest_peak": SMALLEST_PEAK}


@triton.jit
def load_keys(
    x: tl.tensor,
    block: int,
    first: int,
    num_keys: int,
    head: tl.tensor,
    stride_t: int,
    stride_h: int,
    head_dim: tl.constexpr,
    columns: tl.constexpr,
    key_block: tl.constexpr,
) -> tl.tensor:  # a segment's block of keys as float32, zeros where there is none
    key = block * key_block + tl.arange(0, key_block)
    column = tl.arange(0, columns)[None, :]
    rows = x + (first + key)[:, None] * stride_t + head.to(tl.int64) * stride_h
    return tl.load(rows + column, (key < num_keys)[:, None] & (column < head_dim), other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["num_blocks"], do_not_specialize_on_alignment=["key_work", "cu_seqlens"])
def value_peaks_kernel(
    v: tl.tensor,
    peaks: tl.tensor,
    key_work: tl.tensor,
    cu_seqlens: tl.tensor,
    num_blocks: tl.tensor,
    stride_t: int,
    stride_h: int,
    unit: tl.constexpr,
    num_heads: tl.constexpr,
    head_dim: tl.constexpr,
    columns: tl.constexpr,
    key_block: tl.constexpr,
) -> None:  # peaks [heads, blocks]: of the values of a block of keys
    entry, head = tl.program_id(0) // num_heads, tl.program_id(0) % num_heads
    segment = tl.load(key_work + 2 * entry)
    if segment < 0:
        return
    block = tl.load(key_work + 2 * entry + 1)
    first = tl.load(cu_seqlens + segment).to(tl.int64)
    num_keys = (tl.load(cu_seqlens + segment + 1) - first).to(tl.int32)
    strides = stride_t * unit, stride_h * unit
    value = load_keys(v, block, first, num_keys, head, *strides, head_dim, columns, key_block)
    place = (first // key_block).to(tl.int32) + segment + block
    tl.store(peaks + head * num_blocks + place, tl.max(finite_peak(value), 0))


@triton.jit(do_not_specialize=["num_blocks", "num_segments"], do_not_specialize_on_alignment=["key_work", "cu_seqlens"])
def round_keys_kernel(
    k: tl.tensor,
    v: tl.tensor,
    peaks: tl.tensor,
    rounded_k: tl.tensor,
    rounded_v: tl.tensor,
    k_scale: tl.tensor,
    v_scale: tl.tensor,
    key_work: tl.tensor,
    cu_seqlens: tl.tensor,
    num_blocks: tl.tensor,
    num_segments: int,
    stride_kt: int,
    stride_kh: int,
    stride_vt: int,
    stride_vh: int,
    unit: tl.constexpr,
    num_heads: tl.constexpr,
    head_dim: tl.constexpr,
    stored: tl.constexpr,
    columns: tl.constexpr,
    key_block: tl.constexpr,
    largest: tl.constexpr,
    smallest_peak: tl.constexpr,
) -> (
    None
):  # rounded_k [heads, keys, stored], rounded_v [heads, stored, keys], k_scale [heads, blocks], v_scale [heads, S]
    entry, head = tl.program_id(0) // num_heads, tl.program_id(0) % num_heads
    segment = tl.load(key_work + 2 * entry)
    if segment < 0:
        return
    block = tl.load(key_work + 2 * entry + 1)
    first = tl.load(cu_seqlens + segment).to(tl.int64)
    num_keys = (tl.load(cu_seqlens + segment + 1) - first).to(tl.int32)
    start = (first // key_block).to(tl.int32) + segment  # the segment's first block
    inside, column = tl.arange(0, key_block), tl.arange(0, columns)
    keys = num_blocks.to(tl.int64) * key_block
    key = (start + block).to(tl.int64) * key_block + inside

    strides = stride_kt * unit, stride_kh * unit
    tile = load_keys(k, block, first, num_keys, head, *strides, head_dim, columns, key_block)
    peak = tl.maximum(tl.max(finite_peak(tile), 0), smallest_peak)
    tl.store(k_scale + head * num_blocks + start + block, tl.div_rn(peak, largest))
    target = rounded_k + (head * keys + key)[:, None] * stored + column[None, :]
    tl.store(target, rounded(tile * tl.div_rn(largest, peak)), (column < stored)[None, :])

    strides = stride_vt * unit, stride_vh * unit
    tile = load_keys(v, block, first, num_keys, head, *strides, head_dim, columns, key_block)
    peak = 0.0 + smallest_peak
    count = tl.cdiv(num_keys, key_block)
    for other in range(0, count, key_block):
        found = tl.load(peaks + head * num_blocks + start + other + inside, other + inside < count, other=0.0)
        peak = tl.maximum(peak, tl.max(found, 0))
    if block == 0:
        tl.store(v_scale + head * num_segments + segment, tl.div_rn(peak, largest))
    target = rounded_v + (head * stored + column)[:, None] * keys + key[None, :]
    tl.store(target, tl.trans(rounded(tile * tl.div_rn(largest, peak))), (column < stored)[:, None])


@triton.jit
def attend_fp8(
    q_wide: tl.tensor,
    q_tail: tl.tensor,
    q_factor: tl.tensor,
    state: tl.tuple,  # acc_wide, acc_tail, top, norm
    k: tl.tensor,
    v: tl.tensor,
    k_scale: tl.tensor,
    keys: int,
    first: int,
    end: int,
    num_keys: int,
    wide: tl.constexpr,
    tail: tl.constexpr,
    key_block: tl.constexpr,
    weight_bits: tl.constexpr,
    edge: tl.constexpr,
    block_n: tl.constexpr,
) -> tl.tuple:  # state after the keys first to end; edge: some may not exist
    acc_wide, acc_tail, top, norm = state
    stored: tl.constexpr = wide + tail
    key = tl.arange(0, block_n)
    column, column_tail = tl.arange(0, wide), wide + tl.arange(0, tail if tail else 32)
    for offset in tl.range(first, end, block_n):
        k_rows = k + offset * stored + (key * stored)[:, None]
        scores = tl.dot(q_wide, tl.trans(tl.load(k_rows + column[None, :])))
        if tail:
            scores = tl.dot(q_tail, tl.trans(tl.load(k_rows + column_tail[None, :])), scores)
        factor = q_factor * tl.load(k_scale + offset // key_block)
        if edge:
            scores = tl.where((offset + key < num_keys)[None, :], scores * factor[:, None], float("-inf"))
            factor = tl.full(factor.shape, 1.0, tl.float32)
        new_top = tl.maximum(top, tl.max(scores, 1) * factor)
        base = tl.where(new_top == float("-inf"), 0.0, new_top) - weight_bits
        weights = tl.exp2(scores * factor[:, None] - base[:, None])
        decay = tl.exp2(top - weight_bits - base)
        norm = norm * decay + tl.sum(weights, 1)
        top = new_top
        small = weights.to(tl.float8e4nv)
        v_columns = v + offset + key[None, :]
        acc_wide = acc_wide * decay[:, None]
        acc_wide = tl.dot(small, tl.trans(tl.load(v_columns + column[:, None] * keys)), acc_wide)
        if tail:
            acc_tail = acc_tail * decay[:, None]
            acc_tail = tl.dot(small, tl.trans(tl.load(v_columns + column_tail[:, None] * keys)), acc_tail)
    return acc_wide, acc_tail, top, norm


@triton.jit(
    do_not_specialize=["num_segments", "num_tokens", "num_entries", "num_blocks"],
    do_not_specialize_on_alignment=["work", "cu_seqlens_q", "cu_seqlens_k"],
)
def attention_fp8_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    k_scale: tl.tensor,
    v_scale: tl.tensor,
    out: tl.tensor,
    work: tl.tensor,
    cu_seqlens_q: tl.tensor,
    cu_seqlens_k: tl.tensor,
    num_segments: int,
    num_tokens: int,
    num_entries: int,
    num_blocks: tl.tensor,
    scale: float,
    stride_qt: int,
    stride_qh: int,
    unit: tl.constexpr,
    num_heads: tl.constexpr,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    wide: tl.constexpr,
    tail: tl.constexpr,
    query_block: tl.constexpr,
    key_block: tl.constexpr,
    largest: tl.constexpr,
    smallest_peak: tl.constexpr,
    weight_bits: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
) -> None:
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
    block = tl.load(work + 2 * entry + 1)
    head, start = place_of(program, entry, block, num_q, num_heads, query_block, block_m, False)
    if start >= num_q:
        return
    first_k = tl.load(cu_seqlens_k + segment)
    num_keys = tl.load(cu_seqlens_k + segment + 1) - first_k
    first_block = first_k // key_block + segment

    query = start + tl.arange(0, block_m)
    exists = query < num_q
    column, column_tail = tl.arange(0, wide), wide + tl.arange(0, tail if tail else 32)
    rows = q + (first_q + query)[:, None] * (stride_qt * unit) + head.to(tl.int64) * (stride_qh * unit)
    q_wide = load_block(rows + column[None, :], exists, column < head_dim, True, wide > head_dim).to(tl.float32)
    peak = tl.maximum(finite_peak(q_wide), smallest_peak)
    q_tail = q_wide
    if tail:
        in_tail = column_tail < head_dim
        q_tail = load_block(rows + column_tail[None, :], exists, in_tail, True, wide + tail > head_dim).to(tl.float32)
        peak = tl.maximum(peak, finite_peak(q_tail))
    factor = tl.div_rn(largest, peak)[:, None]
    q_wide, q_tail = rounded(q_wide * factor), rounded(q_tail * factor)

    kv_head = head // group
    keys = num_blocks.to(tl.int64) * key_block
    k += (kv_head * keys + first_block.to(tl.int64) * key_block) * (wide + tail)
    v += kv_head * (wide + tail) * keys + first_block.to(tl.int64) * key_block
    k_scale += kv_head * num_blocks + first_block
    acc_wide = tl.zeros([block_m, wide], tl.float32)
    acc_tail = tl.zeros([block_m, tail if tail else 32], tl.float32)
    state = acc_wide, acc_tail, tl.full([block_m], float("-inf"), tl.float32), tl.zeros([block_m], tl.float32)
    whole = num_keys // block_n * block_n
    for edge in tl.static_range(2):
        state = attend_fp8(
            *(q_wide, q_tail, peak / largest * scale, state, k, v, k_scale, keys),
            *(whole if edge else 0, num_keys if edge else whole, num_keys),
            *(wide, tail, key_block, weight_bits, edge == 1, block_n),
        )
    acc_wide, acc_tail, _, norm = state
    factor = tl.where(num_keys > 0, tl.load(v_scale + kv_head * num_segments + segment), 0.0)  # written for keys only
    target = out + ((first_q + query)[:, None] * num_heads + head) * head_dim
    store_block(target, exists, acc_wide * factor, acc_tail * factor, norm, head_dim, wide, tail)


def round_keys(k: Tensor, v: Tensor, cu_seqlens: Tensor, key_work: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """k as e4m3 [heads, keys, D], v as e4m3 [heads, D, keys], their scales [heads, blocks] and [heads, S]; D padded."""
    (num_keys, num_heads, head_dim), num_segments = k.shape, cu_seqlens.shape[0] - 1
    stored, num_blocks = sum(split_dim(head_dim, E4M3)), num_keys // KEY_BLOCK + num_segments
    rounded_k = torch.empty(num_heads, num_blocks * KEY_BLOCK, stored, dtype=E4M3, device=k.device)
    rounded_v = torch.empty(num_heads, stored, num_blocks * KEY_BLOCK, dtype=E4M3, device=k.device)
    peaks, k_scale = torch.empty(2, num_heads, num_blocks, device=k.device)
    v_scale = torch.empty(num_heads, num_segments, device=k.device)
    unit = math.gcd(*k.stride()[:2], *v.stride()[:2], 16)
    k_strides, v_strides = ([stride // unit for stride in x.stride()[:2]] for x in (k, v))
    columns = triton.next_power_of_2(stored)
    constants = {"unit": unit, "num_heads": num_heads, "head_dim": head_dim, "columns": columns, "key_block": KEY_BLOCK}
    constants["num_warps"] = columns // 32 if columns > 128 else 4
    grid = (key_work.shape[0] * num_heads,)
    if grid[0]:
        value_peaks_kernel[grid](v, peaks, key_work, cu_seqlens, num_blocks, *v_strides, **constants)
        round_keys_kernel[grid](
            *(k, v, peaks, rounded_k, rounded_v, k_scale, v_scale, key_work, cu_seqlens),
            *(num_blocks, num_segments, *k_strides, *v_strides),
            **constants,
            **LIMITS,
            stored=stored,
        )
    return rounded_k, rounded_v, k_scale, v_scale


def launch_attention_fp8(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    work: Tensor,
    key_work: Tensor,
    scale: float,
) -> Tensor:
    """As `varlen_attention_fp8`; key_work is the keys' work table, for blocks of KEY_BLOCK.

    A head of q, k and v is contiguous, and so are the other tensors.
    """
    arch = check_arch("varlen_attention_fp8")
    num_tokens, num_heads, head_dim = q.shape
    num_entries, num_segments = work.shape[0], cu_seqlens_q.shape[0] - 1
    out = new_output(q, num_entries, num_segments, QUERY_BLOCK)
    if q.numel() == 0 or num_entries == 0:
        return out
    wide, tail = split_dim(head_dim, E4M3)
    rounded_k, rounded_v, k_scale, v_scale = round_keys(k, v, cu_seqlens_k, key_work)
    cut = tiles(Fp8Key(arch=arch, dtype=q.dtype, head_dim=head_dim))
    unit = math.gcd(q.stride(0), q.stride(1), 16)
    attention_fp8_kernel[(num_entries * (QUERY_BLOCK // cut.block_m) * num_heads,)](
        *(q, rounded_k, rounded_v, k_scale, v_scale, out, work, cu_seqlens_q, cu_seqlens_k),
        *(num_segments, num_tokens, num_entries, k_scale.shape[1], scale * LOG2_E),
        *(q.stride(0) // unit, q.stride(1) // unit),
        **LIMITS,
        unit=unit,
        num_heads=num_heads,
        group=num_heads // k.shape[1],
        head_dim=head_dim,
        wide=wide,
        tail=tail,
        query_block=QUERY_BLOCK,
        key_block=KEY_BLOCK,
        weight_bits=math.log2(WEIGHT_SCALE),
        block_m=cut.block_m,
        block_n=cut.block_n,
        num_warps=cut.num_warps,
        num_stages=cut.num_stages,
    )
    return out
