"""The ops that stream rows, as problems: their time is that of the bytes they move.

The peers compute in the dtype of the input, as the models of diffusers do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import gated_residual, guided_step, modulate, patchify, qk_norm_rope, unpatchify
from ..kernels.guided_step import guided_step_reference
from ..kernels.patchify import Grid, patchify_reference, unpatchify_reference
from .problem import Problem, eager, of_op
from .shapes import Model

EPS = 1e-6


class Draw:
    """Random tensors of one dtype on one device."""

    def __init__(self, dtype: torch.dtype, device: torch.device, seed: int) -> None:
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, *size: int, wide: bool = False) -> Tensor:
        """Normal numbers; `wide`: in float32."""
        x = torch.randn(*size, generator=self.generator, device=self.device)
        return x if wide else x.to(self.dtype)

    def index(self, count: int, end: int) -> Tensor:
        """int32 [count] below `end`, ascending, as the segments of a pack are."""
        return torch.randint(end, (count,), generator=self.generator, device=self.device).sort()[0].int()


def modulate_problem(
    tokens: int, width: int, rows: int, dtype: torch.dtype, device: torch.device, norm: str = "layer"
) -> Problem:
    """Tables of `rows` rows, slices of a wider one. The peer knows layer norm only."""
    draw = Draw(dtype, device, tokens + width)
    x, (shift, scale), row = draw(tokens, width), draw(rows, 2 * width).chunk(2, 1), draw.index(tokens, rows)
    return of_op(
        modulate,
        (x, shift, scale, row),
        {"norm": norm},
        flops=8 * x.numel(),
        moved=(2 * x.numel() + 2 * shift.numel()) * dtype.itemsize + 4 * tokens,
        peers=eager(eager_modulate, x, shift, scale, row) if norm == "layer" else {},
        inputs=(x, shift, scale),
    )


def eager_modulate(x: Tensor, shift: Tensor, scale: Tensor, row: Tensor) -> tuple[Tensor, ...]:
    index = row.long()
    return (F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale[index]) + shift[index],)


def gated_residual_problem(
    tokens: int, width: int, rows: int, dtype: torch.dtype, device: torch.device, modulated: bool = True
) -> Problem:
    """With the next block's modulation, or alone."""
    draw = Draw(dtype, device, tokens + width + 1)
    x, y, row = draw(tokens, width), draw(tokens, width), draw.index(tokens, rows)
    gate, shift, scale = draw(rows, 3 * width).chunk(3, 1)
    more = {"shift": shift, "scale": scale} if modulated else {}
    return of_op(
        gated_residual,
        (x, y, gate, row),
        more,
        flops=(10 if modulated else 2) * x.numel(),
        moved=((4 if modulated else 3) * x.numel() + (1 + len(more)) * gate.numel()) * dtype.itemsize + 4 * tokens,
        peers=eager(eager_gated_residual, x, y, gate, row, *more.values()),
        inputs=(x, y, gate, *more.values()),
    )


def eager_gated_residual(
    x: Tensor, y: Tensor, gate: Tensor, row: Tensor, shift: Tensor | None = None, scale: Tensor | None = None
) -> tuple[Tensor, ...]:
    total = x + gate[row.long()] * y
    return (total,) if shift is None or scale is None else (total, *eager_modulate(total, shift, scale, row))


def rope_problem(
    tokens: int, model: Model, across: bool, layout: str, dtype: torch.dtype, device: torch.device
) -> Problem:
    """q and k as they lie in a fused projection; every pair of a head's dimensions turns."""
    draw = Draw(dtype, device, tokens + model.width)
    q, k, _ = draw(tokens, 3, model.heads, model.head_dim).unbind(1)
    angles = draw(tokens, model.head_dim // 2, wide=True) * 3
    cos, sin = angles.cos(), angles.sin()
    q_weight, k_weight = draw(2, model.heads * model.head_dim if across else model.head_dim)
    options = {"q_weight": q_weight, "k_weight": k_weight, "across_heads": across, "layout": layout}
    return of_op(
        qk_norm_rope,
        (q, k, cos, sin),
        options,
        flops=10 * 2 * q.numel(),
        moved=4 * q.numel() * dtype.itemsize + 8 * angles.numel(),
        peers=eager(eager_rope, q, k, cos, sin, q_weight, k_weight, across, layout),
        inputs=(q, k, q_weight, k_weight),
    )


def eager_rope(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, q_weight: Tensor, k_weight: Tensor, across: bool, layout: str
) -> tuple[Tensor, ...]:
    outs = []
    for x, weight in ((q, q_weight), (k, k_weight)):
        flat = x.flatten(1) if across else x
        normed = F.rms_norm(flat, flat.shape[-1:], weight, EPS).view(x.shape)
        wide, c, s = normed.float() if x.dtype.itemsize < 4 else normed, cos[:, None], sin[:, None]
        if layout == "interleaved":
            a, b = wide.unflatten(-1, (-1, 2)).unbind(-1)
            turned = torch.stack((a * c - b * s, b * c + a * s), -1).flatten(-2)
        else:
            a, b = wide.chunk(2, -1)
            turned = torch.cat((a * c - b * s, b * c + a * s), -1)
        outs.append(turned.to(x.dtype))
    return tuple(outs)


def guided_step_problem(tokens: int, channels: int, slots: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """Every token guided. dtype: of the model's output; the state is float32. Coefficients keep the state's size."""
    draw = Draw(dtype, device, tokens)
    start, out = draw(slots, tokens, channels, wide=True), draw(2 * tokens, channels)
    cond = torch.arange(tokens, dtype=torch.int32, device=device)
    uncond, guidance = cond + tokens, draw(4, wide=True)
    table, row = 0.3 * draw(4, slots, slots + 1, wide=True), draw.index(tokens, 4)
    arguments = cond, uncond, guidance, table, row
    state, wide_state = start.clone(), start.double()
    wide = (a.double() if a.is_floating_point() else a for a in (out, *arguments))

    def run(backend: str | None) -> tuple[Tensor, ...]:
        guided_step(state, out, *arguments, backend=backend)
        return (state,)

    return Problem(
        run=run,
        exact=partial(_one, guided_step_reference, wide_state, *wide),
        plain=partial(_one, guided_step_reference, start, out, *arguments),
        flops=(3 + 2 * slots * (slots + 1)) * tokens * channels,
        moved=8 * start.numel() + out.numel() * dtype.itemsize + 12 * tokens,
        peers=eager(eager_guided_step, state, out, *arguments),
        inputs=(state, out),
        reset=lambda: state.copy_(start),
    )


def _one(function: Callable[..., Tensor], *args: Tensor) -> tuple[Tensor, ...]:
    return (function(*args),)


def eager_guided_step(
    state: Tensor, out: Tensor, cond: Tensor, uncond: Tensor, guidance: Tensor, table: Tensor, row: Tensor
) -> tuple[Tensor, ...]:
    index = row.long()
    conditional, unconditional = out[cond.long()].float(), out[uncond.long()].float()
    velocity = unconditional + guidance[index, None] * (conditional - unconditional)
    operands = torch.cat((state, velocity[None]))
    return (torch.einsum("nsj,jnc->snc", table[index], operands),)


def patchify_problem(grids: list[Grid], channels: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """Latents of these sizes to patches of 1 x 2 x 2."""
    draw, patch = Draw(dtype, device, len(grids)), (1, 2, 2)
    latents = [draw(channels, *grid) for grid in grids]
    return Problem(
        run=lambda backend: (patchify(latents, patch, backend=backend),),
        exact=lambda: (patchify_reference([x.double() for x in latents], patch),),
        plain=lambda: (patchify_reference(latents, patch),),
        flops=0,
        moved=2 * dtype.itemsize * sum(x.numel() for x in latents),
        peers=eager(_eager_patchify, latents, patch),
        inputs=tuple(latents),
    )


def _eager_patchify(latents: list[Tensor], patch: Grid) -> tuple[Tensor, ...]:
    return (patchify_reference(latents, patch),)


def unpatchify_problem(grids: list[Grid], channels: int, dtype: torch.dtype, device: torch.device) -> Problem:
    """The inverse of `patchify_problem`."""
    patch = (1, 2, 2)
    count = sum(math.prod(grid) for grid in grids) // math.prod(patch)
    tokens = Draw(dtype, device, count)(count, channels * math.prod(patch))
    return Problem(
        run=lambda backend: tuple(unpatchify(tokens, grids, patch, backend=backend)),
        exact=lambda: tuple(unpatchify_reference(tokens.double(), grids, patch)),
        plain=lambda: tuple(unpatchify_reference(tokens, grids, patch)),
        flops=0,
        moved=2 * dtype.itemsize * tokens.numel(),
        peers=eager(_eager_unpatchify, tokens, grids, patch),
        inputs=(tokens,),
    )


def _eager_unpatchify(tokens: Tensor, grids: list[Grid], patch: Grid) -> tuple[Tensor, ...]:
    return tuple(unpatchify_reference(tokens, grids, patch))
