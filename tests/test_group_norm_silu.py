import pytest
import torch
import torch.nn.functional as F

from packdit.kernels import group_norm_silu
from packdit.kernels.group_norm_silu import group_norm_silu_reference
from packdit.kernels.testing import assert_same_bits, check_cpu


def inputs(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator) * 3 + 2
    return x, *torch.randn(2, shape[-1], generator=generator)


def test_the_reference_is_the_formula() -> None:
    x, weight, bias = (t.double() for t in inputs(2, 7, 12))
    grouped = x.view(2, 7, 3, 4)
    mean, var = grouped.mean((1, 3), keepdim=True), grouped.var((1, 3), correction=0, keepdim=True)
    normed = ((grouped - mean) / (var + 1e-3).sqrt()).view(2, 7, 12) * weight + bias
    torch.testing.assert_close(group_norm_silu(x, weight, bias, 3, activation=False, eps=1e-3), normed)
    torch.testing.assert_close(group_norm_silu(x, weight, bias, 3, eps=1e-3), F.silu(normed))
    assert group_norm_silu(x.half(), weight, bias, 3).dtype == torch.float16
    arguments = tuple(t.requires_grad_() for t in (x, weight, bias))
    assert torch.autograd.gradcheck(lambda *t: group_norm_silu_reference(*t, 3, True, 1e-6), arguments)


@pytest.mark.parametrize("activation", [False, True])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((1, 1, 1), 1), ((1, 2, 8), 2), ((3, 5, 12), 4), ((2, 64, 30), 5), ((1, 65, 33), 33), ((2, 3000, 64), 32)],
)
def test_cpu(shape: tuple[int, ...], groups: int, activation: bool) -> None:
    check_cpu(group_norm_silu, *inputs(*shape), groups, activation=activation, eps=1e-5)


def test_cpu_clips_depend_on_nothing_else() -> None:
    x, weight, bias = inputs(4, 150, 24)
    whole = group_norm_silu(x, weight, bias, 6, backend="cpu")
    alone = group_norm_silu(x[2:3].transpose(1, 2).contiguous().transpose(1, 2), weight, bias, 6, backend="cpu")
    assert_same_bits(alone, whole[2:3])
    x[1, 3, 5] = torch.nan
    got = group_norm_silu(x, weight, bias, 6, backend="cpu")
    assert got[1, :, 4:8].isnan().all()
    assert int(got.isnan().sum()) == 150 * 4
    assert_same_bits(got[2:], whole[2:])


def test_cpu_is_exact_far_from_zero() -> None:
    """The squares of values around 1000 would leave nothing of a variance of 1."""
    x, weight, bias = inputs(1, 5000, 8)
    x = x + 1000
    check_cpu(group_norm_silu, x, weight, bias, 2)


def test_bad_arguments() -> None:
    x, weight, bias = inputs(2, 3, 8)
    with pytest.raises(ValueError, match=r"^group_norm_silu: weight is float32 \[7\] on cpu; allowed: .* \[8\]"):
        group_norm_silu(x, weight[:7], bias, 2)
    for broken, groups in ((x, 3), (x, 0), (x[:, :0], 2)):
        with pytest.raises(ValueError, match=r"^group_norm_silu: x is \[.*\] in \d groups; allowed: equal groups"):
            group_norm_silu(broken, weight, bias, groups)
    with pytest.raises(ValueError, match=r"^group_norm_silu: x is float32 \[3, 8\]"):
        group_norm_silu(x[0], weight, bias, 2)


def test_op() -> None:
    torch.library.opcheck(torch.ops.packdit.group_norm_silu.default, (*inputs(2, 3, 8), 2, True, 1e-6))
