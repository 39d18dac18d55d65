"""activation(x Wᵀ + bias).

Activations: gelu x Φ(x) and its tanh form (arXiv 1606.08415), silu x / (1 + exp(-x)) (arXiv 1702.03118).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import choose, native
from .op import custom_op
from .tensors import accurate, address, check_choice, check_tensor, dense_rows, rows

ACTIVATIONS = (None, "gelu", "gelu_tanh", "silu")  # in the order of enum Activation in csrc/kernels.h


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


@custom_op("linear")
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    num_columns, depth = weight.shape
    depth_major = weight.t().is_contiguous()
    matrix = dense_rows(x.reshape(math.prod(x.shape[:-1]), depth))
    dense = weight.t() if depth_major else weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    packed = (address(dense), num_columns, depth_major, address(bias))
    out = x.new_empty(*x.shape[:-1], num_columns)
    code = ACTIVATIONS.index(activation)
    native().linear(rows(matrix), matrix.shape[0], depth, packed, code, address(out), torch.get_num_threads())
    return out


@torch.library.register_fake("packdit::linear")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


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
    if choose("linear", backend, x, weight, *(() if bias is None else (bias,))) == "reference":
        return linear_reference(x, weight, bias, activation)
    return _linear(x, weight, bias, activation)
