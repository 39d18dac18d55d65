"""One case: everybody's result is checked, then all whose result is accurate are timed in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from ..kernels.backend import BACKENDS
from .bars import BARS, Bar
from .ceilings import Ceilings, name
from .problem import Case, Judge, Make, Problem, compiled
from .rows import OpRow
from .timing import Times, interleaved

US = 1e6
OURS = "packdit "  # before the backend in a row's `by`


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """device; seconds of timing for each case; whether torch.compile is a peer; ceilings of this run."""

    device: torch.device
    ceilings: Ceilings
    seconds: float = 1.0
    compile: bool = False
    section: str = "kernels"


def backends_on(device: torch.device) -> list[str]:
    """Those of packdit's that could compute on such a device, the one that is held to the bars first."""
    fast = ("cpu",) if device.type == "cpu" else tuple(b for b in BACKENDS if b not in ("cpu", "reference"))
    return [*fast, "reference"]


def measure(case: Case, how: How) -> Iterator[OpRow]:
    """A row for each of packdit's backends and each peer, then one for each bar.

    The reference is the first of packdit's only where there is no other. Errors of a peer are its row's note.
    """
    problem = case.build(how.device)
    judge = Judge(problem, case.dtype)
    start = OpRow(
        section=how.section,
        op=case.op,
        shape=case.shape,
        dtype=name(case.dtype),
        by="",
        outcome="ok",
        allowed=judge.allowed,
        flops=float(problem.flops),
        moved=float(problem.moved),
    )
    rows, calls = [], dict[str, Callable[[], object]]()
    for who, make, note in contenders(problem, how):
        row = judged(judge, make, replace(start, by=who, note=note))
        rows.append(row)
        if row.outcome == "ok":
            calls[who] = make
    times = interleaved(calls, how.device, how.seconds)
    ours = next((times[row.by] for row in rows if row.by.startswith(OURS) and row.by in times), None)
    rows = [timed(row, times[row.by], ours, how.ceilings) if row.by in times else row for row in rows]
    if problem.limit is not None:  # the ceilings are of the dtype of the inputs, not of what they are quantized to
        rows = [replace(row, share=None) for row in rows]
    yield from rows
    yield from judged_bars(case, how.device, rows)


def contenders(problem: Problem, how: How) -> Iterator[tuple[str, Make, str]]:
    """By name, with a note. packdit's reference only where none of its kernels takes the problem: it is what `exact` is
    made of."""
    count = 0
    for backend in backends_on(how.device):
        if backend == "reference" and count:
            continue
        make: Make = lambda backend=backend: problem.run(backend)  # type: ignore[misc]  # noqa: E731
        if not refuses(make):
            count += 1
            yield OURS + backend, make, ""
    for who, make in problem.peers.items():
        yield who, make, ""
    if how.compile and (problem.compiled or "eager" in problem.peers):
        make = problem.compiled() if problem.compiled else compiled(problem.peers["eager"])
        start = time.perf_counter()
        reason = refuses(make)
        yield "compile", make, reason or f"compiled in {time.perf_counter() - start:.1f} s"


def refuses(make: Make) -> str:
    """Why a backend cannot run its problem; empty where it can. What else it may raise is a failure, found later."""
    try:
        with torch.inference_mode():
            make()
    except ValueError as error:
        return str(error)
    except Exception:
        return ""
    return ""


def judged(judge: Judge, make: Make, row: OpRow) -> OpRow:
    """The row with its error; "failed" with the reason where it raises."""
    try:
        error = judge.error(make)
    except Exception as reason:
        return replace(row, outcome="failed", note=one_line(reason))
    return replace(row, outcome="ok" if error <= judge.allowed else "wrong", error=error)


def one_line(error: BaseException) -> str:
    """What went wrong, short."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else text[:197] + "..."


def timed(row: OpRow, times: Times, ours: Times | None, ceilings: Ceilings) -> OpRow:
    """The row with its times, its rate and its share of the ceiling, in the unit of what bounds the task."""
    assert row.flops is not None
    assert row.moved is not None
    floor, bound = ceilings.floor(row.flops, row.moved, row.dtype)
    amount, unit = (row.flops / 1e12, "TFLOP/s") if bound == "operations" else (row.moved / 1e9, "GB/s")
    return replace(
        row,
        p20_us=times.p20 * US,
        p50_us=times.p50 * US,
        p80_us=times.p80 * US,
        rate=amount / times.p50,
        unit=unit,
        share=floor / times.p50,
        ratio=None if ours is None else times.p50 / ours.p50,
    )


def judged_bars(case: Case, device: torch.device, rows: list[OpRow]) -> Iterator[OpRow]:
    """A row for each bar of this case that this run can speak to: `ratio` or `rate` is what was reached."""
    ours = next((row for row in rows if row.by.startswith(OURS)), None)
    for bar in BARS:
        if (bar.op, bar.shape, bar.dtype, bar.device) != (case.op, case.shape, case.dtype, device.type):
            continue
        reached = None if ours is None or ours.p50_us is None else reach(bar, ours, rows)
        if ours is None or reached is None:
            continue
        yield OpRow(
            section=ours.section,
            op=ours.op,
            shape=ours.shape,
            dtype=ours.dtype,
            by=ours.by,
            outcome="met" if reached >= bar.at_least else "missed",
            bar=bar.describe(),
            note=f"reached {reached:.3g}",
        )


def reach(bar: Bar, ours: OpRow, rows: list[OpRow]) -> float | None:
    """How far this run got towards a bar; None where the peer was not there."""
    if bar.against == "TFLOP/s":
        return ours.rate
    if bar.against == "ceiling":
        return ours.share
    peers = {row.by: row.ratio for row in rows if not row.by.startswith(OURS) and row.ratio is not None}
    return min(peers.values(), default=None) if bar.against == "peers" else peers.get(bar.against)
