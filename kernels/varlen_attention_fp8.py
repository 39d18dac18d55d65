"""`varlen_attention`, full, with its products in e4m3: for long segments on GPUs whose tensor cores multiply it.

Rounded to e4m3 are q with a scale a query and head, k with one for each KEY_BLOCK keys of a segment and head, v with
one a segment and head, and the weights, relative to a query's largest as the sum runs. No group reaches over a
segment's end, so companions change nothing. Source: FlashAttention-3 (arXiv 2407.08608, section 3.3), whose scales are
of blocks too; its incoherent processing is left out.
"""

import torch
from torch import Tensor

from .backend import choose
from .fp8 import finite_peak, quantize_rows, scales_of, to_e4m3
from .op import custom_op
from .tensors import accurate, dense_rows
from .varlen_attention import MAX_HEAD_DIM, QUERY_BLOCK, check_attention, segments_of, varlen_attention_reference

KEY_BLOCK = QUERY_BLOCK  # keys that share a scale: one work table serves queries and keys
WEIGHT_SCALE = 256.0  # of a weight of 1: a power of two within e4m3


def key_groups(num_keys: int, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """The segment of each key (-1: none) and its block of keys, below num_keys // KEY_BLOCK + segments.

    A segment's first block is cu // KEY_BLOCK + segment, so it is known without the lengths of the others.
    """
    segment, to_end = segments_of(num_keys, cu_seqlens)
    start, end = cu_seqlens[segment.clamp(min=0)], cu_seqlens[segment + 1]
    block = start // KEY_BLOCK + segment + (end - to_end - start) // KEY_BLOCK
    return segment, torch.where(segment < 0, -1, block)


def _rounded(x: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """x [T, H, D] as e4m3 holds it, with a scale for each group of tokens [T] (-1: none, becomes 0) and head."""
    exists = group >= 0
    x, group = torch.where(exists[:, None, None], x, 0), torch.where(exists, group, 0)
    index = group[:, None].expand(-1, x.shape[1])
    peaks = x.new_zeros(num_groups, x.shape[1]).scatter_reduce(0, index, finite_peak(x).amax(-1), "amax")
    scale, factor = (each[group][..., None] for each in scales_of(peaks))
    return to_e4m3(x * factor).to(x.dtype) * scale


def _rounded_weights(weights: Tensor) -> Tensor:
    if weights.shape[-1] == 0:
        return weights
    unit = weights.amax(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny) / WEIGHT_SCALE
    return to_e4m3(weights / unit).to(weights.dtype) * unit


def varlen_attention_fp8_reference(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, scale: float
) -> Tensor:
    """The definition, in plain PyTorch. Arguments as in `varlen_attention_fp8`."""
    num_segments = cu_seqlens_k.shape[0] - 1
    if num_segments == 0 or 0 in (q.numel(), k.numel()):
        return torch.zeros_like(q)
    rounded_q, q_scale = quantize_rows(accurate(q))
    segment, block = key_groups(k.shape[0], cu_seqlens_k)
    rounded = (
        rounded_q.to(q_scale.dtype) * q_scale[..., None],
        _rounded(accurate(k), block, k.shape[0] // KEY_BLOCK + num_segments),
        _rounded(accurate(v), segment, num_segments),
    )
    out = varlen_attention_reference(*rounded, cu_seqlens_q, cu_seqlens_k, False, scale, None, _rounded_weights)
    return out.to(q.dtype)


@custom_op("varlen_attention_fp8_triton", device_types="default")
def _varlen_attention_fp8_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None,
    work: Tensor | None,
    scale: float,
) -> Tensor:
    from .triton_attention_fp8 import launch_attention_fp8  # triton is optional
    from .triton_segments import make_work

    if work is None:
        work = make_work(cu_seqlens_q, q.shape[0], QUERY_BLOCK)
    work, cu_seqlens_q = work.contiguous(), cu_seqlens_q.contiguous()
    key_work = work
    if cu_seqlens_k is None:
        cu_seqlens_k = cu_seqlens_q
    else:
        cu_seqlens_k = cu_seqlens_k.contiguous()
        key_work = make_work(cu_seqlens_k, k.shape[0], KEY_BLOCK)
    q, k, v = dense_rows(q), dense_rows(k), dense_rows(v)
    return launch_attention_fp8(q, k, v, cu_seqlens_q, cu_seqlens_k, work, key_work, scale)


@torch.library.register_fake("packdit::varlen_attention_fp8_triton")
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None,
    work: Tensor | None,
    scale: float,
) -> Tensor:
    return q.new_empty(q.shape)


def varlen_attention_fp8(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None = None,
    *,
    scale: float | None = None,
    work: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """`varlen_attention(q, k, v, cu_seqlens_q, cu_seqlens_k, scale=scale, work=work)` with products in e4m3.

    Arguments as there, D at most 256, scale above 0. Triton needs a GPU of capability 8.9 or more. ValueError for
    anything else.
    """
    check_attention("varlen_attention_fp8", q, k, v, cu_seqlens_q, cu_seqlens_k, work)
    if q.shape[2] > MAX_HEAD_DIM:
        raise ValueError(f"varlen_attention_fp8: head dim is {q.shape[2]}; allowed: 1 to {MAX_HEAD_DIM}")
    factor = q.shape[2] ** -0.5 if scale is None else scale
    if not factor > 0:
        raise ValueError(f"varlen_attention_fp8: scale is {factor}; allowed: above 0")
    if choose("varlen_attention_fp8", backend, q, k, v) == "reference":
        keys = cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k
        return varlen_attention_fp8_reference(q, k, v, cu_seqlens_q, keys, factor)
    return _varlen_attention_fp8_triton(q, k, v, cu_seqlens_q, cu_seqlens_k, work, factor)
