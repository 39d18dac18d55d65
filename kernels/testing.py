"""What the tests of ops share: one error budget, ragged lengths, machine settings, and the comparison of backends."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .backend import native

# 0, 1, odd, and both sides of the blocks that kernels cut sequences into
LENGTHS = (0, 1, 2, 13, 14, 15, 0, 16, 17, 63, 97, 112, 127, 128, 129, 200)


def offsets(lengths: Sequence[int], start: int = 0) -> Tensor:
    """cu_seqlens, int32 [S + 1], of segments with these lengths, the first of which begins at start."""
    return torch.tensor([0, *lengths]).cumsum(0).add(start).int()


def error(got: Tensor, exact: Tensor) -> float:
    """The largest error of an element, relative to the largest finite element of exact. NaN and Inf must match."""
    wide = got.double()
    finite = exact.isfinite()
    assert got.shape == exact.shape, (got.shape, exact.shape)
    assert torch.equal(wide[~finite].nan_to_num(nan=0.5), exact[~finite].nan_to_num(nan=0.5)), "NaN or Inf differ"
    assert wide[finite].isfinite().all(), "NaN or Inf where the exact result is finite"
    if not finite.any():
        return 0.0
    scale = exact[finite].abs().max()
    return ((wide - exact)[finite].abs().max() / scale).nan_to_num(0.0).item()


def assert_accurate(got: Tensor, plain: Tensor, exact: Tensor) -> None:
    """got loses at most twice what plain PyTorch loses in the same precision, or one unit in the last place.

    plain: PyTorch's result in the precision of got; exact: in float64.
    """
    budget = max(2 * error(plain, exact), torch.finfo(got.dtype).eps)
    loss = error(got, exact)
    assert loss <= budget, f"error {loss:.3g} of the output's scale; allowed: {budget:.3g}"


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Within it PyTorch and the CPU kernels use this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Within it the CPU kernels use this one of native().isas()."""
    before = native().isa()
    native().set_isa(name)
    try:
        yield
    finally:
        native().set_isa(before)


@contextmanager
def int8_instruction_set(name: str) -> Iterator[None]:
    """Within it products of int8 use this one of native().int8_isas()."""
    before = native().int8_isa()
    native().set_int8_isa(name)
    try:
        yield
    finally:
        native().set_int8_isa(before)


def check_triton(op: Callable[..., Any], *args: Any, **options: Any) -> tuple[Tensor, ...]:
    """Runs op, which takes `backend`, on its Triton kernel in the strict interpreter and holds it to the reference.

    Results must be accurate (`assert_accurate`). Returns them. Needs TRITON_INTERPRET=1 from the start.
    """
    from .interpreter import strict  # triton is optional

    exact = _tuple(op(*map(_double, args), **{k: _double(v) for k, v in options.items()}, backend="reference"))
    plain = _tuple(op(*args, **options, backend="reference"))
    with strict():
        got = _tuple(op(*args, **options, backend="triton"))
    for result, ordinary, truth in zip(got, plain, exact, strict=True):
        assert result.dtype == ordinary.dtype
        assert_accurate(result, ordinary, truth)
    return got


def check_cpu(op: Callable[..., Any], *args: Any, **options: Any) -> tuple[Tensor, ...]:
    """Runs op, which takes `backend`, on the CPU kernels and holds their results to the reference.

    They must be accurate (`assert_accurate`), and the same bits under every instruction set and with 1 and 2 threads.
    Returns them.
    """
    with num_threads(1):
        exact = _tuple(op(*map(_double, args), **{k: _double(v) for k, v in options.items()}, backend="reference"))
        plain = _tuple(op(*args, **options, backend="reference"))
    got = _tuple(op(*args, **options, backend="cpu"))
    for result, ordinary, truth in zip(got, plain, exact, strict=True):
        assert_accurate(result, ordinary, truth)
    for name in native().isas():
        for count in (1, 2):
            with instruction_set(name), num_threads(count):
                again = _tuple(op(*args, **options, backend="cpu"))
            for result, other in zip(got, again, strict=True):
                assert_same_bits(other, result, f"{name}, {count} threads")
    return got


def assert_same_bits(got: Tensor, expected: Tensor, what: str = "") -> None:
    """Both float32, with equal bits; any NaN equals any other."""
    same = (got.view(torch.int32) == expected.view(torch.int32)) | (got.isnan() & expected.isnan())
    assert same.all(), f"{what}: {int((~same).sum())} of {same.numel()} elements differ"


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _tuple(x: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (x,) if isinstance(x, Tensor) else tuple(x)
