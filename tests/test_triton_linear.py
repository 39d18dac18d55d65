from typing import Any

import pytest
import torch
import torch.nn.functional as F

from packdit.kernels import Residual, linear
from packdit.kernels.linear import ACTIVATIONS
from packdit.kernels.testing import assert_accurate, assert_same_bits, check_triton
from packdit.kernels.tuning import invariant

pytest.importorskip("triton")

from packdit.kernels.interpreter import strict
from packdit.kernels.triton_linear import LinearKey, choice

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(0, 8, 8), (1, 1, 1), (3, 15, 17), (130, 64, 260), (17, 129, 31), (5, 16, 128)]  # rows, depth, columns


def inputs(rows: int, depth: int, columns: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """x as a slice of a wider matrix, weight with the depth last, bias, and a residual with a slice as its gate."""
    generator = torch.Generator().manual_seed(rows * 1000 + depth)
    wide = torch.full((rows, depth + 3), torch.nan)
    wide[:, :depth] = torch.randn(rows, depth, generator=generator)
    weight = torch.randn(columns, depth, generator=generator) * depth**-0.5
    before = torch.randn(rows, 2 * columns, generator=generator).to(dtype)[:, columns:]
    gate = torch.randn(3, 2 * columns, generator=generator).to(dtype)[:, :columns]
    row = torch.randint(3, (rows,), generator=generator, dtype=torch.int32)
    return {
        "x": wide.to(dtype)[:, :depth],
        "weight": weight.to(dtype),
        "bias": torch.randn(columns, generator=generator).to(dtype),
        "residual": Residual(x=before, gate=gate, row=row),
    }


def double(residual: Residual) -> Residual:
    return Residual(x=residual.x.double(), gate=residual.gate.double(), row=residual.row)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    i = inputs(*shape, dtype)
    depth_major = i["weight"].t().contiguous().t()
    with invariant():
        check_triton(linear, i["x"], i["weight"])
        check_triton(linear, i["x"], depth_major, i["bias"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_follows_the_product(activation: str | None, dtype: torch.dtype) -> None:
    i = inputs(140, 40, 72, dtype)
    arguments, residual = (i["x"], i["weight"], i["bias"]), i["residual"]
    check_triton(linear, *arguments, activation=activation)
    exact = linear(*(x.double() for x in arguments), activation=activation, residual=double(residual))
    plain = linear(*arguments, activation=activation, residual=residual, backend="reference")
    for wanted in (False, True):
        with strict(), invariant(wanted):
            got = linear(*arguments, activation=activation, residual=residual, backend="triton")
        assert_accurate(got, plain, exact)


def test_the_librarys_product_is_pytorchs_in_its_own_dtype() -> None:
    i = inputs(7, 2000, 48, torch.bfloat16)
    with strict():
        got = linear(i["x"], i["weight"], i["bias"], activation="silu", backend="triton")
        added = linear(i["x"], i["weight"], residual=i["residual"], backend="triton")
    assert torch.equal(got, F.silu(F.linear(i["x"], i["weight"], i["bias"])))
    assert added.dtype == torch.bfloat16


def test_more_dimensions_and_any_strides() -> None:
    i = inputs(24, 40, 16)
    x = i["x"].reshape(2, 3, 4, 40)
    check_triton(linear, x, i["weight"], activation="gelu")
    check_triton(linear, x.transpose(0, 2), torch.stack((i["weight"],) * 2, 2)[:, :, 1], activation="gelu")


def test_rows_depend_on_nothing_else() -> None:
    i = inputs(200, 64, 48)
    for name in ("x", "weight", "bias"):  # exact sums: a product of numpy has other bits elsewhere in a tile
        i[name] = (i[name] * 8).round()
    i["x"][150], i["x"][151, 3] = torch.nan, torch.inf
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    with strict(), invariant():
        whole = linear(i["x"], i["weight"], i["bias"], backend="triton")
        mixed = linear(i["x"][order], i["weight"], i["bias"], backend="triton")
        alone = linear(i["x"][199:], i["weight"], i["bias"], backend="triton")
    assert_same_bits(mixed, whole[order])
    assert_same_bits(alone, whole[199:])
    assert whole[150].isnan().all()
    assert whole[:150].isfinite().all()
    assert whole[152:].isfinite().all()


def test_the_choice_knows_widths_and_whether_bits_matter() -> None:
    def key(**changes: Any) -> LinearKey:
        fields = {"arch": 90, "dtype": torch.bfloat16, "depth": 5120, "num_columns": 5120, "fused": True}
        return LinearKey(**{**fields, "invariant": False, **changes})

    assert choice(key()) is None
    assert choice(key(depth=512)) is not None
    assert choice(key(depth=512, fused=False)) is None
    assert choice(key(dtype=torch.float8_e4m3fn)) is not None
    for arch in (80, 90, 100, 120):
        for dtype in DTYPES:
            wanted = key(arch=arch, dtype=dtype, invariant=True)
            assert None not in (choice(wanted), *choice.candidates(wanted))
    narrow = choice(key(num_columns=20, depth=512))
    assert narrow is not None
    assert narrow.block_n == 32


def test_op() -> None:
    i = {name: value.contiguous() for name, value in inputs(5, 9, 6).items() if name != "residual"}
    residual = inputs(5, 9, 6)["residual"]
    added = (residual.x.contiguous(), residual.gate.contiguous(), residual.row)
    with strict():
        for arguments in ((None, None), (i["bias"], "silu", *added)):
            torch.library.opcheck(torch.ops.packdit.linear_triton.default, (i["x"], i["weight"], *arguments))
