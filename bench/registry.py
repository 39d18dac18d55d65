"""All that `packdit bench kernels` measures: every op on shapes of real models, at three scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from .attention import AttentionShape, attention
from .fp8 import attention_fp8, linear_fp8_problem
from .matrix import conv_problem, group_norm_problem, linear_int8_problem, linear_problem, norm_silu_problem
from .problem import Case, Problem
from .shapes import MATRIX_TOKENS, MODELS, PACKS, TOKENS, Model
from .streaming import (
    gated_residual_problem,
    guided_step_problem,
    modulate_problem,
    patchify_problem,
    rope_problem,
    unpatchify_problem,
)

Build = Callable[[torch.device], Problem]


def cases(scale: str, ops: set[str] | None = None) -> list[Case]:
    """Those of one of SCALES, of these ops or of all. ValueError for an op that is not known."""
    found = list(_all(scale))
    known = dict.fromkeys(case.op for case in found)
    unknown = sorted((ops or set()) - set(known))
    if unknown:
        raise ValueError(f"there is no op {unknown[0]!r}; known are {', '.join(known)}")
    return [case for case in found if ops is None or case.op in ops]


def _all(scale: str) -> Iterator[Case]:
    dtype = torch.bfloat16 if scale == "gpu" else torch.float32

    def case(op: str, shape: str, build: Callable[..., Problem], *args: object) -> Case:
        return Case(op=op, shape=shape, dtype=dtype, build=partial(_build, build, (*args, dtype)))

    for shape, made in attention_shapes(scale):
        yield Case(op="varlen_attention", shape=shape, dtype=dtype, build=partial(attention, made, dtype))
        if scale != "cpu" and not made.causal:
            yield Case(op="varlen_attention_fp8", shape=shape, dtype=dtype, build=partial(attention_fp8, made, dtype))
    for model, depth, columns, activation in products(scale):
        sizes = MATRIX_TOKENS[scale], depth, columns, activation
        shape = f"{model}, {depth} to {columns}{f', {activation}' if activation else ''}"
        yield case("linear", shape, linear_problem, *sizes)
        if scale != "gpu":
            yield case("linear_int8", shape, linear_int8_problem, *sizes)
        if scale != "cpu":
            yield case("linear_fp8", shape, linear_fp8_problem, *sizes)
            yield case("linear", f"{shape}, rows alone", partial(linear_problem, alone=True), *sizes)
        if columns < depth:
            yield case("linear", f"{shape}, to a residual", partial(linear_problem, residual=True), *sizes)
    for name, widths in models(scale):
        tokens, width = TOKENS[scale], widths.width
        shape = f"{name}, {tokens} x {width}"
        yield case("modulate", shape, modulate_problem, tokens, width, 8)
        yield case("gated_residual", shape, gated_residual_problem, tokens, width, 8)
        across = name.startswith("wan")
        yield case("qk_norm_rope", shape, rope_problem, tokens, widths, across, "interleaved")
    rows, channels = {"tiny": (24, 40), "cpu": (2**18, 96), "gpu": (2**22, 96)}[scale]
    yield case("norm_silu", f"Wan's decoder, {rows} x {channels}", norm_silu_problem, rows, channels)
    clips, positions, groups = {"tiny": (2, 24, 40), "cpu": (2, 2**16, 128), "gpu": (8, 2**17, 256)}[scale]
    yield case("group_norm_silu", f"{clips} x {positions} x {groups}", group_norm_problem, clips, positions, groups)
    yield case("guided_step", f"3 slots, {TOKENS[scale]} x 64", guided_step_problem, TOKENS[scale], 64, 3)
    grid = {"tiny": (2, 4, 6), "cpu": (21, 60, 104), "gpu": (21, 60, 104)}[scale]
    grids = [grid, (1, *grid[1:])] * {"tiny": 1, "cpu": 4, "gpu": 32}[scale]
    yield case("patchify", f"{len(grids)} clips and images", patchify_problem, grids, 16)
    yield case("unpatchify", f"{len(grids)} clips and images", unpatchify_problem, grids, 16)
    for size, width in convolutions(scale):
        shape = f"{' x '.join(map(str, size))}, {width} channels, 3 x 3 x 3"
        yield case("causal_conv3d", shape, conv_problem, size, width, width, (3, 3, 3))


def _build(build: Callable[..., Problem], args: tuple[object, ...], device: torch.device) -> Problem:
    return build(*args, device)


def models(scale: str) -> Iterator[tuple[str, Model]]:
    """Those whose widths ops on rows are measured with."""
    names = {"tiny": ["shapes"], "cpu": ["dit-384", "wan-1.3b", "wan-14b"], "gpu": ["wan-1.3b", "hunyuan", "wan-14b"]}
    return ((name, MODELS[name]) for name in names[scale])


def attention_shapes(scale: str) -> Iterator[tuple[str, AttentionShape]]:
    """Packs with the heads of real models; a cross-attention to text."""
    packs = PACKS[scale]

    def of(pack: str, heads: int, head_dim: int, causal: bool = False) -> tuple[str, AttentionShape]:
        shape = AttentionShape(lengths=packs[pack], heads=heads, head_dim=head_dim, causal=causal)
        return f"{'tiny ' * (scale == 'tiny')}{pack}, {heads} x {head_dim}{', causal' * causal}", shape

    yield of("clip", 12, 128) if scale != "gpu" else of("clip", 24, 128)
    yield of("mix", 8, 64) if scale != "gpu" else of("mix", 24, 128)
    yield of("images", 6, 64) if scale != "gpu" else of("images", 12, 128)
    yield of("clip", 12, 64, causal=True)
    if scale == "gpu":
        yield of("480p", 40, 128)
        yield of("clip", 24, 64)
        yield of("clip", 12, 256)
    else:
        yield of("mix", 6, 32)
    model, lengths = MODELS["wan-1.3b"], packs["clip"]
    text = 7 if scale == "tiny" else model.text
    shape = AttentionShape(
        lengths=lengths, heads=model.heads, head_dim=model.head_dim, key_lengths=(text,) * len(lengths)
    )
    yield f"clip to {text} text states, {model.heads} x {model.head_dim}", shape


def products(scale: str) -> Iterator[tuple[str, int, int, str | None]]:
    """(model, depth, columns, activation) of the matrix products of a block."""
    if scale == "cpu":
        yield "four times as wide", 1536, 6144, None
    for name, model in models(scale):
        if scale == "cpu" and name == "wan-14b":  # seconds a call
            continue
        yield name, model.width, 3 * model.width, None
        yield name, model.width, model.mlp, "gelu_tanh"
        yield name, model.mlp, model.width, None


def convolutions(scale: str) -> list[tuple[tuple[int, int, int], int]]:
    """((t, h, w), channels) of Wan's decoder, a latent frame's chunk at a time."""
    if scale == "tiny":
        return [((2, 5, 6), 8)]
    if scale == "cpu":
        return [((1, 30, 52), 384), ((4, 60, 104), 96)]
    return [((1, 60, 104), 384), ((2, 240, 416), 192), ((4, 480, 832), 96)]
