import pytest
import torch

from packdit.kernels import Residual, linear, linear_fp8
from packdit.kernels.fp8 import quantize_rows
from packdit.kernels.linear import ACTIVATIONS
from packdit.kernels.testing import error


def inputs(rows: int = 40, depth: int = 64, columns: int = 24) -> tuple[torch.Tensor, ...]:
    """x, weight, its rounding and scale, bias."""
    generator = torch.Generator().manual_seed(depth)
    x, weight = torch.randn(rows, depth, generator=generator), torch.randn(columns, depth, generator=generator) / 8
    return x, weight, *quantize_rows(weight), torch.randn(columns, generator=generator)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_is_linear_but_for_e4m3(activation: str | None) -> None:
    x, weight, rounded, scale, bias = inputs()
    got = linear_fp8(x, rounded, scale, bias, activation=activation)
    exact = linear(x.double(), weight.double(), bias.double(), activation=activation)
    assert 1e-4 < error(got, exact) < 0.05


def test_values_that_e4m3_holds_are_exact() -> None:
    x = torch.tensor([[448.0, 2, -16, 0.5]])
    weight, scale = quantize_rows(torch.tensor([[448.0, 1, 1, 1], [-896, 0, 2, 4]]))
    assert linear_fp8(x, weight, scale).tolist() == [[448**2 + 2 - 16 + 0.5, -896 * 448 - 32 + 2]]


def test_a_residual_and_tokens_that_are_not_finite() -> None:
    x, _, weight, scale, bias = inputs()
    residual = Residual(x=torch.ones(40, 24), gate=torch.full((1, 24), 2.0), row=torch.zeros(40, dtype=torch.int32))
    y = linear_fp8(x, weight, scale, bias)
    torch.testing.assert_close(linear_fp8(x, weight, scale, bias, residual=residual), 1 + 2 * y)
    x[3, 5], x[9, 0] = torch.inf, torch.nan
    got = linear_fp8(x, weight, scale, bias)
    assert got[[3, 9]].isnan().all()
    x[[3, 9]] = 0
    got[[3, 9]] = linear_fp8(x, weight, scale, bias)[[3, 9]]
    assert torch.equal(got, linear_fp8(x, weight, scale, bias))


def test_bad_arguments() -> None:
    x, full, weight, scale, bias = inputs()
    for arguments, options, message in [
        ((x, full, scale), {}, "weight is float32"),
        (
            (x[:, :9], weight, scale),
            {},
            r"weight is float8_e4m3fn \[24, 64\] on cpu; allowed: float8_e4m3fn \[any, 9\]",
        ),
        ((x, weight, scale[:3]), {}, r"scale is float32 \[3\]"),
        ((x, weight, scale, bias.half()), {}, "bias is float16"),
        ((x, weight, scale), {"activation": "relu"}, "activation is 'relu'"),
        ((x, weight, scale), {"backend": "cpu"}, "there is no C.. kernel of linear_fp8; allowed here: reference"),
    ]:
        with pytest.raises(ValueError, match=f"^linear_fp8: .*{message}"):
            linear_fp8(*arguments, **options)
