import pytest
import torch

from packdit.kernels import gated_residual, modulate, norm_silu
from packdit.kernels.norm import NORMS
from packdit.kernels.testing import assert_same_bits, check_triton

pytest.importorskip("triton")

from packdit.kernels.interpreter import strict
from packdit.kernels.triton_rows import RowsKey, choice

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(0, 8), (1, 1), (3, 15), (37, 64), (5, 193), (2, 2049)]


def inputs(tokens: int, width: int, dtype: torch.dtype = torch.float32, rows: int = 5) -> dict[str, torch.Tensor]:
    """x, y [T, D], the tables gate, shift, scale as slices of one that is wider, row."""
    generator = torch.Generator().manual_seed(tokens * 1000 + width)
    wide = torch.full((tokens, 2 * width + 3), torch.nan)
    wide[:, 1:-2] = torch.randn(tokens, 2 * width, generator=generator) * 2 + 1
    x, y = wide[:, 1:-2].to(dtype).chunk(2, 1)
    tables = torch.randn(rows, 3 * width, generator=generator).to(dtype).chunk(3, 1)
    row = torch.randint(rows, (tokens,), generator=generator, dtype=torch.int32)
    return dict(zip(("x", "y", "gate", "shift", "scale", "row"), (x, y, *tables, row), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_modulate(tokens: int, width: int, norm: str, dtype: torch.dtype) -> None:
    i = inputs(tokens, width, dtype)
    check_triton(modulate, i["x"], i["shift"], i["scale"], i["row"], norm=norm, eps=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "width"), SHAPES)
def test_gated_residual(tokens: int, width: int, dtype: torch.dtype) -> None:
    i = inputs(tokens, width, dtype)
    arguments = i["x"], i["y"], i["gate"], i["row"]
    check_triton(gated_residual, *arguments)
    for norm in NORMS:
        check_triton(gated_residual, *arguments, shift=i["shift"], scale=i["scale"], norm=norm, eps=1e-5)


def test_tables_may_have_another_dtype() -> None:
    i, tables = inputs(9, 20, torch.bfloat16), inputs(9, 20)
    check_triton(modulate, i["x"], tables["shift"], tables["scale"], i["row"])


@pytest.mark.parametrize("norm", NORMS)
def test_fused_and_apart_have_the_same_bits(norm: str) -> None:
    i = inputs(41, 193)
    with strict():
        total = gated_residual(i["x"], i["y"], i["gate"], i["row"], backend="triton")
        both = gated_residual(
            *(i["x"], i["y"], i["gate"], i["row"]), shift=i["shift"], scale=i["scale"], norm=norm, backend="triton"
        )
        apart = modulate(total, i["shift"], i["scale"], i["row"], norm=norm, backend="triton")
    assert_same_bits(both[0], total)
    assert_same_bits(both[1], apart)


def test_rows_depend_on_nothing_else() -> None:
    i = inputs(100, 96)
    x = i["x"].contiguous()
    x[50], x[51, 3] = torch.nan, torch.inf
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    with strict():
        whole = modulate(x, i["shift"], i["scale"], i["row"], backend="triton")
        mixed = modulate(x[order], i["shift"], i["scale"], i["row"][order], backend="triton")
        alone = modulate(x[52:53], i["shift"], i["scale"], i["row"][52:53], backend="triton")
    assert_same_bits(mixed, whole[order])
    assert_same_bits(alone, whole[52:53])
    assert whole[50:52].isnan().all()
    assert whole[52:].isfinite().all()


def test_any_strides() -> None:
    i = inputs(37, 48)
    x = i["x"].t().contiguous().t()
    check_triton(modulate, x, i["shift"], i["scale"], i["row"].repeat_interleave(2)[::2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 4), (1,), (3, 15), (2, 3, 5, 64), (5, 193)])
def test_norm_silu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    x = torch.randn(shape, generator=generator).to(dtype)
    weight = torch.randn(shape[-1], generator=generator).to(dtype)
    check_triton(norm_silu, x, weight, eps=1e-5)
    check_triton(norm_silu, x, weight, weight.flip(0), norm="layer", activation=False)
    check_triton(norm_silu, x, None, weight, activation=False)
    check_triton(norm_silu, x.transpose(0, -1), norm="none")


def test_silu_far_out() -> None:
    check_triton(norm_silu, torch.tensor([-200.0, -100, -88, -1, 0, 1, 88, 200, torch.inf, torch.nan]), norm="none")


def test_ops() -> None:
    i = {name: tensor.contiguous() for name, tensor in inputs(5, 9).items()}
    ops, tables = torch.ops.packdit, (i["shift"], i["scale"])
    with strict():
        torch.library.opcheck(ops.modulate_triton.default, (i["x"], *tables, i["row"], "layer", 1e-6))
        arguments = (i["x"], i["y"], i["gate"], i["row"], *tables, "rms", 1e-6)
        torch.library.opcheck(ops.gated_residual_triton.default, arguments)
        torch.library.opcheck(ops.norm_silu_triton.default, (i["x"], None, None, "rms", True, 1e-6))


def test_a_cut_keeps_rows_whole_and_threads_busy() -> None:
    for width in (1, 64, 193, 3072, 16384):
        key = RowsKey(kernel="modulate", arch=90, dtype=torch.bfloat16, width=width)
        for cut in (choice(key), *choice.candidates(key)):
            assert 8 <= max(cut.elements, width) / (32 * cut.num_warps) <= 64
