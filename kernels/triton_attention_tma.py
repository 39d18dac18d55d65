"""`varlen_attention`, full, with keys and values fetched by Hopper's copy engine (TMA): a candidate that a GPU has to
judge, chosen by no rule yet.

Each program describes the rows of its own segment to the engine, which reads nothing beyond them and fills up with
zeros. Where specialized, one warp group fetches while two others multiply: the compiler makes that of 4 warps, and only
where every load in the loop is the engine's and no program leaves early.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_segments import LOG2_E, fill_outside, new_output, place_of, split_dim


@triton.jit(
    do_not_specialize=["num_segments", "num_tokens", "num_entries"],
    do_not_specialize_on_alignment=["work", "cu_seqlens_q", "cu_seqlens_k"],
)
def attention_tma_kernel(
    q: tl.tensor,
    k: tl.tensor,
    v: tl.tensor,
    out: tl.tensor,
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
    num_heads: tl.constexpr,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    query_block: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    specialized: tl.constexpr,
) -> None:
    parts: tl.constexpr = query_block // block_m * num_heads  # programs of an entry
    program = tl.program_id(0)
    entry = program // parts
    found = tl.load(work + 2 * entry)
    segment = tl.maximum(found, 0)
    first_q = tl.load(cu_seqlens_q + segment).to(tl.int64)
    num_q = tl.where(found < 0, 0, (tl.load(cu_seqlens_q + segment + 1) - first_q).to(tl.int32))
    block = tl.load(work + 2 * entry + 1)
    head, start = place_of(program, entry, block, tl.maximum(num_q, 1), num_heads, query_block, block_m, False)
    head = tl.where(found < 0, 0, head).to(tl.int64)
    first_k = tl.load(cu_seqlens_k + segment).to(tl.int64)
    num_k = (tl.load(cu_seqlens_k + segment + 1) - first_k).to(tl.int32)
    busy = start < num_q
    first_q, num_k = tl.where(busy, first_q, 0), tl.where(busy, num_k, 0)

    # a description has at least one row; nothing is fetched by one that has none
    queries = tl.make_tensor_descriptor(
        q + first_q * stride_qt + head * stride_qh,
        [tl.maximum(num_q, 1), head_dim],
        [stride_qt, 1],
        [block_m, head_dim],
    )
    keys = tl.make_tensor_descriptor(
        k + first_k * stride_kt + head // group * stride_kh,
        [tl.maximum(num_k, 1), head_dim],
        [stride_kt, 1],
        [block_n, head_dim],
    )
    values = tl.make_tensor_descriptor(
        v + first_k * stride_vt + head // group * stride_vh,
        [tl.maximum(num_k, 1), head_dim],
        [stride_vt, 1],
        [block_n, head_dim],
    )
    q_block = queries.load([tl.where(busy, start, 0), 0])
    top = tl.full([block_m], float("-inf"), tl.float32)
    norm = tl.zeros([block_m], tl.float32)
    acc = tl.zeros([block_m, head_dim], tl.float32)
    key = tl.arange(0, block_n)
    for offset in tl.range(0, num_k, block_n, warp_specialize=specialized):
        scores = tl.dot(q_block, tl.trans(keys.load([offset, 0])))
        scores = tl.where((offset + key < num_k)[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1) * scale)
        base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(scores * scale - base[:, None])
        decay = tl.exp2(top - base)
        norm = norm * decay + tl.sum(weights, 1)
        top = new_top
        acc = tl.dot(weights.to(q.dtype.element_ty), values.load([offset, 0]), acc * decay[:, None])

    query = start + tl.arange(0, block_m)
    norm = tl.where(norm == 0, 1.0, norm)[:, None]
    column = tl.arange(0, head_dim)[None, :]
    target = out + ((first_q + query)[:, None] * num_heads + head) * head_dim + column
    tl.store(target, (acc / norm).to(out.dtype.element_ty), (query < num_q)[:, None])
    if found < 0:
        spare, place = num_entries - 1 - entry, program % parts
        fill_outside(
            *(out, cu_seqlens_q, num_segments, num_tokens, spare, place),
            *(num_heads, head_dim, head_dim, query_block, block_m),
        )


def fits(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float, key_bias: Tensor | None) -> bool:
    """Whether the kernel can take this: full attention in 16 bits of heads that fill a tile, rows on 16 bytes."""
    aligned = all(x.data_ptr() % 16 == 0 and all(i % 8 == 0 for i in x.stride()[:2]) for x in (q, k, v))
    whole = split_dim(q.shape[2], q.dtype) == (q.shape[2], 0)
    return q.dtype.itemsize == 2 and aligned and whole and not causal and scale > 0 and key_bias is None


def launch_attention_tma(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    work: Tensor,
    scale: float,
    query_block: int,
    block_m: int,
    block_n: int,
    specialized: bool,
    num_warps: int,
    num_stages: int,
) -> Tensor:
    """As `launch_attention` where `fits`, for at least one segment, query and entry."""
    num_entries, num_segments = work.shape[0], cu_seqlens_q.shape[0] - 1
    num_tokens, num_heads, head_dim = q.shape
    out = new_output(q, num_entries, num_segments, query_block)
    triton.set_allocator(lambda size, *_: torch.empty(size, dtype=torch.int8, device=q.device))  # for descriptions
    attention_tma_kernel[(num_entries * (query_block // block_m) * num_heads,)](
        *(q, k, v, out, work, cu_seqlens_q, cu_seqlens_k, num_segments, num_tokens, num_entries, scale * LOG2_E),
        *(stride for x in (q, k, v) for stride in x.stride()[:2]),
        num_heads=num_heads,
        group=num_heads // k.shape[1],
        head_dim=head_dim,
        query_block=query_block,
        block_m=block_m,
        block_n=block_n,
        specialized=specialized,
        num_warps=num_warps,
        num_stages=num_stages,
    )
    return out
