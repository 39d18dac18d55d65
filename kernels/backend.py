"""The one place that chooses which implementation of an op runs.

An explicit backend wins over `using`, which wins over the environment variable PACKDIT_BACKEND, which wins over the
automatic choice: `cpu` for float32 tensors on the CPU that need no gradient, else `reference`. Asking for what cannot
run is an error that says why.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch
from torch import Tensor

BACKENDS = ("reference", "cpu")

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
    return {"reference": "ok", "cpu": _native_error or "ok"}


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
        return "reference" if _why_not_cpu(tensors) else "cpu"
    if asked not in BACKENDS:
        raise ValueError(f"{op}: backend is {asked!r}; allowed: auto, {', '.join(BACKENDS)}")
    reason = _why_not_cpu(tensors) if asked == "cpu" else ""
    if reason:
        raise ValueError(f"{op}: backend 'cpu' cannot run this: {reason}; allowed here: reference")
    return asked


def _why_not_cpu(tensors: tuple[Tensor, ...]) -> str:
    """Why the C++ kernels cannot take these tensors; empty when they can."""
    if _native_error:
        return _native_error
    for x in tensors:
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return f"it takes float32 on cpu, got {str(x.dtype).removeprefix('torch.')} on {x.device}"
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return "it computes no gradients, which a tensor here requires"
    return ""
