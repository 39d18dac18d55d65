"""Triton kernels that go over the rows of a matrix: `modulate`, `gated_residual` and `norm_silu`.

Triton is optional and a kernel needs it to be defined, so the kernels are apart from their references. Definitions and
sources are in modulate.py, gated_residual.py and norm_silu.py. A program computes in float32 and holds whole rows, in
an order of operations that follows from the width and the dtypes alone, so a row's result does not depend on others.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tuning import Tuned, current_arch


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsKey:
    """What the cut may depend on. width: of a row, of which a program holds whole ones."""

    kernel: str
    arch: int
    dtype: torch.dtype
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsCut:
    """A program's share: as many whole rows as have this many elements, at least one."""

    elements: int
    num_warps: int


def rule(key: RowsKey) -> RowsCut:
    """Unverified: not timed on a GPU yet. At least 16 elements a thread, so that loads are wide; few enough to stay in
    registers."""
    block = max(2048, triton.next_power_of_2(key.width))
    return RowsCut(elements=2048, num_warps=min(max(block // 512, 4), 16))


def candidates(key: RowsKey) -> list[RowsCut]:
    """What a sweep should time: 8 to 64 elements a thread."""
    cuts = [(elements, warps) for elements in (1024, 2048, 4096, 8192) for warps in (1, 2, 4, 8, 16)]
    block = triton.next_power_of_2(key.width)
    return [
        RowsCut(elements=elements, num_warps=warps)
        for elements, warps in cuts
        if 8 <= max(elements, block) // (32 * warps) <= 64 and elements >= min(block, 8192)
    ]


choice = Tuned("rows", rule, candidates)


def cut_rows(kernel: str, x: Tensor, width: int) -> RowsCut:
    """The choice for a kernel that goes over rows of this width."""
    return choice(RowsKey(kernel=kernel, arch=current_arch(), dtype=x.dtype, width=width))


@triton.jit
def normalized(
    x: tl.tensor, mask: tl.tensor, width: tl.constexpr, norm: tl.constexpr, eps: float
) -> tl.tensor:  # as `normalize` of norm.py, over dimension 1 of a block
    if norm == "layer":
        x = tl.where(mask, x - (tl.sum(x, 1) / width)[:, None], 0.0)
    if norm != "none":
        x = x * tl.rsqrt(tl.sum(x * x, 1) / width + eps)[:, None]
    return x


@triton.jit(do_not_specialize=["num_tokens"])
def modulate_kernel(
    x: tl.tensor,
    y: tl.tensor,
    gate: tl.tensor,
    shift: tl.tensor,
    scale: tl.tensor,
    row: tl.tensor,
    total: tl.tensor,
    out: tl.tensor,
    num_tokens: int,
    stride_x: int,
    stride_y: int,
    stride_gate: int,
    stride_shift: int,
    stride_scale: int,
    eps: float,
    width: tl.constexpr,
    norm: tl.constexpr,
    gated: tl.constexpr,
    modulated: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    column = tl.arange(0, columns)[None, :]
    exists = token < num_tokens
    mask = exists[:, None] & (column < width)
    index = tl.load(row + token, exists, other=0).to(tl.int64)
    value = tl.load(x + token[:, None] * stride_x + column, mask, other=0.0).to(tl.float32)
    if gated:
        addend = tl.load(y + token[:, None] * stride_y + column, mask, other=0.0).to(tl.float32)
        factor = tl.load(gate + index[:, None] * stride_gate + column, mask, other=0.0).to(tl.float32)
        rounded = (value + factor * addend).to(total.dtype.element_ty)
        tl.store(total + token[:, None] * width + column, rounded, mask)
        value = rounded.to(tl.float32)  # the next block reads what was stored, so that fused and apart are equal
    if modulated:
        factor = 1 + tl.load(scale + index[:, None] * stride_scale + column, mask, other=0.0).to(tl.float32)
        offset = tl.load(shift + index[:, None] * stride_shift + column, mask, other=0.0).to(tl.float32)
        result = normalized(value, mask, width, norm, eps) * factor + offset
        tl.store(out + token[:, None] * width + column, result.to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["num_rows"])
def norm_silu_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_rows: int,
    eps: float,
    width: tl.constexpr,
    norm: tl.constexpr,
    weighted: tl.constexpr,
    biased: tl.constexpr,
    activation: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)[:, None]
    column = tl.arange(0, columns)[None, :]
    mask = (row < num_rows) & (column < width)
    value = tl.load(x + row * width + column, mask, other=0.0).to(tl.float32)
    value = normalized(value, mask, width, norm, eps)
    if weighted:
        value = value * tl.load(weight + column, column < width, other=0.0).to(tl.float32)
    if biased:
        value = value + tl.load(bias + column, column < width, other=0.0).to(tl.float32)
    if activation:
        value = value / (1 + tl.exp(-value))
    tl.store(out + row * width + column, value.to(out.dtype.element_ty), mask)


def block_of(kernel: str, x: Tensor) -> tuple[int, int, int]:
    """Rows and columns of a program's block for whole rows [..., D] of x, and its warps."""
    columns, cut = triton.next_power_of_2(x.shape[-1]), cut_rows(kernel, x, x.shape[-1])
    return max(1, cut.elements // columns), columns, cut.num_warps


def launch_modulate(
    x: Tensor,
    row: Tensor,
    shift: Tensor | None,
    scale: Tensor | None,
    norm: str,
    eps: float,
    y: Tensor | None = None,
    gate: Tensor | None = None,
) -> list[Tensor]:
    """[x + gate[row] * y] where y and gate are given, then [modulate of it, or of x] where shift and scale are.

    The last dimensions of all are contiguous.
    """
    gated, modulated = y is not None, shift is not None
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device) if gated else None
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device) if modulated else None
    results = [result for result in (total, out) if result is not None]
    if x.numel() == 0:
        return results
    rows, columns, warps = block_of("gated_residual" if gated else "modulate", x)
    # what a variant of the kernel does not read is represented by x
    matrices = [x if matrix is None else matrix for matrix in (x, y, gate, shift, scale)]
    modulate_kernel[(triton.cdiv(x.shape[0], rows),)](
        *matrices,
        row,
        x if total is None else total,
        x if out is None else out,
        x.shape[0],
        *(matrix.stride(0) for matrix in matrices),
        eps,
        width=x.shape[1],
        norm=norm,
        gated=gated,
        modulated=modulated,
        rows=rows,
        columns=columns,
        num_warps=warps,
    )
    return results


def launch_norm_silu(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: str, activation: bool, eps: float
) -> Tensor:
    """As `norm_silu`; all are contiguous."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() == 0:
        return out
    width = x.shape[-1]
    rows, columns, warps = block_of("norm_silu", x)
    num_rows = x.numel() // width
    norm_silu_kernel[(triton.cdiv(num_rows, rows),)](
        x,
        x if weight is None else weight,
        x if bias is None else bias,
        out,
        num_rows,
        eps,
        width=width,
        norm=norm,
        weighted=weight is not None,
        biased=bias is not None,
        activation=activation,
        rows=rows,
        columns=columns,
        num_warps=warps,
    )
    return out
