import pytest
import torch
import torch.nn.functional as F

from packdit.kernels import norm_silu
from packdit.kernels.norm_silu import norm_silu_reference
from packdit.kernels.testing import assert_same_bits, check_cpu


def inputs(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator) * 3, torch.randn(shape[-1], generator=generator)


def test_the_reference_is_the_formula() -> None:
    x, weight = (t.double() for t in inputs(2, 3, 10))
    torch.testing.assert_close(norm_silu(x, weight), F.silu(F.rms_norm(x, (10,), weight, 1e-6)))
    torch.testing.assert_close(norm_silu(x, weight, activation=False), F.rms_norm(x, (10,), weight, 1e-6))
    torch.testing.assert_close(norm_silu(x, norm="none"), F.silu(x))
    assert norm_silu(x.half(), weight).dtype == torch.float16
    bias = weight.flip(0)
    torch.testing.assert_close(
        norm_silu(x, weight, bias, norm="layer"), F.silu(F.layer_norm(x, (10,), weight, bias, 1e-6))
    )
    torch.testing.assert_close(norm_silu(x, None, bias, activation=False), F.rms_norm(x, (10,), None, 1e-6) + bias)
    arguments = tuple(t.requires_grad_() for t in (x, weight.clone(), bias))
    assert torch.autograd.gradcheck(lambda *t: norm_silu_reference(*t, "rms", True, 1e-6), arguments)


@pytest.mark.parametrize("activation", [False, True])
@pytest.mark.parametrize("norm", ["layer", "rms", "none"])
@pytest.mark.parametrize("shape", [(0, 8), (200, 1), (5, 7, 12), (2, 3, 5, 97), (300, 256)])
def test_cpu(shape: tuple[int, ...], norm: str, activation: bool) -> None:
    x, weight = inputs(*shape)
    check_cpu(norm_silu, x, weight, norm=norm, activation=activation, eps=1e-5)
    check_cpu(norm_silu, x, weight, weight.flip(0), norm=norm, activation=activation)
    check_cpu(norm_silu, x, None, weight, norm=norm, activation=activation)
    check_cpu(norm_silu, x, norm=norm, activation=activation)


def test_cpu_rows_depend_on_nothing_else() -> None:
    x, weight = inputs(1000, 96)
    x[500] = torch.nan
    x[600, 3] = torch.inf
    check_cpu(norm_silu, x, weight)
    whole = norm_silu(x, weight, backend="cpu")
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert_same_bits(norm_silu(x[order], weight, backend="cpu"), whole[order])
    assert_same_bits(norm_silu(x[7], weight, backend="cpu"), whole[7])
    strided = torch.stack((x, x), 2)[:, :, 0]
    assert_same_bits(norm_silu(strided, weight, backend="cpu"), whole)


def test_bad_arguments() -> None:
    x, weight = inputs(4, 8)
    with pytest.raises(ValueError, match=r"^norm_silu: weight is float32 \[7\] on cpu; allowed: .* \[8\]"):
        norm_silu(x, weight[:7])
    with pytest.raises(ValueError, match=r"^norm_silu: bias is float32 \[7\] on cpu; allowed: .* \[8\]"):
        norm_silu(x, None, weight[:7])
    with pytest.raises(ValueError, match=r"^norm_silu: norm is 'group'; allowed: layer, rms, none"):
        norm_silu(x, weight, norm="group")
    with pytest.raises(ValueError, match=r"^norm_silu: x is int64"):
        norm_silu(x.long())


def test_op() -> None:
    x, weight = inputs(2, 3, 8)
    torch.library.opcheck(torch.ops.packdit.norm_silu.default, (x, weight, None, "rms", True, 1e-6))
    torch.library.opcheck(torch.ops.packdit.norm_silu.default, (x, None, weight, "none", False, 1e-6))
