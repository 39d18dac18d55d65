"""The Triton kernel of `linear` and `linear_fp8`: a matrix product with what follows it.

Apart from their references because Triton is optional and a kernel needs it to be defined. A program computes a tile of
the output; each element is one sum over the depth in blocks of a size that follows from widths and dtypes alone, so a
row's result does not depend on the other rows. That of a library's product may, because a library chooses by the number
of rows: within `tuning.invariant` none is called.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .fp8 import E4M3
from .gated_residual import Residual
from .linear import activate
from .triton_rows import launch_modulate
from .tuning import Tuned, current_arch, is_invariant


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearKey:
    """What the choice may depend on. dtype: of the product's operands; fused: something but a bias follows it."""

    arch: int
    dtype: torch.dtype
    depth: int
    num_columns: int
    fused: bool
    invariant: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixTiles:
    """How a program cuts its work: rows and columns of the output, the depth at a time; tiles of group_m rows of them
    run side by side, so that they share what they read."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    group_m: int = 8


FUSED_DEPTH = 1024


def rule(key: LinearKey) -> MatrixTiles | None:
    """None: the library's product, and what follows it in a pass of its own.

    Unverified: not timed on a GPU yet. An extra pass over the output costs what a Triton product loses to a library's,
    a fifth by what is published, at a depth near FUSED_DEPTH.
    """
    library = key.dtype != E4M3 and not (key.fused and key.depth <= FUSED_DEPTH)
    if library and not key.invariant:
        return None
    if key.dtype == torch.float32:
        return MatrixTiles(block_m=64, block_n=64, block_k=16, num_warps=8, num_stages=2)
    wide = 128 // key.dtype.itemsize  # 128 bytes of a row
    if key.arch == 90:
        return MatrixTiles(block_m=128, block_n=columns(key, 256), block_k=wide, num_warps=8, num_stages=3)
    return MatrixTiles(block_m=128, block_n=columns(key, 128), block_k=wide, num_warps=8, num_stages=3)


def columns(key: LinearKey, most: int) -> int:
    """The columns of a tile: no more than the output needs."""
    return min(most, max(16, triton.next_power_of_2(key.num_columns)))


def candidates(key: LinearKey) -> list[MatrixTiles | None]:
    """What a sweep should time."""
    if key.dtype == torch.float32:
        return [None] if not key.invariant else []
    wide = 128 // key.dtype.itemsize
    shapes = [(128, 256, 8), (256, 128, 8), (128, 128, 8), (128, 128, 4), (128, 64, 4), (64, 256, 4)]
    found: list[MatrixTiles | None] = [
        MatrixTiles(block_m=m, block_n=columns(key, n), block_k=wide, num_warps=warps, num_stages=stages)
        for m, n, warps in shapes
        for stages in (3, 4)
    ]
    return found if key.invariant or key.dtype == E4M3 else [None, *found]


choice = Tuned("linear", rule, candidates)


@triton.jit
def activated(x: tl.tensor, activation: tl.constexpr) -> tl.tensor:
    if activation == "silu":
        x = x / (1 + tl.exp(-x))
    if activation == "gelu":
        x = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    if activation == "gelu_tanh":  # 0.5 x (1 + tanh u) = x / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x³)
        x = x / (1 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
    return x


@triton.jit
def finish(
    acc: tl.tensor,
    m: tl.tensor,
    start: int,
    bias: tl.tensor,
    x_scale: tl.tensor,
    weight_scale: tl.tensor,
    residual: tl.tensor,
    gate: tl.tensor,
    row: tl.tensor,
    out: tl.tensor,
    num_rows: int,
    stride_residual: int,
    stride_gate: int,
    num_columns: tl.constexpr,
    scaled: tl.constexpr,
    biased: tl.constexpr,
    activation: tl.constexpr,
    gated: tl.constexpr,
    block_n: tl.constexpr,
) -> None:  # stores what becomes of a product's rows m and columns from start on; wide ones in halves: few registers
    if block_n > 64:
        rows: tl.constexpr = acc.shape[0]
        left, right = tl.split(tl.permute(tl.reshape(acc, (rows, 2, block_n // 2)), (0, 2, 1)))
        rest = bias, x_scale, weight_scale, residual, gate, row, out, num_rows, stride_residual, stride_gate
        finish(left, m, start, *rest, num_columns, scaled, biased, activation, gated, block_n // 2)
        finish(right, m, start + block_n // 2, *rest, num_columns, scaled, biased, activation, gated, block_n // 2)
    else:
        n = start + tl.arange(0, block_n)
        exists, in_columns = m < num_rows, n < num_columns
        if scaled:
            acc *= tl.load(x_scale + m, exists, other=0.0)[:, None]
            acc *= tl.load(weight_scale + n, in_columns, other=0.0)[None, :]
        if biased:
            acc += tl.load(bias + n, in_columns, other=0.0).to(tl.float32)[None, :]
        acc = activated(acc, activation)
        mask = exists[:, None] & in_columns[None, :]
        if gated:
            index = tl.load(row + m, exists, other=0).to(tl.int64)
            factor = tl.load(gate + index[:, None] * stride_gate + n[None, :], mask, other=0.0).to(tl.float32)
            before = residual + m.to(tl.int64)[:, None] * stride_residual + n[None, :]
            acc = tl.load(before, mask, other=0.0).to(tl.float32) + factor * acc
        target = out + m.to(tl.int64)[:, None] * num_columns + n[None, :]
        tl.store(target, acc.to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["num_rows"])
def linear_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    x_scale: tl.tensor,
    weight_scale: tl.tensor,
    residual: tl.tensor,
    gate: tl.tensor,
    row: tl.tensor,
    out: tl.tensor,
    num_rows: int,
    stride_x: int,
    stride_weight: int,
    stride_residual: int,
    stride_gate: int,
    num_columns: tl.constexpr,
    depth: tl.constexpr,
    depth_last: tl.constexpr,
    scaled: tl.constexpr,
    biased: tl.constexpr,
    activation: tl.constexpr,
    gated: tl.constexpr,
    group_m: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
) -> None:
    across: tl.constexpr = (num_columns + block_n - 1) // block_n
    program = tl.program_id(0)
    first = program // (group_m * across) * group_m
    height = tl.minimum(tl.cdiv(num_rows, block_m) - first, group_m)
    place = program % (group_m * across)
    m = (first + place % height) * block_m + tl.arange(0, block_m)
    n = place // height * block_n + tl.arange(0, block_n)
    k = tl.arange(0, block_k)
    in_columns = n < num_columns
    x_rows = x + tl.minimum(m, num_rows - 1).to(tl.int64)[:, None] * stride_x  # rows beyond the last repeat it
    acc = tl.zeros([block_m, block_n], tl.float32)
    for start in tl.range(0, depth, block_k):
        inside = start + k < depth
        if depth % block_k == 0:
            a = tl.load(x_rows + (start + k)[None, :])
        else:
            a = tl.load(x_rows + (start + k)[None, :], inside[None, :], other=0.0)
        row_of_b, column_of_b = (start + k).to(tl.int64)[:, None], n.to(tl.int64)[None, :]
        if depth_last:
            b_pointers = weight + (column_of_b * stride_weight + row_of_b)
        else:
            b_pointers = weight + (row_of_b * stride_weight + column_of_b)
        if depth % block_k == 0 and num_columns % block_n == 0:
            b = tl.load(b_pointers)
        else:
            b = tl.load(b_pointers, inside[:, None] & in_columns[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    finish(
        *(acc, m, place // height * block_n, bias, x_scale, weight_scale, residual, gate, row, out),
        *(num_rows, stride_residual, stride_gate, num_columns, scaled, biased, activation, gated, block_n),
    )


def launch_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Residual | None,
    scales: tuple[Tensor, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """As `linear` for x [T, K], in dtype (None: that of x); scales: of the rows of x and of those of weight.

    Of x, the residual and the gate rows are contiguous, of weight rows or columns, the others are wholly.
    """
    num_rows, depth = x.shape
    num_columns, fused = weight.shape[0], activation is not None or residual is not None
    key = LinearKey(
        arch=current_arch(),
        dtype=x.dtype,
        depth=depth,
        num_columns=num_columns,
        fused=fused,
        invariant=is_invariant(),
    )
    cut = choice(key)
    if cut is None:
        y = activate(F.linear(x, weight, bias), activation)
        if residual is None:
            return y
        return launch_modulate(residual.x, residual.row, None, None, "none", 0.0, y=y, gate=residual.gate)[0]
    out = torch.empty(num_rows, num_columns, dtype=dtype or x.dtype, device=x.device)
    if out.numel() == 0:
        return out
    depth_last = weight.stride(1) == 1
    # what a variant of the kernel does not read is represented by x
    gated = residual is not None
    added = (residual.x, residual.gate, residual.row) if residual is not None else (x, x, x)
    linear_kernel[(triton.cdiv(num_rows, cut.block_m) * triton.cdiv(num_columns, cut.block_n),)](
        *(x, weight, x if bias is None else bias, *(scales or (x, x)), *added, out),
        *(num_rows, x.stride(0), weight.stride(0 if depth_last else 1), added[0].stride(0), added[1].stride(0)),
        num_columns=num_columns,
        depth=depth,
        depth_last=depth_last,
        scaled=scales is not None,
        biased=bias is not None,
        activation=activation or "",
        gated=gated,
        group_m=cut.group_m,
        block_m=cut.block_m,
        block_n=cut.block_n,
        block_k=cut.block_k,
        num_warps=cut.num_warps,
        num_stages=cut.num_stages,
    )
    return out
