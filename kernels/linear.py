"""activation(x Wᵀ + bias).

Activations: gelu x Φ(x) and its tanh form (arXiv 1606.08415), silu x / (1 + exp(-x)) (arXiv 1702.03118).
"""

import torch.nn.functional as F
from torch import Tensor

from .backend import choose
from .tensors import accurate, check_choice, check_tensor

ACTIVATIONS = (None, "gelu", "gelu_tanh", "silu")


def activate(x: Tensor, activation: str | None) -> Tensor:
    """activation(x), one of ACTIVATIONS."""
    if activation is None:
        return x
    if activation == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


def linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """The definition, in plain PyTorch; differentiable. Arguments as in `linear`."""
    product = F.linear(accurate(x), accurate(weight), None if bias is None else accurate(bias))
    return activate(product, activation).to(x.dtype)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    backend: str | None = None,
) -> Tensor:
    """activation(x weightᵀ + bias), [..., N] in the dtype of x.

    x [..., K]; weight [N, K], fastest as the transposed view of a contiguous [K, N]; bias [N], of the dtype of x like
    weight; activation None, "gelu", "gelu_tanh" or "silu". ValueError for anything else.
    """
    check_choice("linear: activation", activation, ACTIVATIONS)
    check_tensor("linear: x", x, (*x.shape[:-1], None))
    check_tensor("linear: weight", weight, (None, x.shape[-1]), (x.dtype,), x.device)
    if bias is not None:
        check_tensor("linear: bias", bias, (weight.shape[0],), (x.dtype,), x.device)
    choose("linear", backend, x, weight, *(() if bias is None else (bias,)))
    return linear_reference(x, weight, bias, activation)
