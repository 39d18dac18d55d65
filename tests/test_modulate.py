import pytest
import torch
import torch.nn.functional as F

from packdit.kernels import modulate
from packdit.kernels.backend import native
from packdit.kernels.modulate import modulate_reference
from packdit.kernels.norm import NORMS
from packdit.kernels.testing import assert_same_bits, check_cpu, instruction_set


def inputs(tokens: int, width: int, rows: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(tokens * 1000 + width)
    x = torch.randn(tokens, width, generator=generator) * 2 + 1
    shift, scale = torch.randn(2, rows, width, generator=generator)
    return x, shift, scale, torch.randint(rows, (tokens,), generator=generator, dtype=torch.int32)


def test_the_reference_is_the_formula() -> None:
    x, shift, scale, row = inputs(9, 20)
    x = x.double()
    expected = [F.layer_norm(x[t], (20,), eps=1e-6) * (1 + scale[row[t]]) + shift[row[t]] for t in range(9)]
    torch.testing.assert_close(modulate(x, shift.double(), scale.double(), row), torch.stack(expected))


def test_the_reference_computes_in_float32_and_differentiates() -> None:
    x, shift, scale, row = inputs(9, 20)
    half = modulate(x.bfloat16(), shift, scale, row)
    torch.testing.assert_close(half, modulate(x.bfloat16().float(), shift, scale, row).bfloat16(), rtol=0, atol=0)
    wide = [t.double().requires_grad_() for t in (x, shift, scale)]
    assert torch.autograd.gradcheck(lambda *t: modulate_reference(*t, row, "layer", 1e-6), wide)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("tokens", "width"), [(0, 8), (1, 1), (3, 15), (37, 64), (41, 193), (700, 208)])
def test_cpu(tokens: int, width: int, norm: str) -> None:
    check_cpu(modulate, *inputs(tokens, width), norm=norm, eps=1e-5)


def test_cpu_reads_slices_of_wider_tables() -> None:
    x, shift, scale, row = inputs(37, 48)
    table = torch.cat((shift, scale), 1)
    wide = torch.full((37, 100), torch.nan)
    wide[:, 7:55] = x
    got = modulate(wide[:, 7:55], table[:, :48], table[:, 48:], row, backend="cpu")
    assert_same_bits(got, modulate(x, shift, scale, row, backend="cpu"))
    columns = x.t().contiguous().t()
    assert_same_bits(modulate(columns, shift, scale, row, backend="cpu"), got)


def test_cpu_rows_depend_on_nothing_else() -> None:
    x, shift, scale, row = inputs(1000, 192)
    x[500] = torch.nan
    x[501, 3] = torch.inf
    whole = modulate(x, shift, scale, row, backend="cpu")
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert_same_bits(modulate(x[order], shift, scale, row[order], backend="cpu"), whole[order])
    for t in (0, 499, 502, 999):
        alone = modulate(x[t : t + 1], shift[row[t : t + 1]], scale[row[t : t + 1]], row[:1] * 0, backend="cpu")
        assert_same_bits(alone, whole[t : t + 1])
    assert whole[500].isnan().all()
    assert whole[501].isnan().all()
    assert whole[502:].isfinite().all()


def test_cpu_results_beyond_the_caches_have_the_same_bits() -> None:
    """Large results are streamed past the caches, where rows are whole lines of them."""
    for width in (1024, 1000):
        x, shift, scale, row = inputs(2**23 // width + 9, width)
        parts = [modulate(x[i], shift, scale, row[i], backend="cpu") for i in (slice(4000), slice(4000, None))]
        for name in native().isas()[:2]:
            with instruction_set(name):
                assert_same_bits(modulate(x, shift, scale, row, backend="cpu"), torch.cat(parts), name)


def test_bad_arguments() -> None:
    x, shift, scale, row = inputs(4, 8)
    for arguments, message in [
        ((x[0], shift, scale, row), r"x is float32 \[8\]"),
        ((x, shift[:, :7], scale, row), r"shift is float32 \[5, 7\] on cpu; allowed: .* \[5, 8\]"),
        ((x, shift, scale[:4], row), r"scale is float32 \[4, 8\]"),
        ((x, shift, scale, row.long()), r"row is int64 \[4\] on cpu; allowed: int32 \[4\]"),
        ((x, shift, scale, row + 5), r"row\[0\] is \d; allowed: 0 to 4"),
        ((x, shift, scale, row - 5), r"row\[0\] is -\d; allowed: 0 to 4"),
    ]:
        with pytest.raises(ValueError, match=f"^modulate: {message}"):
            modulate(*arguments)
    with pytest.raises(ValueError, match="norm is 'group'; allowed: layer, rms, none"):
        modulate(x, shift, scale, row, norm="group")


def test_op() -> None:
    torch.library.opcheck(torch.ops.packdit.modulate.default, (*inputs(5, 9), "layer", 1e-6))
