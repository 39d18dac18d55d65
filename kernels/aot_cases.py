"""What the compile gate of aot.py compiles: launches of every Triton kernel at the widths of real models."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .fp8 import E4M3
from .gated_residual import Residual
from .triton_attention import AttentionKey, Tiles, candidates, launch_attention
from .triton_attention_fp8 import launch_attention_fp8
from .triton_fp8 import launch_round_rows
from .triton_guided_step import launch_guided_step
from .triton_linear import launch_linear
from .triton_patchify import launch_patchify, launch_unpatchify
from .triton_qk_norm_rope import launch_norm_rope
from .triton_rows import launch_modulate, launch_norm_silu
from .tuning import Trial, invariant
from .varlen_attention import QUERY_BLOCK

HALF = torch.bfloat16
WIDTH, HEADS, TOKENS = 3072, 4, 64
HEAD_DIMS = (32, 64, 72, 80, 96, 128, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A launch and what the gate expects: which kernels multiply matrices (of e4m3 where fp8), which may load or store
    in narrow pieces, and on which GPUs."""

    launch: Callable[[], object]
    multiplies: tuple[str, ...] = ()
    narrow_loads: tuple[str, ...] = ()
    narrow_stores: tuple[str, ...] = ()
    fp8: bool = False
    archs: tuple[int, ...] = (80, 90, 100, 120)


def heads(dtype: torch.dtype, head_dim: int) -> tuple[torch.Tensor, ...]:
    """q, k, v as views of a fused projection, offsets and a work table."""
    offsets, work = torch.zeros(2, dtype=torch.int32), torch.zeros(1, 2, dtype=torch.int32)
    return *torch.empty(TOKENS, 3, HEADS, head_dim, dtype=dtype).unbind(1), offsets, work


def attention(dtype: torch.dtype, head_dim: int, causal: bool, biased: bool = False) -> None:
    q, k, v, offsets, work = heads(dtype, head_dim)
    launch_attention(q, k, v, offsets, offsets, work, causal, 1.0, torch.empty(TOKENS) if biased else None, QUERY_BLOCK)


def attention_candidate(key: AttentionKey, cut: Tiles) -> None:
    with Trial(kernel="attention", key=key, config=cut, chosen=False).applied():
        attention(key.dtype, key.head_dim, key.causal)


def attention_fp8(head_dim: int) -> None:
    q, k, v, offsets, work = heads(HALF, head_dim)
    launch_attention_fp8(q, k, v, offsets, offsets, work, work, 1.0)


def linear(dtype: torch.dtype, activation: str | None, gated: bool, depth_last: bool = True) -> None:
    out = HALF if dtype == E4M3 else dtype
    x, table = torch.empty(TOKENS, WIDTH, dtype=dtype), torch.empty(4, WIDTH, dtype=out)
    weight = torch.empty(WIDTH, WIDTH, dtype=dtype)
    row, before = torch.zeros(TOKENS, dtype=torch.int32), torch.empty(TOKENS, WIDTH, dtype=out)
    scales = (torch.empty(TOKENS), torch.empty(WIDTH)) if dtype == E4M3 else None
    residual = Residual(x=before, gate=table, row=row) if gated else None
    with invariant():  # no library
        launch_linear(x, weight if depth_last else weight.t(), table[0], activation, residual, scales, out)


def rope(layout: str, across_heads: bool) -> None:
    q, angles = torch.empty(TOKENS, 3, 24, 128, dtype=HALF)[:, 0], torch.empty(TOKENS, 64)
    weight = torch.empty(WIDTH if across_heads else 128, dtype=HALF)
    launch_norm_rope(q, angles, angles, weight, "rms", across_heads, layout, 1e-6)


def rows(gated: bool) -> None:
    x, table = torch.empty(TOKENS, WIDTH, dtype=HALF), torch.empty(4, 3 * WIDTH, dtype=HALF).chunk(3, 1)
    row = torch.zeros(TOKENS, dtype=torch.int32)
    more = {"y": x, "gate": table[2]} if gated else {}
    launch_modulate(x, row, table[0], table[1], "layer", 1e-6, **more)


def norm_silu() -> None:
    weight = torch.empty(96, dtype=HALF)
    launch_norm_silu(torch.empty(TOKENS, 96, dtype=HALF), weight, weight, "rms", True, 1e-6)


def guided_step() -> None:
    index = torch.zeros(TOKENS, dtype=torch.int32)
    state, out = torch.empty(3, TOKENS, 64), torch.empty(TOKENS, 64, dtype=HALF)
    launch_guided_step(state, out, index, index, torch.empty(4), torch.empty(4, 3, 4), index)


def patches() -> None:
    launch_patchify([torch.empty(16, 2, 4, 6, dtype=HALF)], [1, 2, 2])


def clips() -> None:
    launch_unpatchify(torch.empty(12, 64, dtype=HALF), [(2, 4, 6)], [1, 2, 2])


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


ATTENTION = ("attention_kernel",)
FP8_ARCHS = (90, 100, 120)
HOPPER = AttentionKey(arch=90, dtype=HALF, head_dim=128, causal=False, biased=False)
LINEARS: dict[str, dict[str, Any]] = {
    "bias": {"activation": None, "gated": False},
    "gelu_tanh": {"activation": "gelu_tanh", "gated": False},
    "gelu depth first": {"activation": "gelu", "gated": False, "depth_last": False},
    "residual": {"activation": None, "gated": True},
}

CASES: dict[str, Case] = {
    "modulate": Case(launch=partial(rows, False)),
    "gated_residual": Case(launch=partial(rows, True)),
    "norm_silu": Case(launch=norm_silu),
    "guided_step": Case(launch=guided_step),
    "round_rows": Case(launch=partial(launch_round_rows, torch.empty(TOKENS, WIDTH, dtype=HALF)), archs=FP8_ARCHS),
    "patchify": Case(launch=patches, narrow_loads=("patchify_kernel",)),
    "unpatchify": Case(launch=clips, narrow_loads=("unpatchify_kernel",)),
    **{
        f"qk_norm_rope {layout}{' across' * across}": Case(launch=partial(rope, layout, across))
        for layout in ("interleaved", "half")
        for across in (False, True)
    },
    **{
        f"attention {name(dtype)} {dim}{' causal' * causal}": Case(
            launch=partial(attention, dtype, dim, causal), multiplies=() if dtype == torch.float32 else ATTENTION
        )
        for dtype in (HALF, torch.float32)
        for dim in HEAD_DIMS
        for causal in (False, True)
    },
    **{
        f"attention float16 128{' causal' * causal}": Case(
            launch=partial(attention, torch.float16, 128, causal), multiplies=ATTENTION
        )
        for causal in (False, True)
    },
    **{
        f"attention bfloat16 {dim} bias": Case(launch=partial(attention, HALF, dim, False, True), multiplies=ATTENTION)
        for dim in HEAD_DIMS
    },
    **{
        f"attention bfloat16 128 {cut.fetch} {cut.block_n} keys, {cut.num_stages} stages": Case(
            launch=partial(attention_candidate, HOPPER, cut), multiplies=("attention_tma_kernel",), archs=(90,)
        )
        for cut in candidates(HOPPER)
        if cut.fetch != "pointers"
    },
    **{
        f"attention fp8 {dim}": Case(
            launch=partial(attention_fp8, dim),
            multiplies=("attention_fp8_kernel",),
            narrow_stores=("value_peaks_kernel",),
            fp8=True,
            archs=FP8_ARCHS,
        )
        for dim in HEAD_DIMS
    },
    **{
        f"linear {name(dtype)} {kind}": Case(
            launch=partial(linear, dtype, **call), multiplies=() if dtype == torch.float32 else ("linear_kernel",)
        )
        for dtype in (HALF, torch.float16, torch.float32)
        for kind, call in LINEARS.items()
    },
    **{
        f"linear fp8 {kind}": Case(
            launch=partial(linear, E4M3, **call), multiplies=("linear_kernel",), fp8=True, archs=FP8_ARCHS
        )
        for kind, call in LINEARS.items()
        if kind in ("gelu_tanh", "residual")
    },
}
