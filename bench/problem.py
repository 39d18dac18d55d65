"""One task for one op: its inputs, what is exact, who can compute it, and how much work it is.

A result is accurate where it loses at most twice what plain PyTorch loses in the same precision: the larger of what the
reference and the ordinary PyTorch call (`eager`) lose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..kernels.testing import error

Results = tuple[Tensor, ...]
Make = Callable[[], Results]


def same(results: Results) -> Results:
    """What is compared, where that is all of it."""
    return results


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """run(backend) is packdit's op; exact is in float64 and plain the reference in the problem's own precision, both
    of the part of the results that `select` picks; peers compute the same, `eager` first where there is one, as a
    `partial` of a function that torch.compile can take; compiled: what torch.compile makes of the task where that is
    another function. flops, moved: operations and bytes at least.
    inputs: floating-point tensors, which may hold any other values; packs: cu_seqlens, which may be cut otherwise.
    reset: to be called before what changes its inputs runs again. limit: what a quantized op may lose, as the norm of
    the error relative to the norm of what is exact, instead of all that.
    """

    run: Callable[[str | None], Results]
    exact: Make
    plain: Make
    flops: float
    moved: float
    peers: Mapping[str, Make] = field(default_factory=dict)
    select: Callable[[Results], Results] = same
    reset: Callable[[], object] = lambda: None
    limit: float | None = None
    compiled: Callable[[], Make] | None = None
    inputs: tuple[Tensor, ...] = ()
    packs: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A problem that can be built. shape: what it is, in words."""

    op: str
    shape: str
    dtype: torch.dtype
    build: Callable[[torch.device], Problem]


class Judge:
    """Knows what is exact, and how much may be lost."""

    def __init__(self, problem: Problem, dtype: torch.dtype) -> None:
        self.problem = problem
        with torch.inference_mode():
            self.exact = problem.exact()
            ordinary = [problem.plain()]
            if "eager" in problem.peers:
                problem.reset()
                ordinary.append(problem.select(problem.peers["eager"]()))
        self.allowed = problem.limit or 0.0
        if problem.limit is None:
            self.allowed = max(2 * max(map(self._error, ordinary)), torch.finfo(dtype).eps)

    def error(self, make: Make) -> float:
        """The largest error of what `make` gives; infinite where NaN, Inf, shapes or dtypes are not what they are to
        be. Fresh memory is poisoned, so that what is not written shows."""
        with torch.inference_mode(), poisoned_memory():
            self.problem.reset()
            results = self.problem.select(make())
        return self._error(results)

    def _error(self, results: Results) -> float:
        measure = error if self.problem.limit is None else norm_error
        try:
            return max(measure(got, want) for got, want in zip(results, self.exact, strict=True))
        except (AssertionError, ValueError):
            return float("inf")


def norm_error(got: Tensor, exact: Tensor) -> float:
    """The norm of the difference relative to that of exact; infinite where got is not finite."""
    return float(((got.double() - exact).norm() / exact.norm()).nan_to_num(float("inf")))


def of_op(op: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any], **fields: Any) -> Problem:
    """A problem of an op that takes `backend` and changes nothing, called with these; `fields`: of the problem."""
    wide_args, wide_options = [_double(a) for a in args], {k: _double(v) for k, v in options.items()}
    return Problem(
        run=lambda backend: as_tuple(op(*args, **options, backend=backend)),
        exact=lambda: as_tuple(op(*wide_args, **wide_options, backend="reference")),
        plain=lambda: as_tuple(op(*args, **options, backend="reference")),
        **fields,
    )


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def as_tuple(x: Tensor | tuple[Tensor, ...] | list[Tensor]) -> Results:
    """What an op returns, as results."""
    return (x,) if isinstance(x, Tensor) else tuple(x)


def eager(function: Callable[..., Any], *args: Any) -> dict[str, Make]:
    """The peer `eager`: plain PyTorch as people write it."""
    return {"eager": partial(function, *args)}


def compiled(peer: Make) -> Make:
    """torch.compile of a peer that is a `partial`. It compiles when it is called first."""
    assert isinstance(peer, partial)
    torch.compiler.reset()
    return partial(torch.compile(peer.func, dynamic=False), *peer.args)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Within it fresh floating-point memory is NaN, so that an element that no kernel writes is seen."""
    names: list[tuple[Any, str]] = [(torch, name) for name in ("empty", "empty_like", "empty_strided")]
    names += [(torch.Tensor, name) for name in ("new_empty", "new_empty_strided")]
    before = [(owner, name, getattr(owner, name)) for owner, name in names]

    def poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapper(*args: Any, **kwargs: Any) -> Tensor:
            fresh = allocate(*args, **kwargs)
            return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh

        return wrapper

    for owner, name, allocate in before:
        setattr(owner, name, poisoned(allocate))
    try:
        yield
    finally:
        for owner, name, allocate in before:
            setattr(owner, name, allocate)
