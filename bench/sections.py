"""What `make gpu-check` does, in the order of its value: sections of items, each of which gives rows.

To add a section, append one: it needs a name, a limit in seconds, and a function of a device that yields items. Those
of one wave run at the same time, each in a process of its own; the sections with `alone` run by themselves, after
them, because they measure time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch

from . import checks, model_checks, ragged, registry
from .ceilings import Ceilings
from .ceilings import measure as measure_ceilings
from .measure import How, measure
from .problem import Case
from .rows import OpRow
from .sweep import sweep

Item = tuple[str, Callable[[], Iterable[OpRow]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """seconds: after which it is stopped."""

    name: str
    seconds: float
    items: Callable[[torch.device], Iterator[Item]]
    alone: bool = False


def accuracy(name: str, ops: tuple[str, ...], dtype: torch.dtype, device: torch.device) -> Iterator[Item]:
    for op in ops:
        for case in ragged.cases(op, dtype):
            yield f"{op}, {case.shape}", partial(checks.accuracy, name, case, device)


def models(name: str, device: torch.device) -> Iterator[Item]:
    for dtype in model_checks.dtypes_on(device):
        yield f"the transformer that ships, {dtype}", partial(model_checks.shipped, name, dtype, device)
        yield f"the engine, {dtype}", partial(model_checks.engine, name, dtype, device)


def families(name: str, device: torch.device) -> Iterator[Item]:
    for dtype in model_checks.dtypes_on(device)[::-1]:
        for family in model_checks.families():
            yield f"{family}, {dtype}", partial(model_checks.family, name, family, dtype, device)


def invariance(name: str, device: torch.device) -> Iterator[Item]:
    for dtype in (torch.bfloat16, torch.float32):
        for op in checks.COMPANY_OPS:
            yield f"{op}, {dtype}", partial(checks.invariance, name, op, dtype, device)


def one_of_each() -> Iterator[Case]:
    """The first ragged case of every op, in bfloat16."""
    return (next(ragged.cases(op, torch.bfloat16)) for op in ragged.SHAPES)


def graphs(name: str, device: torch.device) -> Iterator[Item]:
    if device.type != "cuda":
        yield "all", partial(skipped, name, device, "there are no CUDA graphs on a CPU")
        return
    for case in one_of_each():
        yield case.op, partial(checks.graph, name, case, device)


def memory(name: str, device: torch.device) -> Iterator[Item]:
    if device.type != "cuda":
        yield "all", partial(skipped, name, device, "a CPU's allocator does not count")
        return
    yield "engine", partial(model_checks.engine_memory, name, device)
    for case in one_of_each():
        yield case.op, partial(checks.memory, name, case, device)


def skipped(name: str, device: torch.device, why: str) -> list[OpRow]:
    return [OpRow(section=name, op="all", shape="", dtype="", by=str(device), outcome="skipped", note=why)]


def timing(
    name: str, ops: tuple[str, ...], device: torch.device, *, compiled: bool = False, only: str = ""
) -> Iterator[Item]:
    scale = "gpu" if device.type == "cuda" else "tiny"
    for case in registry.cases(scale, set(ops)):
        if case.shape.startswith(only):
            yield f"{case.op}, {case.shape}", partial(timed, name, case, device, compiled)


def timed(name: str, case: Case, device: torch.device, compiled: bool) -> Iterator[OpRow]:
    seconds = 1.0 if device.type == "cuda" else 0.01
    how = How(device=device, ceilings=ceilings(device), seconds=seconds, compile=compiled, section=name)
    return measure(case, how)


@cache
def ceilings(device: torch.device) -> Ceilings:
    """Of this process."""
    if device.type == "cuda":
        return measure_ceilings(device, [torch.bfloat16])
    return measure_ceilings(device, [torch.float32], 2**-10)


ROWS = ("modulate", "gated_residual", "qk_norm_rope", "guided_step", "norm_silu", "group_norm_silu")
MATRIX = ("linear", "causal_conv3d")
FP8 = ("varlen_attention_fp8", "linear_fp8")
MOVES = ("patchify", "unpatchify")
HALF = torch.bfloat16


def section(
    name: str, seconds: float, items: Callable[..., Iterator[Item]], *args: object, alone: bool = False
) -> Section:
    return Section(name=name, seconds=seconds, items=partial(items, name, *args), alone=alone)


def sweep_items(name: str, op: str, device: torch.device) -> Iterator[Item]:
    scale = "gpu" if device.type == "cuda" else "tiny"
    for case in registry.cases(scale, {op}):
        yield case.shape, partial(sweep, name, case, device, partial(ceilings, device), 1.0)


def sections(sweep_of: str = "") -> tuple[Section, ...]:
    """All, or only the sweep of the kernels of one op. ValueError for an op that is not known."""
    if not sweep_of:
        return SECTIONS
    registry.cases("tiny", {sweep_of})
    return (section(f"sweep of {sweep_of}", 420, sweep_items, sweep_of, alone=True),)


SECTIONS = (
    section("attention, bfloat16", 130, accuracy, ("varlen_attention",), HALF),
    section("attention, float32", 130, accuracy, ("varlen_attention",), torch.float32),
    section("attention, float16", 130, accuracy, ("varlen_attention",), torch.float16),
    section("rows, bfloat16", 130, accuracy, (*ROWS, *MOVES), HALF),
    section("rows, float32", 130, accuracy, (*ROWS, *MOVES), torch.float32),
    section("rows, float16", 130, accuracy, (*ROWS, *MOVES), torch.float16),
    section("matrix, bfloat16", 130, accuracy, MATRIX, HALF),
    section("matrix, float32", 130, accuracy, MATRIX, torch.float32),
    section("fp8", 130, accuracy, FP8, HALF),
    section("models", 130, models),
    section("families", 130, families),
    section("invariance", 130, invariance),
    section("graphs", 130, graphs),
    section("memory", 130, memory),
    section("times of attention", 90, timing, ("varlen_attention",), alone=True),
    section("times of fp8", 60, timing, FP8, alone=True),
    section("times of rows", 50, timing, (*ROWS, *MOVES), alone=True),
    section("times of matrices", 50, timing, MATRIX, alone=True),
    section("times with torch.compile", 50, partial(timing, compiled=True, only="wan-1.3b"), ROWS[:3], alone=True),
)
