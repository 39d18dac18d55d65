"""What csrc/bindings.cpp exports."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = Sequence[int] | NDArray[np.integer]

def plan_pack(
    lengths: Ints, sequences: Ints, budget: int, max_segments: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]: ...
def work_table(cu_seqlens: Ints, block: int) -> NDArray[np.int32]: ...
def isas() -> list[str]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def int8_isas() -> list[str]: ...
def int8_isa() -> str: ...
def set_int8_isa(name: str) -> None: ...
def fma_peak(threads: int) -> float: ...

# The CPU kernels. Arrays are addresses of float32 or int32 data, 0 for none; see csrc/ops.h.
Rows = tuple[int, int]  # address, stride
Heads = tuple[int, int, int, int]  # address, stride of tokens, stride of heads, number of heads
Modulation = tuple[Rows, Rows, int, float]  # shift, scale, norm, eps
Index = tuple[int, int]  # address, rows of the table that it points into
Weights = tuple[int, int, bool, int]  # address, columns, packed, address of the bias
Int8Weights = tuple[int, int, int, int]  # address, columns, addresses of their scales and of the bias
Epilogue = tuple[int, tuple[Rows, Rows, Index] | None]  # activation; residual, gate and the row of gate

def modulate(x: Rows, table: Modulation, row: Index, tokens: int, width: int, out: int, threads: int) -> None: ...
def gated_residual(
    x: Rows,
    y: Rows,
    gate: Rows,
    table: Modulation | None,
    row: Index,
    tokens: int,
    width: int,
    total: int,
    modulated: int,
    threads: int,
) -> None: ...
def norm_rope(
    x: Heads,
    tokens: int,
    head_dim: int,
    weight: int,
    norm: int,
    across_heads: bool,
    eps: float,
    cos: int,
    sin: int,
    num_angles: int,
    interleaved: bool,
    out: int,
    threads: int,
) -> None: ...
def norm_silu(
    x: int, weight: int, bias: int, rows: int, width: int, norm: int, silu: bool, eps: float, out: int, threads: int
) -> None: ...
def group_norm_silu(
    x: int, size: Sequence[int], groups: int, weight: int, bias: int, silu: bool, eps: float, out: int, threads: int
) -> None: ...
def guided_step(
    state: int,
    size: Sequence[int],
    slot_stride: int,
    token_stride: int,
    out: Rows,
    out_rows: int,
    cond: int,
    uncond: int,
    guidance: int,
    table: int,
    row: Index,
    threads: int,
) -> None: ...
def linear(x: Rows, rows: int, depth: int, weight: Weights, then: Epilogue, out: int, threads: int) -> None: ...
def linear_int8(
    x: Rows, rows: int, depth: int, weight: Int8Weights, then: Epilogue, out: int, threads: int
) -> None: ...
def causal_conv3d(
    x: int,
    size: Sequence[int],
    past: int,
    past_frames: int,
    missing: int,
    weight: Weights,
    kernel: Sequence[int],
    stride: Sequence[int],
    top: int,
    left: int,
    nearest: bool,
    out_size: Sequence[int],
    out: int,
    threads: int,
) -> None: ...
def varlen_attention(
    q: Heads,
    k: Heads,
    v: Heads,
    cu_seqlens_q: int,
    cu_seqlens_k: int,
    segments: int,
    num_queries: int,
    head_dim: int,
    causal: bool,
    scale: float,
    key_bias: int,
    out: int,
    threads: int,
) -> None: ...
