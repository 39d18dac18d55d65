"""The ops in e4m3 as problems. What is exact is the op without rounding; plain PyTorch's definition of the rounded one
says how much may be lost."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from ..kernels import linear_fp8, varlen_attention_fp8
from ..kernels.fp8 import quantize_rows
from ..kernels.linear_fp8 import linear_fp8_reference
from ..kernels.testing import offsets
from .attention import ROWS_COMPARED, AttentionShape, attention, compared_rows
from .matrix import linear_problem
from .problem import Problem


def attention_fp8(
    shape: AttentionShape, dtype: torch.dtype, device: torch.device, rows_compared: int = ROWS_COMPARED
) -> Problem:
    """As `attention`, whose fastest kernel of packdit's is a peer: how much rounding wins."""
    whole = attention(shape, dtype, device, rows_compared)
    q, k, v = whole.inputs
    cu_q, cu_k = whole.packs
    keys = None if shape.key_lengths is None else cu_k
    rows = [compared_rows(length, max(rows_compared // len(shape.lengths), 8)) for length in shape.lengths]
    starts = offsets(shape.lengths).tolist()
    picked = torch.cat([r + start for r, start in zip(rows, starts, strict=False)]).to(device)
    part = offsets([len(r) for r in rows]).to(device)
    fast = "triton" if device.type == "cuda" else None
    return replace(
        whole,
        run=lambda backend: (varlen_attention_fp8(q, k, v, cu_q, keys, backend=backend),),
        plain=lambda: (varlen_attention_fp8(q[picked], k, v, part, cu_k, backend="reference"),),
        peers={dtype_name(dtype): lambda: whole.run(fast)},
        compiled=None,
    )


def dtype_name(dtype: torch.dtype) -> str:
    """As a peer: "bf16"."""
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, "fp32")


def linear_fp8_problem(
    tokens: int, depth: int, columns: int, activation: str | None, dtype: torch.dtype, device: torch.device
) -> Problem:
    """`linear_problem`'s product with a quantized weight."""
    whole = linear_problem(tokens, depth, columns, activation, dtype, device)
    peer = whole.peers["eager"]
    assert isinstance(peer, partial)
    x, weight, bias = peer.args[:3]
    values, scale = quantize_rows(weight.float())
    rows = torch.linspace(0, tokens - 1, len(whole.exact()[0])).long().to(device)
    return replace(
        whole,
        run=lambda backend: (linear_fp8(x, values, scale, bias, activation=activation, backend=backend),),
        plain=lambda: (linear_fp8_reference(x[rows], values, scale, bias, activation),),
        moved=whole.moved - (dtype.itemsize - 1) * weight.numel(),
    )
