"""What the Triton kernels of fp8 ops share: the rounding of fp8.py, which defines it."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .fp8 import E4M3, LARGEST, SMALLEST_PEAK
from .triton_rows import block_of
from .tuning import current_arch

LEAST_ARCH = 89  # the first with tensor cores for e4m3


def check_arch(op: str) -> int:
    """The GPU's capability. ValueError where it cannot multiply e4m3."""
    arch = current_arch()
    if arch < LEAST_ARCH:
        raise ValueError(f"{op}: the GPU's capability is {arch / 10}; allowed: {LEAST_ARCH / 10} or more")
    return arch


@triton.jit
def rounded(x: tl.tensor) -> tl.tensor:  # float32 to e4m3, saturating; NaN where it is not finite
    return tl.where(tl.abs(x) < float("inf"), x, float("nan")).to(tl.float8e4nv)


@triton.jit
def finite_peak(x: tl.tensor) -> tl.tensor:  # the largest finite absolute value of a row
    size = tl.abs(x)
    return tl.max(tl.where(size < float("inf"), size, 0.0), 1)


@triton.jit(do_not_specialize=["num_rows"])
def round_rows_kernel(
    x: tl.tensor,
    out: tl.tensor,
    scale: tl.tensor,
    num_rows: int,
    stride_x: int,
    width: tl.constexpr,
    largest: tl.constexpr,
    smallest_peak: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:  # as `quantize_rows` of fp8.py
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    column = tl.arange(0, columns)[None, :]
    exists = row < num_rows
    mask = exists[:, None] & (column < width)
    value = tl.load(x + row[:, None] * stride_x + column, mask, other=0.0).to(tl.float32)
    peak = tl.maximum(finite_peak(value), smallest_peak)
    tl.store(out + row[:, None] * width + column, rounded(value * tl.div_rn(largest, peak)[:, None]), mask)
    tl.store(scale + row, tl.div_rn(peak, largest), exists)


def launch_round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """`quantize_rows` of a matrix whose rows are contiguous; the scale in float32."""
    num_rows, width = x.shape
    out, scale = torch.empty(x.shape, dtype=E4M3, device=x.device), torch.empty(num_rows, device=x.device)
    if x.numel():
        rows, columns, warps = block_of("round_rows", x)
        round_rows_kernel[(triton.cdiv(num_rows, rows),)](
            *(x, out, scale, num_rows, x.stride(0)),
            width=width,
            largest=LARGEST,
            smallest_peak=SMALLEST_PEAK,
            rows=rows,
            columns=columns,
            num_warps=warps,
        )
    return out, scale
