from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from packdit.kernels import Residual, gated_residual, linear, linear_int8
from packdit.kernels.backend import native
from packdit.kernels.linear import ACTIVATIONS
from packdit.kernels.linear_int8 import MAX_DEPTH, SMALLEST_PEAK, pack_int8, quantize_rows, unpack_int8
from packdit.kernels.testing import (
    assert_same_bits,
    check_cpu,
    instruction_set,
    int8_instruction_set,
    num_threads,
    offsets,
)

SHAPES = [(1, 4, 16), (13, 5, 7), (14, 12, 48), (15, 130, 33), (31, 64, 65), (57, 600, 100), (0, 4, 5), (3, 0, 5)]


def inputs(rows: int, depth: int, columns: int) -> tuple[torch.Tensor, ...]:
    """x [rows, depth], weight int8 [columns, depth], scale [columns], bias [columns]"""
    generator = torch.Generator().manual_seed(rows * 10000 + depth + columns)
    x = torch.randn(rows, depth, generator=generator) * torch.rand(rows, 1, generator=generator) * 5
    weight, scale = quantize_rows(torch.randn(columns, depth, generator=generator))
    return x, weight, scale, torch.randn(columns, generator=generator)


def instruction_sets() -> Iterator[str]:
    """Every pair of sets, one for floats and one for int8, in force while its name is given."""
    for floats in native().isas():
        for int8 in native().int8_isas():
            with instruction_set(floats), int8_instruction_set(int8):
                yield f"{floats} and {int8}"


def test_quantized_rows_are_within_half_a_step() -> None:
    x = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-20, 20, 50)[:, None]
    x[7] = 0
    values, scale = quantize_rows(x)
    assert (values.dtype, scale.dtype) == (torch.int8, torch.float32)
    assert values.abs().amax(-1).tolist() == [0 if i == 7 else 127 for i in range(50)]
    assert ((values * scale[:, None] - x).abs() <= 0.5001 * scale[:, None]).all()
    assert quantize_rows(torch.zeros(2, 3))[0].eq(0).all()
    assert quantize_rows(torch.full((1, 3), SMALLEST_PEAK / 1000))[0].eq(0).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_gives_nan(value: float) -> None:
    x, weight, scale, bias = inputs(20, 40, 30)
    clean = linear_int8(x, weight, scale, bias, backend="cpu")
    x[5, 39] = x[6, 0] = value
    for backend in ("reference", "cpu"):
        got = linear_int8(x, weight, scale, bias, backend=backend)
        assert got[5:7].isnan().all()
        assert_same_bits(got[:5], clean[:5])
        assert_same_bits(got[7:], clean[7:])


@pytest.mark.parametrize(("rows", "depth", "columns"), SHAPES)
def test_packing_loses_nothing(rows: int, depth: int, columns: int) -> None:
    weight = torch.randint(-128, 128, (columns, depth), dtype=torch.int8)
    packed = pack_int8(weight)
    assert packed.shape == (-(-columns // 16), -(-depth // 4), 16, 4)
    assert torch.equal(unpack_int8(packed, columns, depth), weight)


@pytest.mark.parametrize(("rows", "depth", "columns"), SHAPES)
def test_cpu_gives_the_references_bits(rows: int, depth: int, columns: int) -> None:
    x, weight, scale, bias = inputs(rows, depth, columns)
    expected = linear_int8(x, weight, scale, bias, backend="reference")
    packed = pack_int8(weight)
    assert_same_bits(linear_int8(x, packed, scale, bias, backend="reference"), expected)
    for name in instruction_sets():
        for count in (1, 2):
            with num_threads(count):
                assert_same_bits(linear_int8(x, packed, scale, bias, backend="cpu"), expected, f"{name}, {count}")


@pytest.mark.parametrize("sign", [1, -1])
def test_cpu_sums_of_the_largest_values_are_exact(sign: int) -> None:
    """Where instructions that saturate would: all values of one row at their largest, in every pair of signs."""
    depth = 4096
    weight = torch.full((20, depth), -128, dtype=torch.int8)
    weight[::2] = 127
    weight[1::4, ::2] = 127
    x = torch.ones(15, depth) * sign
    x[::2, ::3] *= -1
    expected = linear_int8(x, weight, torch.ones(20), backend="reference")
    assert expected.abs().max() == 128 * depth
    for name in instruction_sets():
        assert_same_bits(linear_int8(x, weight, torch.ones(20), backend="cpu"), expected, name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_cpu_epilogues(activation: str | None) -> None:
    x, weight, scale, bias = inputs(40, 64, 50)
    packed = pack_int8(weight)
    y = check_cpu(linear_int8, x, packed, scale, bias, activation=activation)[0]
    check_cpu(linear_int8, x, packed, scale, activation=activation)
    onto, table, row = torch.randn(40, 50), torch.randn(3, 100), torch.randint(3, (40,), dtype=torch.int32)
    residual = Residual(x=onto, gate=table[:, 50:], row=row)
    got = linear_int8(x, packed, scale, bias, activation=activation, residual=residual, backend="cpu")
    assert_same_bits(got, gated_residual(onto, y, residual.gate, row, backend="cpu"), "in one pass and in two")
    expected = linear_int8(x, packed, scale, bias, activation=activation, residual=residual, backend="reference")
    torch.testing.assert_close(got, expected)


def test_cpu_rows_alone_and_together() -> None:
    x, weight, scale, bias = inputs(300, 96, 112)
    packed = pack_int8(weight)
    whole = linear_int8(x, packed, scale, bias, activation="gelu", backend="cpu")
    for rows in range(1, 301, 7):
        first = (rows * 7) % (301 - rows)
        with num_threads(2 if rows % 2 else 1):
            got = linear_int8(x[first : first + rows], packed, scale, bias, activation="gelu", backend="cpu")
        assert_same_bits(got, whole[first : first + rows], f"{rows} rows")


def test_cpu_reads_strided_rows_of_any_shape() -> None:
    x, weight, scale, bias = inputs(24, 36, 20)
    expected = linear_int8(x, weight, scale, bias, backend="cpu")
    wide = torch.full((24, 50), torch.nan)
    wide[:, 3:39] = x
    assert_same_bits(linear_int8(wide[:, 3:39], weight, scale, bias, backend="cpu"), expected)
    assert_same_bits(linear_int8(x.view(2, 3, 4, 36), weight, scale, bias, backend="cpu").view(24, 20), expected)
    assert_same_bits(linear_int8(x[0], weight.t().contiguous().t(), scale, bias, backend="cpu"), expected[0])


def test_error_on_normal_data() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(64, 1536, generator=generator), torch.randn(128, 1536, generator=generator)
    exact = linear(x.double(), weight.double())
    got = linear_int8(x, *quantize_rows(weight))
    assert (got - exact).norm() / exact.norm() < 0.015


def test_other_dtypes_take_the_reference() -> None:
    x, weight, scale, bias = inputs(6, 8, 5)
    half = linear_int8(x.bfloat16(), weight, scale, bias.bfloat16())
    assert half.dtype == torch.bfloat16
    wide = linear_int8(x.bfloat16().float(), weight, scale, bias.bfloat16().float(), backend="reference")
    assert torch.equal(half, wide.bfloat16())


def test_bad_arguments() -> None:
    x, weight, scale, bias = inputs(4, 8, 5)
    packed = pack_int8(weight)
    for arguments, message in [
        ((x.int(), weight, scale), r"x is int32 \[4, 8\]"),
        ((x, weight[:, :7], scale), r"weight is int8 \[5, 7\] on cpu; allowed: int8 \[5, 8\]"),
        ((x, weight.float(), scale), r"weight is float32 \[5, 8\] on cpu; allowed: int8 \[5, 8\]"),
        ((x, packed[:, :1], scale), r"weight, packed is uint8 \[1, 1, 16, 4\] on cpu; allowed: uint8 \[1, 2, 16, 4\]"),
        ((x, weight, scale.half()), r"scale is float16"),
        ((x, weight, scale, bias[:4]), r"bias is float32 \[4\] on cpu; allowed: float32 \[5\]"),
    ]:
        with pytest.raises(ValueError, match=f"^linear_int8: {message}"):
            linear_int8(*arguments)
    with pytest.raises(ValueError, match=r"^linear_int8: activation is 'relu'"):
        linear_int8(x, weight, scale, activation="relu")
    with pytest.raises(ValueError, match=f"^linear_int8: x has {MAX_DEPTH + 1} columns; allowed: at most {MAX_DEPTH}"):
        linear_int8(torch.zeros(1, MAX_DEPTH + 1), weight, scale)
    onto = Residual(x=torch.zeros(4, 5), gate=torch.zeros(2, 5), row=offsets([0, 0, 2]))
    with pytest.raises(ValueError, match=r"^linear_int8: row\[3\] is 2; allowed: 0 to 1"):
        linear_int8(x, weight, scale, residual=onto, backend="cpu")
    with pytest.raises(ValueError, match=r"^linear_int8: residual is float32 \[3, 5\]"):
        linear_int8(x, weight, scale, residual=replace(onto, x=torch.zeros(3, 5)))


def test_op() -> None:
    x, weight, scale, bias = inputs(4, 8, 5)
    op = torch.ops.packdit.linear_int8.default
    torch.library.opcheck(op, (x, weight, scale, bias, "gelu"))
    torch.library.opcheck(op, (x.view(2, 2, 8), pack_int8(weight), scale, None, None))
    onto = torch.zeros(4, 5), torch.zeros(2, 5), offsets([0, 0, 1])
    torch.library.opcheck(op, (x, pack_int8(weight), scale, bias, None, *onto))


def test_an_instruction_set_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"instruction set is 'amx'; allowed on this machine: .*portable"):
        native().set_int8_isa("amx")
