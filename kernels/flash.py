"""FlashAttention as a backend of `varlen_attention`: which library runs it, and what keeps the others out.

Source: arXiv 2205.14135 and its successors, in the libraries of LIBRARIES. They launch for the longest segment, an
integer that a captured graph would keep, and promise neither that a segment's bits are independent of its companions
nor that a NaN stays in its segment: so the backend has to be asked for.
"""

import inspect
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .op import custom_op
from .tensors import dense_rows

DTYPES = (torch.bfloat16, torch.float16)
HEAD_DIM_STEP = 8

Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int, bool, float], Tensor]


def _by_torch(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, causal: bool, scale: float
) -> Tensor:
    call = import_module("torch.nn.attention.varlen").varlen_attn
    known = inspect.signature(call).parameters
    options: dict[str, Any] = {"scale": scale, "window_size": (-1, 0 if causal else -1)}
    if "num_splits" in known:
        options["num_splits"] = 1  # one order of summation, whatever the longest segment
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    elif k.shape[1] != q.shape[1]:
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    out: Tensor = call(q, k, v, cu_q, cu_k, max_q, max_k, **options)
    return out


def _by_flash_attn(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, causal: bool, scale: float
) -> Tensor:
    call = import_module("flash_attn").flash_attn_varlen_func
    out: Tensor = call(q, k, v, cu_q, cu_k, max_q, max_k, softmax_scale=scale, causal=causal)
    return out


def _by_flash_attn_cute(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, causal: bool, scale: float
) -> Tensor:
    call = import_module("flash_attn.cute").flash_attn_varlen_func
    lengths = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "max_seqlen_q": max_q, "max_seqlen_k": max_k}
    out = call(q, k, v, **lengths, softmax_scale=scale, causal=causal)
    result: Tensor = out[0] if isinstance(out, tuple) else out
    return result


# In the order in which they are preferred, newest first: unverified, none was timed here yet.
LIBRARIES: dict[str, Attention] = {
    "flash_attn.cute": _by_flash_attn_cute,
    "flash_attn": _by_flash_attn,
    "torch.nn.attention.varlen": _by_torch,
}


@cache
def found() -> dict[str, str]:
    """Each library with "ok", or with the reason why it cannot be used here."""
    return {name: _why_not(name) or "ok" for name in LIBRARIES}


def _why_not(name: str) -> str:
    try:
        if find_spec(name) is None:
            return "not installed"
        import_module(name)
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]:
            return "not installed"
        return f"it does not import: {str(error).partition(chr(10))[0][:100]}"
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA GPU"
    major, _ = torch.cuda.get_device_capability()
    if name == "flash_attn.cute" and major < 9:
        return f"it needs a GPU of capability 9.0 or more, got {major}.x"
    return "" if major >= 8 else f"it needs a GPU of capability 8.0 or more, got {major}.x"


def why_none() -> str:
    """Why no library can be used here; empty when one can."""
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA GPU"
    reasons = found()
    return "" if "ok" in reasons.values() else "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def chosen() -> str:
    """The library that runs. Only where `why_none` is empty."""
    return next(name for name, reason in found().items() if reason == "ok")


@custom_op("varlen_attention_flash", device_types="default")
def varlen_attention_flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen: int | None,
    causal: bool,
    scale: float,
) -> Tensor:
    """`varlen_attention` by the chosen library; arguments as there, head dims multiples of HEAD_DIM_STEP."""
    if 0 in (q.numel(), k.numel()):
        return torch.zeros_like(q)
    offsets = cu_seqlens_q.contiguous(), cu_seqlens_k.contiguous()
    longest_q, longest_k = (len(x) if max_seqlen is None else min(len(x), max_seqlen) for x in (q, k))
    rows = dense_rows(q), dense_rows(k), dense_rows(v)
    out = LIBRARIES[chosen()](*rows, *offsets, longest_q, longest_k, causal, scale)
    token = torch.arange(len(q), device=q.device)
    outside = (token < cu_seqlens_q[0]) | (token >= cu_seqlens_q[-1])  # rows that the libraries leave as they were
    return out.masked_fill_(outside[:, None, None], 0)


@torch.library.register_fake("packdit::varlen_attention_flash")
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen: int | None,
    causal: bool,
    scale: float,
) -> Tensor:
    return q.new_empty(q.shape)
