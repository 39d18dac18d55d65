"""`linear` and the VAE's ops as problems. The peers are PyTorch's own calls, on tensors laid out as those want them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import causal_conv3d, group_norm_silu, linear, linear_int8, norm_silu
from ..kernels.causal_conv3d import Triple
from ..kernels.causal_conv3d import fastest_layout as fastest_taps
from ..kernels.gated_residual import Residual
from ..kernels.linear import activate, fastest_layout, linear_reference
from ..kernels.linear_int8 import pack_int8, quantize_rows
from ..kernels.tuning import invariant
from .problem import Problem, as_tuple, eager, of_op
from .streaming import EPS, Draw

ROWS_COMPARED = 256  # of a product: exact products in float64 of all rows would take minutes
INT8_LIMIT = 0.015


def linear_problem(
    tokens: int,
    depth: int,
    columns: int,
    activation: str | None,
    dtype: torch.dtype,
    device: torch.device,
    residual: bool = False,
    alone: bool = False,
) -> Problem:
    """x [tokens, depth] to [tokens, columns], the weight laid out as models are loaded; `residual`: ends a branch;
    `alone`: by kernels whose bits do not depend on the number of rows."""
    draw = Draw(dtype, device, depth + columns)
    x, bias = draw(tokens, depth), draw(columns)
    weight = (draw(columns, depth, wide=True) * depth**-0.5).to(dtype)
    laid_out = fastest_layout(weight)
    rows = torch.linspace(0, tokens - 1, min(tokens, ROWS_COMPARED)).long().to(device)
    added = Residual(x=draw(tokens, columns), gate=draw(8, columns), row=draw.index(tokens, 8)) if residual else None

    def definition(kind: torch.dtype) -> tuple[Tensor, ...]:
        part = None if added is None else _of(added, rows, kind)
        return (linear_reference(x[rows].to(kind), weight.to(kind), bias.to(kind), activation, part),)

    def run(backend: str | None) -> tuple[Tensor, ...]:
        with invariant(alone):
            return (linear(x, laid_out, bias, activation=activation, residual=added, backend=backend),)

    more = () if added is None else (added.x, added.gate, added.row)
    return Problem(
        run=run,
        exact=lambda: definition(torch.float64),
        plain=lambda: definition(dtype),
        flops=2 * tokens * depth * columns,
        moved=(x.numel() + weight.numel() + (2 if residual else 1) * tokens * columns) * dtype.itemsize,
        peers=eager(eager_linear, x, weight, bias, activation, *more),
        select=lambda results: (results[0][rows],),
        inputs=(x, bias),
    )


def _of(residual: Residual, rows: Tensor, dtype: torch.dtype) -> Residual:
    return Residual(x=residual.x[rows].to(dtype), gate=residual.gate.to(dtype), row=residual.row[rows])


def linear_int8_problem(
    tokens: int, depth: int, columns: int, activation: str | None, dtype: torch.dtype, device: torch.device
) -> Problem:
    """`linear_problem`'s product with a quantized weight, held to what is exact without quantization."""
    whole = linear_problem(tokens, depth, columns, activation, dtype, device)
    peer = whole.peers["eager"]
    assert isinstance(peer, partial)
    x, weight, bias = peer.args[:3]
    values, scale = quantize_rows(weight)
    packed = pack_int8(values)
    return replace(
        whole,
        run=lambda backend: (linear_int8(x, packed, scale, bias, activation=activation, backend=backend),),
        moved=whole.moved - 3 * weight.numel(),
        limit=INT8_LIMIT,
    )


def eager_linear(
    x: Tensor, weight: Tensor, bias: Tensor, activation: str | None, *residual: Tensor
) -> tuple[Tensor, ...]:
    y = activate(F.linear(x, weight, bias), activation)
    if residual:
        added, gate, row = residual
        y = added + gate[row.long()] * y
    return (y,)


def conv_problem(
    size: Triple, cin: int, cout: int, kernel: Triple, dtype: torch.dtype, device: torch.device
) -> Problem:
    """A chunk [t, h, w] of a clip, with the frames carried from the chunk before it."""
    draw = Draw(dtype, device, cin + cout)
    taps = kernel[0] * kernel[1] * kernel[2]
    x, past, bias = draw(*size, cin), draw(kernel[0] - 1, *size[1:], cin), draw(cout)
    weight = (draw(cout, *kernel, cin, wide=True) * (taps * cin) ** -0.5).to(dtype)
    positions = size[0] * size[1] * size[2]
    video = torch.cat((past, x)).permute(3, 0, 1, 2)[None].contiguous()
    padding = (0, kernel[1] // 2, kernel[2] // 2)
    return of_op(
        causal_conv3d,
        (x, fastest_taps(weight), bias),
        {"past": past},
        flops=2 * positions * taps * cin * cout,
        moved=(x.numel() + past.numel() + weight.numel() + positions * cout) * dtype.itemsize,
        peers=eager(eager_conv, video, weight.permute(0, 4, 1, 2, 3).contiguous(), bias, padding),
        inputs=(x, past, bias),
        select=lambda results: (results[0] if results[0].ndim == 4 else results[0][0].permute(1, 2, 3, 0),),
    )


def eager_conv(video: Tensor, weight: Tensor, bias: Tensor, padding: Triple) -> tuple[Tensor, ...]:
    """Channels first, with the carried frames joined beforehand: more than PyTorch is given in diffusers."""
    return (F.conv3d(video, weight, bias, padding=padding),)


def norm_silu_problem(rows: int, channels: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """The VAE's norm over channels and its activation."""
    draw = Draw(dtype, device, rows + channels)
    x, weight = draw(rows, channels), draw(channels)
    return of_op(
        norm_silu,
        (x, weight),
        {},
        flops=8 * x.numel(),
        moved=2 * x.numel() * dtype.itemsize,
        peers=eager(eager_norm_silu, x, weight),
        inputs=(x, weight),
    )


def eager_norm_silu(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    return (F.silu(F.rms_norm(x, x.shape[-1:], weight, EPS)),)


def group_norm_problem(clips: int, positions: int, channels: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """In 32 groups, or one where channels do not divide into as many; statistics are one more pass over x."""
    draw = Draw(dtype, device, positions + channels)
    x, weight, bias = draw(clips, positions, channels), draw(channels), draw(channels)
    groups = 32 if channels % 32 == 0 else 1
    return of_op(
        group_norm_silu,
        (x, weight, bias, groups),
        {},
        flops=10 * x.numel(),
        moved=3 * x.numel() * dtype.itemsize,
        peers=eager(eager_group_norm, x.transpose(1, 2).contiguous(), groups, weight, bias),
        inputs=(x, weight, bias),
        select=lambda results: tuple(_channels_last(r, x.shape) for r in as_tuple(results)),
    )


def _channels_last(x: Tensor, shape: torch.Size) -> Tensor:
    return x if x.shape == shape else x.transpose(1, 2)


def eager_group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Channels first, as PyTorch's modules are in diffusers."""
    return (F.silu(F.group_norm(x, groups, weight, bias, EPS)),)
