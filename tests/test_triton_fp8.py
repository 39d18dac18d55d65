"""The kernels of `linear_fp8`: the rounding of rows, then the product of triton_linear.py."""

import pytest
import torch

from packdit.kernels import Residual, linear_fp8
from packdit.kernels.fp8 import quantize_rows
from packdit.kernels.linear import ACTIVATIONS
from packdit.kernels.testing import assert_accurate, assert_same_bits, error

pytest.importorskip("triton")

from packdit.kernels.interpreter import strict
from packdit.kernels.triton_fp8 import launch_round_rows

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def inputs(rows: int, depth: int, columns: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """x, the weight's rounding and scale, bias."""
    generator = torch.Generator().manual_seed(rows * 1000 + depth)
    x, weight = torch.randn(rows, depth, generator=generator), torch.randn(columns, depth, generator=generator)
    return x.to(dtype), *quantize_rows(weight * depth**-0.5), torch.randn(columns, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (7, 100), (130, 64), (3, 2049)])
def test_rows_are_rounded_as_defined(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    if x.shape[0] > 2:
        x[0], x[1, 0], x[2, 0] = 0, torch.nan, -torch.inf
    values, scale = quantize_rows(x.float())
    with strict():
        got, got_scale = launch_round_rows(x)
    assert torch.equal(got_scale, scale)
    assert torch.equal(got.view(torch.uint8), values.view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linear_fp8(activation: str | None, dtype: torch.dtype) -> None:
    for shape in ((0, 8, 8), (1, 1, 1), (130, 200, 72)):
        x, weight, scale, bias = inputs(*shape, dtype)
        row = torch.arange(len(x), dtype=torch.int32) % 2
        residual = Residual(x=torch.ones(len(x), len(scale), dtype=dtype), gate=bias.expand(2, -1), row=row)
        for options in ({}, {"residual": residual}):
            plain = linear_fp8(x, weight, scale, bias, activation=activation, **options, backend="reference")
            with strict():
                got = linear_fp8(x, weight, scale, bias, activation=activation, **options, backend="triton")
            assert error(got, plain.double()) < max(2e-3, 2 * torch.finfo(dtype).eps)


def test_it_loses_what_rounding_to_e4m3_loses() -> None:
    x, weight, scale, bias = inputs(60, 300, 40)
    exact = x.double() @ (weight.double() * scale.double()[:, None]).t() + bias.double()
    plain = linear_fp8(x, weight, scale, bias, backend="reference")
    with strict():
        assert_accurate(linear_fp8(x, weight, scale, bias, backend="triton"), plain, exact)


def test_tokens_depend_on_nothing_else() -> None:
    x, weight, scale, bias = inputs(150, 70, 24)
    x = (x * 2).round()
    x[:, 0] = 8  # with weights like these the sums are exact: numpy's product has other bits at other places of a tile
    weight = weight.float().clamp(-16, 16).round().to(weight.dtype)
    x[20], x[21] = torch.nan, 1e6
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    with strict():
        whole = linear_fp8(x, weight, scale, bias, backend="triton")
        mixed = linear_fp8(x[order].view(3, 50, 70), weight, scale, bias, backend="triton")
    assert_same_bits(mixed.view(150, 24), whole[order])
    assert whole[20].isnan().all()
    assert whole[21:].isfinite().all()


def test_op() -> None:
    x, weight, scale, bias = inputs(5, 32, 6)
    row = torch.zeros(5, dtype=torch.int32)
    with strict():
        # PyTorch's own check of mutation cannot add to e4m3
        checks = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
        for rest in ((None, None), (bias, "gelu", torch.ones(5, 6), torch.ones(1, 6), row)):
            torch.library.opcheck(
                torch.ops.packdit.linear_fp8_triton.default, (x, weight, scale, *rest), test_utils=checks
            )


def test_a_gpu_that_cannot_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packdit.kernels.triton_fp8.current_arch", lambda: 80)
    x, weight, scale, _ = inputs(5, 32, 6)
    with strict(), pytest.raises(ValueError, match=r"^linear_fp8: the GPU's capability is 8.0; allowed: 8.9 or more"):
        linear_fp8(x, weight, scale, backend="triton")
