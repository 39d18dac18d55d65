"""The gated residual x + gate[row] * y and, in the same pass, the next block's modulate of it.

Source: DiT's adaLN-Zero block (arXiv 2212.09748, section 3.2 and figure 3).
"""

from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from .backend import choose, native
from .modulate import check_table, modulate_reference
from .norm import NORMS
from .op import custom_op
from .tensors import accurate, address, check_choice, check_tensor, dense_rows, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """What a linear layer's output y is added to where it ends a branch: x + gate[row] * y.

    x [T, N]; gate [R, N], also a slice of a wider table; row int32 [T], entries below R.
    """

    x: Tensor
    gate: Tensor
    row: Tensor


def gated_residual_reference(x: Tensor, y: Tensor, gate: Tensor, row: Tensor) -> Tensor:
    """The definition of the first part, in plain PyTorch; differentiable. The second is `modulate_reference`."""
    return (accurate(x) + accurate(gate)[row.long()] * accurate(y)).to(x.dtype)


@custom_op("gated_residual")
def _gated_residual(
    x: Tensor,
    y: Tensor,
    gate: Tensor,
    row: Tensor,
    shift: Tensor | None,
    scale: Tensor | None,
    norm: str,
    eps: float,
) -> list[Tensor]:
    x, y, gate, row = dense_rows(x), dense_rows(y), dense_rows(gate), row.contiguous()
    outs, table = [x.new_empty(x.shape)], None
    if shift is not None and scale is not None:
        shift, scale = dense_rows(shift), dense_rows(scale)
        outs.append(x.new_empty(x.shape))
        table = (rows(shift), rows(scale), NORMS.index(norm), eps)
    index = (address(row), gate.shape[0])
    modulated = address(outs[1] if table else None)
    native().gated_residual(
        *(rows(x), rows(y), rows(gate), table, index, *x.shape),
        *(address(outs[0]), modulated, torch.get_num_threads()),
    )
    return outs


@custom_op("gated_residual_triton", device_types="default")
def _gated_residual_triton(
    x: Tensor,
    y: Tensor,
    gate: Tensor,
    row: Tensor,
    shift: Tensor | None,
    scale: Tensor | None,
    norm: str,
    eps: float,
) -> list[Tensor]:
    from .triton_rows import launch_modulate  # triton is optional

    x, y, gate, row = dense_rows(x), dense_rows(y), dense_rows(gate), row.contiguous()
    if shift is not None and scale is not None:
        shift, scale = dense_rows(shift), dense_rows(scale)
    return launch_modulate(x, row, shift, scale, norm, eps, y=y, gate=gate)


@torch.library.register_fake("packdit::gated_residual_triton")
@torch.library.register_fake("packdit::gated_residual")
def _(
    x: Tensor,
    y: Tensor,
    gate: Tensor,
    row: Tensor,
    shift: Tensor | None,
    scale: Tensor | None,
    norm: str,
    eps: float,
) -> list[Tensor]:
    return [x.new_empty(x.shape) for _ in range(1 if shift is None else 2)]


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
        chosen = choose("gated_residual", backend, x, y, gate)
        if chosen == "reference":
            return gated_residual_reference(x, y, gate, row)
        kernel = _gated_residual_triton if chosen == "triton" else _gated_residual
        return kernel(x, y, gate, row, None, None, norm, eps)[0]
    check_table("gated_residual", x, row, gate=gate, shift=shift, scale=scale)
    chosen = choose("gated_residual", backend, x, y, gate, shift, scale)
    if chosen == "reference":
        total = gated_residual_reference(x, y, gate, row)
        return total, modulate_reference(total, shift, scale, row, norm, eps)
    kernel = _gated_residual_triton if chosen == "triton" else _gated_residual
    total, modulated = kernel(x, y, gate, row, shift, scale, norm, eps)
    return total, modulated
