"""The gated residual x + gate[row] * y and, in the same pass, the next block's modulate of it.

Source: DiT's adaLN-Zero block (arXiv 2212.09748, section 3.2 and figure 3).
"""

from typing import overload

from torch import Tensor

from .backend import choose
from .modulate import check_table, modulate_reference
from .norm import NORMS
from .tensors import accurate, check_choice, check_tensor


def gated_residual_reference(x: Tensor, y: Tensor, gate: Tensor, row: Tensor) -> Tensor:
    """The definition of the first part, in plain PyTorch; differentiable. The second is `modulate_reference`."""
    return (accurate(x) + accurate(gate)[row.long()] * accurate(y)).to(x.dtype)


@overload
def gated_residual(
    x: Tensor, y: Tensor, gate: Tensor, row: Tensor, *, norm: str = ..., eps: float = ..., backend: str | None = ...
) -> Tensor: ...


@overload
def gated_residual(
    x: Tensor,
    y: Tensor,
    gate: Tensor,
    row: Tensor,
    *,
    shift: Tensor,
    scale: Tensor,
    norm: str = ...,
    eps: float = ...,
    backend: str | None = ...,
) -> tuple[Tensor, Tensor]: ...


def gated_residual(
    x: Tensor,
    y: Tensor,
    gate: Tensor,
    row: Tensor,
    *,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    norm: str = "layer",
    eps: float = 1e-6,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """r = x + gate[row] * y, [T, D] in the dtype of x; with shift and scale (r, modulate(r, shift, scale, row)).

    x, y [T, D] of one dtype; gate, shift, scale [R, D], also as slices of a wider table; row int32 [T], entries below
    R; norm and eps as in `modulate`. ValueError for anything else.
    """
    check_choice("gated_residual: norm", norm, NORMS)
    check_table("gated_residual", x, row, gate=gate)
    check_tensor("gated_residual: y", y, tuple(x.shape), (x.dtype,), x.device)
    if (shift is None) != (scale is None):
        raise ValueError(f"gated_residual: got only {'scale' if shift is None else 'shift'}; allowed: both or neither")
    if shift is None or scale is None:
        choose("gated_residual", backend, x, y, gate)
        return gated_residual_reference(x, y, gate, row)
    check_table("gated_residual", x, row, gate=gate, shift=shift, scale=scale)
    choose("gated_residual", backend, x, y, gate, shift, scale)
    total = gated_residual_reference(x, y, gate, row)
    return total, modulate_reference(total, shift, scale, row, norm, eps)
