"""The Triton kernel of `qk_norm_rope`, launched for q and for k. Definition and sources are in qk_norm_rope.py.

Apart from its reference because Triton is optional and a kernel needs it to be defined. A program holds whole heads of
one token, all of them where the norm goes across heads.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_rows import cut_rows


@triton.jit
def rotated_pairs(
    x: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    num_angles: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> tl.tensor:  # pairs (2i, 2i + 1) of x [rows, columns]; cos and sin point to a token's angles
    pair = tl.arange(0, columns // 2)[None, :]
    c = tl.load(cos + pair, pair < num_angles, other=1.0)
    s = tl.load(sin + pair, pair < num_angles, other=0.0)
    first, second = tl.split(tl.reshape(x, (rows, columns // 2, 2)))
    moved_first = tl.where(pair < num_angles, first * c - second * s, first)
    moved_second = tl.where(pair < num_angles, second * c + first * s, second)
    return tl.reshape(tl.join(moved_first, moved_second), (rows, columns))


@triton.jit
def norm_rope_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    out: tl.tensor,
    stride_token: int,
    stride_head: int,
    eps: float,
    num_heads: tl.constexpr,
    head_dim: tl.constexpr,
    num_angles: tl.constexpr,
    norm: tl.constexpr,
    weighted: tl.constexpr,
    across_heads: tl.constexpr,
    interleaved: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * rows + tl.arange(0, rows)[:, None]
    column = tl.arange(0, columns)[None, :]
    mask = (head < num_heads) & (column < head_dim)
    start = x + token * stride_token + head.to(tl.int64) * stride_head
    value = tl.load(start + column, mask, other=0.0).to(tl.float32)

    mean = 0.0
    factor = 1.0
    if across_heads:
        width: tl.constexpr = num_heads * head_dim
        if norm == "layer":
            mean = tl.sum(tl.sum(value, 1), 0) / width
        if norm != "none":
            centred = tl.where(mask, value - mean, 0.0)
            factor = tl.rsqrt(tl.sum(tl.sum(centred * centred, 1), 0) / width + eps)
    else:
        if norm == "layer":
            mean = (tl.sum(value, 1) / head_dim)[:, None]
        if norm != "none":
            centred = tl.where(mask, value - mean, 0.0)
            factor = tl.rsqrt(tl.sum(centred * centred, 1) / head_dim + eps)[:, None]
    value = (value - mean) * factor
    scale = weight + head * head_dim if across_heads else weight + head * 0
    if weighted:
        value = value * tl.load(scale + column, mask, other=0.0).to(tl.float32)

    cos += token * num_angles
    sin += token * num_angles
    if interleaved:
        value = rotated_pairs(value, cos, sin, num_angles, rows, columns)
    else:
        is_first = column < num_angles
        turns = column < 2 * num_angles
        angle = tl.where(is_first, column, column - num_angles)
        other = tl.where(is_first, column + num_angles, column - num_angles)
        partner = tl.load(start + other, mask & turns, other=0.0).to(tl.float32)
        partner = (partner - mean) * factor
        if weighted:
            partner = partner * tl.load(scale + other, mask & turns, other=0.0).to(tl.float32)
        c = tl.load(cos + angle, turns, other=1.0)
        s = tl.load(sin + angle, turns, other=0.0)
        value = tl.where(turns, tl.where(is_first, value * c - partner * s, value * c + partner * s), value)
    target = out + (token * num_heads + head) * head_dim + column
    tl.store(target, value.to(out.dtype.element_ty), mask)


def launch_norm_rope(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    weight: Tensor | None,
    norm: str,
    across_heads: bool,
    layout: str,
    eps: float,
) -> Tensor:
    """One of q and k, normalized and rotated. A head of x is contiguous, and so are the other tensors."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel() == 0:
        return out
    num_tokens, num_heads, head_dim = x.shape
    columns, rows = max(2, triton.next_power_of_2(head_dim)), triton.next_power_of_2(num_heads)
    width, kernel = (rows * columns, "qk_norm_rope across") if across_heads else (head_dim, "qk_norm_rope")
    cut = cut_rows(kernel, x, width)
    if not across_heads:
        rows = min(rows, max(1, cut.elements // columns))
    norm_rope_kernel[(num_tokens, triton.cdiv(num_heads, rows))](
        x,
        x if weight is None else weight,
        *(cos, sin, out),
        *(x.stride(0), x.stride(1), eps),
        num_heads=num_heads,
        head_dim=head_dim,
        num_angles=cos.shape[1],
        norm=norm,
        weighted=weight is not None,
        across_heads=across_heads,
        interleaved=layout == "interleaved",
        rows=rows,
        columns=columns,
        num_warps=cut.num_warps,
    )
    return out
