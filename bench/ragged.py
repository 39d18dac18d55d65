"""Small problems that find mistakes: ragged lengths, every head dim, layout and norm. For checks, not for timing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from ..kernels.norm import NORMS
from ..kernels.qk_norm_rope import LAYOUTS
from ..kernels.testing import LENGTHS
from .attention import AttentionShape, attention
from .fp8 import attention_fp8, linear_fp8_problem
from .matrix import conv_problem, group_norm_problem, linear_int8_problem, linear_problem, norm_silu_problem
from .problem import Case, Problem
from .shapes import Model
from .streaming import (
    gated_residual_problem,
    guided_step_problem,
    modulate_problem,
    patchify_problem,
    rope_problem,
    unpatchify_problem,
)

DTYPES = (torch.bfloat16, torch.float32, torch.float16)
CROSS = ((0, 5), (1, 1), (7, 0), (13, 40), (40, 13), (130, 129), (3, 200), (2, 2))  # queries, keys of each segment
HEAD_DIMS = (64, 72, 80, 96, 128, 256)
ALL_ROWS = 2**30
TOKENS = 131
Build = Callable[..., Problem]


def cases(op: str, dtype: torch.dtype) -> Iterator[Case]:
    """All of one op in one dtype."""
    for shape, build in SHAPES[op]():
        yield Case(op=op, shape=shape, dtype=dtype, build=partial(_build, build, dtype))


def _build(build: Build, dtype: torch.dtype, device: torch.device) -> Problem:
    return build(dtype=dtype, device=device)


def attention_shapes(build: Build = attention) -> Iterator[tuple[str, Build]]:
    def of(**fields: object) -> Build:
        return partial(build, AttentionShape(**fields), rows_compared=ALL_ROWS)  # type: ignore[arg-type]

    queries, keys = zip(*CROSS, strict=True)
    for causal in (False, True) if build is attention else (False,):
        mask = ", causal" if causal else ""
        yield f"ragged, 2 x 32{mask}", of(lengths=LENGTHS, heads=2, head_dim=32, causal=causal)
        yield f"cross, 2 x 24{mask}", of(lengths=queries, key_lengths=keys, heads=2, head_dim=24, causal=causal)
    for head_dim in HEAD_DIMS:
        yield f"2 x {head_dim}", of(lengths=(3, 67, 129), heads=2, head_dim=head_dim)
    yield "6 heads that share 2", of(lengths=(30, 0, 129), heads=6, head_dim=64, kv_heads=2)
    yield "one huge segment", of(lengths=(1, 2500), heads=1, head_dim=64)


def modulate_shapes() -> Iterator[tuple[str, Build]]:
    for norm in NORMS:
        yield f"40 wide, {norm}", partial(modulate_problem, TOKENS, 40, 7, norm=norm)
    for width in (1, 1536, 5120):
        yield f"{width} wide", partial(modulate_problem, TOKENS, width, 7)


def gated_residual_shapes() -> Iterator[tuple[str, Build]]:
    for width in (1, 40, 1536, 5120):
        yield f"{width} wide", partial(gated_residual_problem, TOKENS, width, 7)
    yield "40 wide, alone", partial(gated_residual_problem, TOKENS, 40, 7, modulated=False)


def rope_shapes() -> Iterator[tuple[str, Build]]:
    for heads, head_dim in ((3, 20), (12, 128)):
        model = Model(width=heads * head_dim, heads=heads, head_dim=head_dim, mlp=0)
        for across in (False, True):
            for layout in LAYOUTS:
                shape = f"{heads} x {head_dim}, {layout}{', across heads' * across}"
                yield shape, partial(rope_problem, TOKENS, model, across, layout)


def guided_step_shapes() -> Iterator[tuple[str, Build]]:
    for slots, channels in ((1, 48), (3, 64)):
        yield f"{slots} slots, {channels} channels", partial(guided_step_problem, TOKENS, channels, slots)


def patchify_shapes(build: Build) -> Iterator[tuple[str, Build]]:
    yield "three clips", partial(build, [(1, 4, 6), (3, 2, 8), (2, 6, 2)], 5)


def norm_silu_shapes() -> Iterator[tuple[str, Build]]:
    for channels in (1, 40, 96, 384):
        yield f"{channels} channels", partial(norm_silu_problem, TOKENS, channels)


def group_norm_shapes() -> Iterator[tuple[str, Build]]:
    for clips, channels in ((1, 64), (3, 40)):
        yield f"{clips} x {channels} channels", partial(group_norm_problem, clips, TOKENS, channels)


def linear_shapes() -> Iterator[tuple[str, Build]]:
    for tokens, depth, columns, activation in ((1, 40, 72, None), (TOKENS, 256, 384, "gelu_tanh"), (7, 96, 33, "silu")):
        shape = f"{tokens} x {depth} to {columns}, {activation}"
        yield shape, partial(linear_problem, tokens, depth, columns, activation)
    yield "to a residual", partial(linear_problem, TOKENS, 72, 40, None, residual=True)


def quantized_shapes(build: Build) -> Iterator[tuple[str, Build]]:
    for tokens, depth, columns in ((1, 48, 80), (TOKENS, 256, 384)):
        yield f"{tokens} x {depth} to {columns}", partial(build, tokens, depth, columns, "gelu_tanh")


def conv_shapes() -> Iterator[tuple[str, Build]]:
    for kernel in ((3, 3, 3), (1, 3, 3), (3, 1, 1)):
        shape = f"{' x '.join(map(str, kernel))}, 24 to 40"
        yield shape, partial(conv_problem, (2, 7, 9), 24, 40, kernel)


SHAPES: dict[str, Callable[[], Iterator[tuple[str, Build]]]] = {
    "varlen_attention": attention_shapes,
    "varlen_attention_fp8": partial(attention_shapes, attention_fp8),
    "modulate": modulate_shapes,
    "gated_residual": gated_residual_shapes,
    "qk_norm_rope": rope_shapes,
    "guided_step": guided_step_shapes,
    "norm_silu": norm_silu_shapes,
    "group_norm_silu": group_norm_shapes,
    "linear": linear_shapes,
    "linear_int8": partial(quantized_shapes, linear_int8_problem),
    "linear_fp8": partial(quantized_shapes, linear_fp8_problem),
    "causal_conv3d": conv_shapes,
    "patchify": partial(patchify_shapes, patchify_problem),
    "unpatchify": partial(patchify_shapes, unpatchify_problem),
}
