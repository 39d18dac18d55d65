from dataclasses import replace

import pytest
import torch

from packdit.kernels import Residual, gated_residual, linear
from packdit.kernels.linear import ACTIVATIONS, fastest_layout, linear_reference, pack_weight
from packdit.kernels.testing import assert_same_bits, check_cpu, num_threads, offsets

WIDTHS = [48, 64, 96, 128, 192, 576, 1152]


def inputs(rows: int, depth: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x [rows, depth], weight [columns, depth], bias [columns]"""
    generator = torch.Generator().manual_seed(rows * 10000 + depth + columns)
    x = torch.randn(rows, depth, generator=generator)
    weight = torch.randn(columns, depth, generator=generator) / max(depth, 1) ** 0.5 * 3
    return x, weight, torch.randn(columns, generator=generator)


def test_the_reference_is_the_formula() -> None:
    x, weight, bias = (t.double() for t in inputs(3, 4, 5))
    expected = torch.einsum("rk,nk->rn", x, weight) + bias
    torch.testing.assert_close(linear(x, weight, bias), expected)
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(linear(x, weight, bias, activation="gelu"), expected * normal.cdf(expected))
    torch.testing.assert_close(linear(x, weight, bias, activation="silu"), expected * expected.sigmoid())
    inner = (2 / torch.pi) ** 0.5 * (expected + 0.044715 * expected**3)
    torch.testing.assert_close(linear(x, weight, bias, activation="gelu_tanh"), expected * (1 + inner.tanh()) / 2)


def test_the_reference_computes_in_float32_and_differentiates() -> None:
    x, weight, bias = inputs(3, 4, 5)
    half = [t.bfloat16() for t in (x, weight, bias)]
    assert torch.equal(linear(*half), linear(*(t.float() for t in half), backend="reference").bfloat16())
    for activation in ACTIVATIONS:
        wide = [t.double().requires_grad_() for t in (x, weight, bias)]
        assert torch.autograd.gradcheck(lambda *t, a=activation: linear_reference(*t, a), wide)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [(13, 12, 48), (15, 192, 33), (28, 193, 16), (29, 600, 17), (57, 64, 65), (150, 1152, 96), (300, 192, 576)],
)
def test_cpu(rows: int, depth: int, columns: int, activation: str | None) -> None:
    x, weight, bias = inputs(rows, depth, columns)
    got = check_cpu(linear, x, weight, bias, activation=activation)[0]
    if columns % 16 == 0:
        packed = check_cpu(linear, x, pack_weight(weight), bias, activation=activation)[0]
        assert_same_bits(packed, got, "packed and not")


def test_the_fastest_layout() -> None:
    weight = torch.randn(48, 5)
    packed = fastest_layout(weight)
    assert packed.shape == (3, 5, 16)
    assert torch.equal(packed[1, 2], weight[16:32, 2])
    odd = torch.randn(47, 5)
    assert fastest_layout(odd) is odd
    for other in (weight.double(), weight.bfloat16(), weight.to("meta")):
        assert fastest_layout(other).stride() == (1, 48)


def ending_a_branch(x: torch.Tensor, weight: torch.Tensor, *args: torch.Tensor, **options: str) -> torch.Tensor:
    bias, onto, gate, row = args
    return linear(x, weight, bias, residual=Residual(x=onto, gate=gate, row=row), **options)


@pytest.mark.parametrize(("rows", "depth", "columns"), [(0, 4, 5), (13, 193, 48), (57, 64, 65), (300, 400, 200)])
def test_cpu_adds_to_a_gated_residual(rows: int, depth: int, columns: int) -> None:
    x, weight, bias = inputs(rows, depth, columns)
    onto, table = torch.randn(rows, columns), torch.randn(3, 2 * columns)
    gate, row = table[:, columns:], torch.randint(3, (rows,), dtype=torch.int32)
    got = check_cpu(ending_a_branch, x, weight, bias, onto, gate, row, activation="silu")[0]
    y = linear(x, weight, bias, activation="silu", backend="cpu")
    assert_same_bits(got, gated_residual(onto, y, gate, row, backend="cpu"), "in one pass and in two")


@pytest.mark.parametrize(("rows", "depth", "columns"), [(0, 8, 5), (3, 8, 0), (3, 0, 5), (1, 1, 1)])
def test_cpu_of_nothing(rows: int, depth: int, columns: int) -> None:
    x, weight, bias = inputs(rows, depth, columns)
    got = linear(x, weight, bias, activation="silu", backend="cpu")
    torch.testing.assert_close(got, linear(x, weight, bias, activation="silu", backend="reference"))


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
def test_cpu_activations_everywhere(activation: str) -> None:
    special = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30, -torch.inf, torch.nan])
    x = torch.cat((torch.linspace(-110, 110, 4001), torch.linspace(-6, 6, 4001), special))[:, None]
    check_cpu(linear, x, torch.ones(1, 1), activation=activation)
    infinite = torch.full((1, 1), torch.inf)  # where PyTorch's own float32 gelu gives NaN
    assert linear(infinite, torch.ones(1, 1), activation=activation, backend="cpu") == torch.inf


def test_cpu_passes_on_nan_and_inf() -> None:
    x, weight, bias = inputs(40, 70, 50)
    x[3, 5] = torch.nan
    x[7, 9] = torch.inf
    weight[11, 13] = torch.inf
    check_cpu(linear, x, weight, bias)


@pytest.mark.parametrize("width", WIDTHS)
def test_cpu_rows_alone_and_together(width: int) -> None:
    """Any 1 to 300 rows, from any place, give the bits that they have among 300."""
    x, weight, bias = inputs(300, width, min(width, 112))
    whole = linear(x, weight, bias, backend="cpu")
    for rows in range(1, 301):
        first = (rows * 7) % (301 - rows)
        with num_threads(2 if rows % 25 == 0 else 1):
            got = linear(x[first : first + rows], weight, bias, backend="cpu")
        assert_same_bits(got, whole[first : first + rows], f"{rows} rows of {width}")
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    assert_same_bits(linear(x[order], weight, bias, backend="cpu"), whole[order])


def test_cpu_reads_strided_rows_of_any_shape() -> None:
    x, weight, bias = inputs(24, 33, 20)
    expected = linear(x, weight, bias, backend="cpu")
    wide = torch.full((24, 50), torch.nan)
    wide[:, 3:36] = x
    assert_same_bits(linear(wide[:, 3:36], weight, bias, backend="cpu"), expected)
    assert_same_bits(linear(x.t().contiguous().t(), weight, bias, backend="cpu"), expected)
    assert_same_bits(linear(x.view(2, 3, 4, 33), weight, bias, backend="cpu"), expected.view(2, 3, 4, 20))
    assert_same_bits(linear(x[0], weight, bias, backend="cpu"), expected[0])
    columns = weight.t().contiguous().t()
    assert_same_bits(linear(x, columns, bias, backend="cpu"), expected)
    every_second = torch.stack((weight, weight), 1).flatten(0, 1)[::2]
    assert_same_bits(linear(x, every_second, torch.stack((bias, bias), 1)[:, 0], backend="cpu"), expected)


def test_bad_arguments() -> None:
    x, weight, bias = inputs(4, 8, 5)
    for arguments, message in [
        ((x[:, :7], weight, bias), r"weight is float32 \[5, 8\] on cpu; allowed: float32 \[any, 7\]"),
        ((x, weight.double(), bias), r"weight is float64 \[5, 8\] on cpu; allowed: float32"),
        ((x, weight, bias[:4]), r"bias is float32 \[4\] on cpu; allowed: float32 \[5\]"),
        ((x.int(), weight, bias), r"x is int32 \[4, 8\]"),
        ((x, torch.zeros(2, 7, 16), None), r"weight is float32 \[2, 7, 16\] on cpu; allowed: float32 \[any, 8, 16\]"),
    ]:
        with pytest.raises(ValueError, match=f"^linear: {message}"):
            linear(*arguments)
    onto = Residual(x=torch.zeros(4, 5), gate=torch.zeros(2, 5), row=offsets([0, 0, 1]))
    for wrong, message in [
        ({"x": torch.zeros(3, 5)}, r"residual is float32 \[3, 5\] on cpu; allowed: float32 \[4, 5\]"),
        ({"gate": torch.zeros(2, 4)}, r"gate is float32 \[2, 4\]"),
        ({"row": onto.row.long()}, r"row is int64 \[4\]"),
        ({"row": onto.row + 1}, r"row\[3\] is 2; allowed: 0 to 1"),
    ]:
        with pytest.raises(ValueError, match=f"^linear: {message}"):
            linear(x, weight, bias, residual=replace(onto, **wrong))
    with pytest.raises(ValueError, match=r"^linear: x with a residual is float32 \[2, 2, 8\]"):
        linear(x.view(2, 2, 8), weight, bias, residual=onto)
    with pytest.raises(ValueError, match=r"^linear: activation is 'relu'; allowed: None, gelu, gelu_tanh, silu$"):
        linear(x, weight, bias, activation="relu")


def test_op() -> None:
    x, weight, bias = inputs(4, 8, 5)
    torch.library.opcheck(torch.ops.packdit.linear.default, (x, weight, bias, "gelu"))
    torch.library.opcheck(torch.ops.packdit.linear.default, (x.view(2, 2, 8), weight.t().contiguous().t(), None, None))
    packed = pack_weight(torch.ones(32, 8))
    torch.library.opcheck(torch.ops.packdit.linear.default, (x, packed, torch.zeros(32), None))
    onto = torch.zeros(4, 5), torch.zeros(2, 5), offsets([0, 0, 1])
    torch.library.opcheck(torch.ops.packdit.linear.default, (x, weight, bias, "gelu", *onto))
