"""The one place that chooses which implementation of an op runs.

An explicit backend wins over `using`, which wins over the environment variable PACKDIT_BACKEND, which wins over the
automatic choice: `cpu` for float32 tensors on the CPU that need no gradient, else `reference`. `triton` has to be asked
for until a GPU has verified it, and so has `flash`, FlashAttention for attention and Triton for the rest. Asking for
what cannot run is an error that says why.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

BACKENDS = ("reference", "cpu", "triton", "flash")
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# On a GPU these are the reference, also for a model whose backend is triton.
WIDE = "varlen_attention of wide heads"
WITHOUT_TRITON = ("linear_int8", "group_norm_silu", WIDE)
# These have no C++ kernel: the reference, also for a model whose backend is cpu.
WITHOUT_CPU = ("varlen_attention_fp8", "linear_fp8", "patchify", "unpatchify")
# What FlashAttention's libraries compute.
WITH_FLASH = ("varlen_attention",)

_has_triton = find_spec("triton") is not None
_default: ContextVar[str | None] = ContextVar("packdit_backend", default=None)

try:
    from . import _C as _native

    _native_error = ""
except ImportError as error:
    _native_error = f"packdit.kernels._C is not built: {error}"


def native() -> ModuleType:
    """The C++ extension. Only ops that `choose` sent to the cpu backend call this."""
    return _native


def available() -> dict[str, str]:
    """Each backend with "ok", or with the reason why it cannot be used here."""
    return {
        "reference": "ok",
        "cpu": _native_error or "ok",
        "triton": _why_no_triton() or "ok",
        "flash": _why_no_flash() or "ok",
    }


def check(backend: str) -> None:
    """Raises ValueError unless backend is "auto" or one that can be used here."""
    if backend == "auto":
        return
    reason = available().get(backend, f"there is none of that name; allowed: auto, {', '.join(BACKENDS)}")
    if reason != "ok":
        raise ValueError(f"backend {backend!r} cannot be used: {reason}")


@contextmanager
def using(backend: str | None) -> Iterator[None]:
    """Within it, calls that name no backend take this one (None: leave things as they are)."""
    token = _default.set(backend or _default.get())
    try:
        yield
    finally:
        _default.reset(token)


def choose(op: str, backend: str | None, *tensors: Tensor) -> str:
    """The backend that runs this call of op on these tensors. ValueError when the one asked for cannot."""
    within = None if torch.compiler.is_compiling() else _default.get()  # torch.compile cannot trace a ContextVar
    asked = backend or within or os.environ.get("PACKDIT_BACKEND") or "auto"
    if asked == "auto":
        return _automatic(op, tensors)
    if asked not in BACKENDS:
        raise ValueError(f"{op}: backend is {asked!r}; allowed: auto, {', '.join(BACKENDS)}")
    if asked == "flash" and backend is None and _why_not_flash(op, tensors):
        asked = "reference" if _why_no_triton() else "triton"
    if backend is None and op in {"triton": WITHOUT_TRITON, "cpu": WITHOUT_CPU}.get(asked, ()):
        return "reference"
    reason = ""
    if asked == "cpu":
        reason = _why_not_cpu(op, tensors)
    elif asked == "triton":
        reason = _why_not_triton(op, tensors)
    elif asked == "flash":
        reason = _why_not_flash(op, tensors)
    if reason:
        raise ValueError(f"{op}: backend {asked!r} cannot run this: {reason}; allowed here: {_automatic(op, tensors)}")
    return asked


def _automatic(op: str, tensors: tuple[Tensor, ...]) -> str:
    return "reference" if _why_not_cpu(op, tensors) else "cpu"


def _why_not_cpu(op: str, tensors: tuple[Tensor, ...]) -> str:
    """Why the C++ kernels cannot take these tensors; empty when they can."""
    if op in WITHOUT_CPU:
        return f"there is no C++ kernel of {op}"
    if _native_error:
        return _native_error
    for x in tensors:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return f"it takes float32 on cpu, got {str(x.dtype).removeprefix('torch.')} on {x.device}"
    return _why_no_gradient(tensors)


def interpreted() -> bool:
    """Whether Triton's kernels run under its interpreter, as tests have it, which needs no GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _why_no_triton() -> str:
    if not _has_triton:
        return "the package triton is not installed"
    if not (interpreted() or torch.cuda.is_available()):
        return "PyTorch finds no CUDA GPU"
    return ""


def _why_not_triton(op: str, tensors: tuple[Tensor, ...]) -> str:
    """Why the Triton kernels cannot take these tensors; empty when they can."""
    missing = f"there is no Triton kernel of {op}" if op in WITHOUT_TRITON else _why_no_triton()
    if missing:
        return missing
    for x in tensors:
        if not (x.is_cuda or (interpreted() and x.device.type == "cpu")) or x.dtype not in TRITON_DTYPES:
            kind = str(x.dtype).removeprefix("torch.")
            return f"it takes float32, bfloat16 and float16 on cuda, got {kind} on {x.device}"
    return _why_no_gradient(tensors)


def _why_no_flash() -> str:
    from .flash import why_none  # it registers an op

    return why_none()


def _why_not_flash(op: str, tensors: tuple[Tensor, ...]) -> str:
    """Why FlashAttention's libraries cannot take these tensors; empty when they can."""
    from .flash import DTYPES, HEAD_DIM_STEP

    if op not in WITH_FLASH:
        return f"FlashAttention has no {op}"
    reason = _why_no_flash()
    if reason:
        return reason
    for x in tensors:
        if not x.is_cuda or x.dtype not in DTYPES or x.shape[-1] % HEAD_DIM_STEP:
            kind = f"{str(x.dtype).removeprefix('torch.')} heads of {x.shape[-1]} on {x.device}"
            return f"it takes bfloat16 and float16 heads in multiples of {HEAD_DIM_STEP} on cuda, got {kind}"
    return _why_no_gradient(tensors)


def _why_no_gradient(tensors: tuple[Tensor, ...]) -> str:
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return "it computes no gradients, which a tensor here requires"
    return ""
