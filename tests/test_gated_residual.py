import pytest
import torch

from packdit.kernels import gated_residual, modulate
from packdit.kernels.backend import native
from packdit.kernels.gated_residual import gated_residual_reference
from packdit.kernels.norm import NORMS
from packdit.kernels.testing import assert_same_bits, check_cpu, instruction_set


def inputs(tokens: int, width: int, rows: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(tokens * 1000 + width)
    x, y = torch.randn(2, tokens, width, generator=generator)
    gate, shift, scale = torch.randn(3, rows, width, generator=generator)
    return x, y, gate, torch.randint(rows, (tokens,), generator=generator, dtype=torch.int32), shift, scale


def fused(
    x: torch.Tensor,
    y: torch.Tensor,
    gate: torch.Tensor,
    row: torch.Tensor,
    shift: torch.Tensor,
    scale: torch.Tensor,
    **options: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    return gated_residual(x, y, gate, row, shift=shift, scale=scale, **options)  # type: ignore[call-overload,no-any-return]


def test_the_reference_is_the_formula() -> None:
    x, y, gate, row, shift, scale = inputs(9, 20)
    total, modulated = fused(*(x, y, gate, row, shift, scale), norm="rms", backend="reference")
    torch.testing.assert_close(total, torch.stack([x[t] + gate[row[t]] * y[t] for t in range(9)]))
    torch.testing.assert_close(modulated, modulate(total, shift, scale, row, norm="rms", backend="reference"))
    assert gated_residual(x.half(), y.half(), gate, row).dtype == torch.float16


def test_the_reference_differentiates() -> None:
    x, y, gate, row, _, _ = inputs(5, 6)
    wide = [t.double().requires_grad_() for t in (x, y, gate)]
    assert torch.autograd.gradcheck(lambda *t: gated_residual_reference(*t, row), wide)


@pytest.mark.parametrize(("tokens", "width"), [(0, 8), (1, 1), (3, 15), (37, 64), (41, 193), (700, 208)])
def test_cpu(tokens: int, width: int) -> None:
    x, y, gate, row, shift, scale = inputs(tokens, width)
    (total,) = check_cpu(gated_residual, x, y, gate, row)
    for norm in NORMS:
        also_total, _ = check_cpu(fused, x, y, gate, row, shift, scale, norm=norm, eps=1e-5)
        assert_same_bits(also_total, total)


def test_cpu_is_the_two_ops_in_one() -> None:
    x, y, gate, row, shift, scale = inputs(50, 96)
    total, modulated = fused(x, y, gate, row, shift, scale, backend="cpu")
    assert_same_bits(modulate(total, shift, scale, row, backend="cpu"), modulated)


def test_cpu_rows_depend_on_nothing_else() -> None:
    x, y, gate, row, shift, scale = inputs(300, 96)
    y[100] = torch.nan
    whole = fused(x, y, gate, row, shift, scale, backend="cpu")
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    shuffled = fused(x[order], y[order], gate, row[order], shift, scale, backend="cpu")
    for a, b in zip(shuffled, whole, strict=True):
        assert_same_bits(a, b[order])
        assert b[100].isnan().all()
        assert b[101:].isfinite().all()


def test_cpu_reads_strided_views() -> None:
    x, y, gate, row, shift, scale = inputs(30, 48)
    pair, table = torch.cat((x, y), 1), torch.cat((gate, shift, scale), 1)
    got = fused(*pair.split(48, 1), table[:, :48], row, *table[:, 48:].split(48, 1), backend="cpu")
    for a, b in zip(got, fused(x, y, gate, row, shift, scale, backend="cpu"), strict=True):
        assert_same_bits(a, b)


def test_cpu_results_beyond_the_caches_have_the_same_bits() -> None:
    """Large results are streamed past the caches."""
    x, y, gate, row, shift, scale = inputs(2**13 + 9, 1024)
    halves = [slice(4000), slice(4000, None)]
    parts = [fused(x[i], y[i], gate, row[i], shift, scale, backend="cpu") for i in halves]
    for name in native().isas()[:2]:
        with instruction_set(name):
            whole = fused(x, y, gate, row, shift, scale, backend="cpu")
            for got, expected in zip(whole, zip(*parts, strict=True), strict=True):
                assert_same_bits(got, torch.cat(expected), name)


def test_bad_arguments() -> None:
    x, y, gate, row, shift, scale = inputs(4, 8)
    with pytest.raises(ValueError, match=r"^gated_residual: y is float32 \[3, 8\]"):
        gated_residual(x, y[:3], gate, row)
    with pytest.raises(ValueError, match=r"^gated_residual: y is float16"):
        gated_residual(x, y.half(), gate, row)
    with pytest.raises(ValueError, match="got only shift; allowed: both or neither"):
        fused(x, y, gate, row, shift, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^gated_residual: scale is float32 \[4, 8\]"):
        fused(x, y, gate, row, shift, scale[:4])
    with pytest.raises(ValueError, match=r"^gated_residual: row\[0\] is \d; allowed: 0 to 4"):
        gated_residual(x, y, gate, row + 5)


def test_op() -> None:
    x, y, gate, row, shift, scale = inputs(5, 9)
    for tables in ((shift, scale), (None, None)):
        torch.library.opcheck(torch.ops.packdit.gated_residual.default, (x, y, gate, row, *tables, "layer", 1e-6))
