"""activation(x Wᵀ + bias), which may end a branch: residual + gate[row] * activation(x Wᵀ + bias).

Activations: gelu x Φ(x) and its tanh form (arXiv 1606.08415), silu x / (1 + exp(-x)) (arXiv 1702.03118). The gated
residual is that of `gated_residual`, without a pass over memory of its own.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import choose, native
from .gated_residual import Residual, gated_residual_reference
from .modulate import check_table
from .op import custom_op
from .tensors import Rows, accurate, address, check_choice, check_tensor, dense_rows, rows

COLUMNS = 16  # outputs in a block of packed weights, kPack in csrc/kernels.h
ACTIVATIONS = (None, "gelu", "gelu_tanh", "silu")  # in the order of enum Activation in csrc/kernels.h


def activate(x: Tensor, activation: str | None) -> Tensor:
    """activation(x), one of ACTIVATIONS."""
    if activation is None:
        return x
    if activation == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")


def finish_reference(product: Tensor, activation: str | None, residual: Residual | None, dtype: torch.dtype) -> Tensor:
    """What follows a product with its bias, in the precision of the product, then in dtype."""
    y = activate(product, activation)
    return (y if residual is None else gated_residual_reference(residual.x, y, residual.gate, residual.row)).to(dtype)


def pack_weight(weight: Tensor) -> Tensor:
    """[N, K] -> [N / 16, K, 16], the fastest layout for the CPU kernels; N must be a multiple of 16."""
    return weight.unflatten(0, (-1, COLUMNS)).transpose(1, 2).contiguous()


def fastest_layout(weight: Tensor) -> Tensor:
    """A weight [N, K] as `linear` reads it fastest where it is: packed for the CPU kernels, if N divides; else as it
    is on the CPU, and with its inputs as rows, the transposed view of a contiguous [K, N], for other backends."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return weight.t().contiguous().t()
    return weight if weight.shape[0] % COLUMNS else pack_weight(weight)


def _unpacked(weight: Tensor) -> Tensor:
    return weight if weight.ndim == 2 else weight.transpose(1, 2).flatten(0, 1)


def _num_columns(weight: Tensor) -> int:
    return weight.shape[0] if weight.ndim == 2 else weight.shape[0] * COLUMNS


def linear_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, residual: Residual | None = None
) -> Tensor:
    """The definition, in plain PyTorch; differentiable. Arguments as in `linear`."""
    product = F.linear(accurate(x), accurate(_unpacked(weight)), None if bias is None else accurate(bias))
    return finish_reference(product, activation, residual, x.dtype)


def matrix_of(x: Tensor) -> Tensor:
    """x [..., K] as a matrix for the C++ kernels."""
    return dense_rows(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))


def output_of(x: Tensor, num_columns: int) -> Tensor:
    """A linear layer's fresh output [..., N] for x [..., K]."""
    return x.new_empty(*x.shape[:-1], num_columns)


def optional_residual(x: Tensor | None, gate: Tensor | None, row: Tensor | None) -> Residual | None:
    """The three, which custom ops take one by one, or none of them."""
    if x is None or gate is None or row is None:
        return None
    return Residual(x=dense_rows(x), gate=dense_rows(gate), row=row.contiguous())


Epilogue = tuple[int, tuple[Rows, Rows, tuple[int, int]] | None]


def epilogue(activation: str | None, residual: Residual | None) -> Epilogue:
    """What follows a product with its bias, for the C++ kernels; residual from `optional_residual`."""
    code = ACTIVATIONS.index(activation)
    if residual is None:
        return code, None
    return code, (rows(residual.x), rows(residual.gate), (address(residual.row), residual.gate.shape[0]))


@custom_op("linear")
def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    row: Tensor | None = None,
) -> Tensor:
    matrix, weight, num_columns = matrix_of(x), weight.contiguous(), _num_columns(weight)
    bias, added = None if bias is None else bias.contiguous(), optional_residual(residual, gate, row)
    out = output_of(x, num_columns)
    native().linear(
        *(rows(matrix), *matrix.shape, (address(weight), num_columns, weight.ndim == 3, address(bias))),
        *(epilogue(activation, added), address(out), torch.get_num_threads()),
    )
    return out


@custom_op("linear_triton", device_types="default")
def _linear_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    row: Tensor | None = None,
) -> Tensor:
    from .triton_linear import launch_linear  # triton is optional

    bias, added = None if bias is None else bias.contiguous(), optional_residual(residual, gate, row)
    weight = weight if 1 in weight.stride() else weight.contiguous()
    return launch_linear(matrix_of(x), weight, bias, activation, added).view(*x.shape[:-1], weight.shape[0])


@torch.library.register_fake("packdit::linear_triton")
@torch.library.register_fake("packdit::linear")
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    row: Tensor | None = None,
) -> Tensor:
    return output_of(x, _num_columns(weight))


def check_epilogue(
    op: str, x: Tensor, num_columns: int, bias: Tensor | None, activation: str | None, residual: Residual | None
) -> list[Tensor]:
    """The tensors of an epilogue for `choose`. ValueError unless they fit x [..., K] and an output of num_columns."""
    check_choice(f"{op}: activation", activation, ACTIVATIONS)
    tensors = []
    if bias is not None:
        check_tensor(f"{op}: bias", bias, (num_columns,), (x.dtype,), x.device)
        tensors.append(bias)
    if residual is not None:
        check_tensor(f"{op}: x with a residual", x, (None, None))
        check_tensor(f"{op}: residual", residual.x, (x.shape[0], num_columns), (x.dtype,), x.device)
        check_table(op, residual.x, residual.row, gate=residual.gate)
        tensors += [residual.x, residual.gate]
    return tensors


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    residual: Residual | None = None,
    backend: str | None = None,
) -> Tensor:
    """y = activation(x weightᵀ + bias), or residual.x + residual.gate[residual.row] * y; [..., N] in the dtype of x.

    x [..., K], [T, K] with a residual; weight [N, K], or `fastest_layout` of it; bias [N], of the dtype of x
    like weight; activation None, "gelu", "gelu_tanh" or "silu". ValueError for anything else.
    """
    check_tensor("linear: x", x, (*x.shape[:-1], None))
    shape = (None, x.shape[-1], COLUMNS) if weight.ndim == 3 else (None, x.shape[-1])
    check_tensor("linear: weight", weight, shape, (x.dtype,), x.device)
    tensors = check_epilogue("linear", x, _num_columns(weight), bias, activation, residual)
    chosen = choose("linear", backend, x, weight, *tensors)
    if chosen == "reference":
        return linear_reference(x, weight, bias, activation, residual)
    added = () if residual is None else (residual.x, residual.gate, residual.row)
    if chosen == "triton":
        return _linear_triton(x, _unpacked(weight), bias, activation, *added)
    return _linear(x, weight, bias, activation, *added)
