"""Adaptive normalization: norm(x) * (1 + scale[row]) + shift[row].

Source: DiT's adaLN (arXiv 2212.09748, section 3.2), where every sequence of the pack has its own shift and scale. The
row of the table that a token uses is data, because packed lengths differ: often its segment, in some families its
modality or the token itself.
"""

import torch
from torch import Tensor

from .backend import choose, native
from .norm import NORMS, normalize
from .op import custom_op
from .tensors import INT32, accurate, address, check_choice, check_tensor, dense_rows, rows


def modulate_reference(x: Tensor, shift: Tensor, scale: Tensor, row: Tensor, norm: str, eps: float) -> Tensor:
    """The definition, in plain PyTorch; differentiable. Arguments as in `modulate`."""
    index = row.long()
    normed = normalize(accurate(x), norm, eps)
    return (normed * (1 + accurate(scale)[index]) + accurate(shift)[index]).to(x.dtype)


def check_table(op: str, x: Tensor, row: Tensor, **tables: Tensor) -> None:
    """Raises ValueError unless x is [T, D], row int32 [T], and every table [R, D]."""
    check_tensor(f"{op}: x", x, (None, None))
    check_tensor(f"{op}: row", row, (x.shape[0],), INT32, x.device)
    num_rows = next(iter(tables.values())).shape[0]
    for name, table in tables.items():
        check_tensor(f"{op}: {name}", table, (num_rows, x.shape[1]), device=x.device)


@custom_op("modulate")
def _modulate(x: Tensor, shift: Tensor, scale: Tensor, row: Tensor, norm: str, eps: float) -> Tensor:
    x, shift, scale, row = dense_rows(x), dense_rows(shift), dense_rows(scale), row.contiguous()
    out = x.new_empty(x.shape)
    table = (rows(shift), rows(scale), NORMS.index(norm), eps)
    index = (address(row), shift.shape[0])
    native().modulate(rows(x), table, index, *x.shape, address(out), torch.get_num_threads())
    return out


@custom_op("modulate_triton", device_types="default")
def _modulate_triton(x: Tensor, shift: Tensor, scale: Tensor, row: Tensor, norm: str, eps: float) -> Tensor:
    from .triton_rows import launch_modulate  # triton is optional

    x, shift, scale = dense_rows(x), dense_rows(shift), dense_rows(scale)
    return launch_modulate(x, row.contiguous(), shift, scale, norm, eps)[0]


@torch.library.register_fake("packdit::modulate_triton")
@torch.library.register_fake("packdit::modulate")
def _(x: Tensor, shift: Tensor, scale: Tensor, row: Tensor, norm: str, eps: float) -> Tensor:
    return x.new_empty(x.shape)


def modulate(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    row: Tensor,
    *,
    norm: str = "layer",
    eps: float = 1e-6,
    backend: str | None = None,
) -> Tensor:
    """norm(x) * (1 + scale[row]) + shift[row], [T, D] in the dtype of x.

    x [T, D]; shift, scale [R, D], also as slices of a wider table; row int32 [T], entries below R;
    norm "layer", "rms" or "none". ValueError for anything else.
    """
    check_choice("modulate: norm", norm, NORMS)
    check_table("modulate", x, row, shift=shift, scale=scale)
    chosen = choose("modulate", backend, x, shift, scale)
    if chosen == "reference":
        return modulate_reference(x, shift, scale, row, norm, eps)
    kernel = _modulate_triton if chosen == "triton" else _modulate
    return kernel(x, shift, scale, row, norm, eps)
