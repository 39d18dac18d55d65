import pytest
import torch
import torch.nn.functional as F

from packdit.kernels.norm import NORMS, normalize


def test_norms_are_pytorchs() -> None:
    x = torch.randn(5, 33, dtype=torch.float64) * 3 + 1
    torch.testing.assert_close(normalize(x, "layer", 1e-3), F.layer_norm(x, (33,), eps=1e-3))
    torch.testing.assert_close(normalize(x, "rms", 1e-3), F.rms_norm(x, (33,), eps=1e-3))
    assert normalize(x, "none", 1e-3) is x


@pytest.mark.parametrize("norm", NORMS)
def test_norms_differentiate(norm: str) -> None:
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: normalize(x, norm, 1e-6) * 2, x)
