"""The strict interpreter catches what stock lets pass: kernels with one planted bug each."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from packdit.kernels.interpreter import Race, from_bfloat16, from_e4m3, strict, to_bfloat16, to_e4m3, to_tf32


@triton.jit
def copy_kernel(x: tl.tensor, out: tl.tensor, num: int, step: tl.constexpr, block: tl.constexpr) -> None:
    index = tl.program_id(0) * step + tl.arange(0, block)
    value = tl.load(x + index, index < num)
    tl.store(out + index, value, index < num)


@triton.jit
def neighbour_kernel(x: tl.tensor) -> None:
    program = tl.program_id(0)
    tl.store(x + program, tl.load(x + (program + 1) % 2))


@triton.jit
def sum_kernel(x: tl.tensor, out: tl.tensor, num: int, block: tl.constexpr) -> None:
    index = tl.arange(0, block)
    tl.store(out, tl.sum(tl.load(x + index, index < num), 0))


@triton.jit
def arithmetic_kernel(x: tl.tensor, y: tl.tensor, out: tl.tensor, block: tl.constexpr) -> None:
    index = tl.arange(0, block)
    a, b = tl.load(x + index), tl.load(y + index)
    result = tl.where(a > b, a * b + a, a - b)
    tl.store(out + index, result.to(out.dtype.element_ty))


@triton.jit
def product_kernel(x: tl.tensor, y: tl.tensor, out: tl.tensor, precision: tl.constexpr, n: tl.constexpr) -> None:
    index = tl.arange(0, n)[:, None] * n + tl.arange(0, n)[None, :]
    product = tl.dot(tl.load(x + index), tl.load(y + index), input_precision=precision)
    tl.store(out + index, product)


@triton.jit
def atomic_kernel(x: tl.tensor) -> None:
    tl.atomic_add(x, 1.0)


def pair(dtype: torch.dtype, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, *shape, generator=generator).to(dtype)
    return x, y


def test_right_kernels_pass() -> None:
    x = torch.arange(10.0)
    out = torch.empty(10)
    with strict():
        copy_kernel[(2,)](x, out, 10, step=8, block=8)
    assert torch.equal(out, x)


def test_an_address_outside_the_tensors_raises() -> None:
    for num, size in ((16, 10), (10, 10)):
        x, out = torch.zeros(size), torch.zeros(max(num, size) if num == 16 else 9)
        with strict(), pytest.raises(InterpreterError, match="OutOfBounds"):
            copy_kernel[(2,)](x, out, num, step=8, block=8)


def test_two_programs_that_touch_one_address_raise() -> None:
    x = torch.zeros(16)
    with strict(), pytest.raises(Race, match="two programs store to 4 addresses"):
        copy_kernel[(2,)](x, torch.zeros(16), 12, step=4, block=8)
    with strict(), pytest.raises(Race, match="loads what another one stores"):
        neighbour_kernel[(2,)](x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masked_lanes_read_nan(dtype: torch.dtype) -> None:
    x, out = torch.ones(8, dtype=dtype), torch.zeros(1, dtype=torch.float32)
    with strict():
        sum_kernel[(1,)](x, out, 8, block=8)
        assert out == 8
        sum_kernel[(1,)](x, out, 7, block=8)
    assert out.isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_arithmetic_rounds_as_pytorch_does(dtype: torch.dtype) -> None:
    x, y = pair(dtype, 256)
    out = torch.empty_like(x)
    with strict():
        arithmetic_kernel[(1,)](x, y, out, block=256)
    assert torch.equal(out, torch.where(x > y, x * y + x, x - y))


def test_conversions_round_to_nearest_even() -> None:
    x = torch.cat((torch.randn(1000), torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 3e38, torch.inf, -0.0])))
    expected = x.bfloat16()
    assert torch.equal(torch.from_numpy(to_bfloat16(x.numpy())).view(torch.bfloat16), expected)
    assert torch.equal(torch.from_numpy(from_bfloat16(expected.view(torch.uint16).numpy())), expected.float())
    assert to_tf32(torch.tensor([1 + 2**-11, 1 + 2**-12, torch.inf]).numpy()).tolist() == [1 + 2**-10, 1, torch.inf]


def test_e4m3_is_pytorchs_and_saturates() -> None:
    bits = torch.arange(256, dtype=torch.uint8)
    expected = bits.view(torch.float8_e4m3fn).float()
    assert torch.equal(torch.from_numpy(from_e4m3(bits.numpy())).nan_to_num(nan=7), expected.nan_to_num(nan=7))
    x = torch.cat((torch.randn(1000) * 50, torch.tensor([449.0, torch.inf, -torch.inf, 2**-9, 2**-10])))
    got = torch.from_numpy(from_e4m3(to_e4m3(x.numpy())))
    assert torch.equal(got, x.clamp(-448, 448).to(torch.float8_e4m3fn).float())
    assert torch.from_numpy(from_e4m3(to_e4m3(torch.tensor([torch.nan]).numpy()))).isnan()


def product(dtype: torch.dtype, precision: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A product in the interpreter, and exactly."""
    x, y = pair(dtype, 32, 32)
    out = torch.empty(32, 32)
    with strict():
        product_kernel[(1,)](x, y, out, precision=precision, n=32)
    return out.double(), x.double() @ y.double()


def test_float32_products_round_to_tf32_unless_told_otherwise() -> None:
    tf32, ieee = ((got - exact).abs().max() for got, exact in (product(torch.float32, p) for p in ("tf32", "ieee")))
    assert 1e-4 < tf32 < 1e-2
    assert ieee < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_narrow_products_are_exact(dtype: torch.dtype) -> None:
    got, exact = product(dtype, "tf32")
    assert (got - exact).abs().max() < 1e-5


def test_atomics_are_refused() -> None:
    with strict(), pytest.raises(InterpreterError, match="atomics"):
        atomic_kernel[(1,)](torch.zeros(1))


def test_stock_comes_back() -> None:
    from triton.runtime import interpreter

    before: dict[str, Any] = dict(vars(interpreter))
    with strict():
        assert interpreter.interpreter_builder is not before["interpreter_builder"]
    assert dict(vars(interpreter)) == before
