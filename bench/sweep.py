"""Every candidate of a Triton kernel's tuning on the shapes of real models: checked, then timed in turns.

The rows are why `kernels/triton_*.py` choose what they choose: of a kernel and key, the candidate that is best over the
shapes. ratio is its time over that of the rule's present choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from ..kernels.backend import available
from ..kernels.tuning import Trial, trials
from .ceilings import Ceilings, name
from .measure import judged, timed
from .problem import Case, Judge, Problem, Results
from .rows import OpRow
from .timing import interleaved


def sweep(
    section: str, case: Case, device: torch.device, ceilings: Callable[[], Ceilings], seconds: float
) -> Iterator[OpRow]:
    """A row for each candidate; its note names kernel, key and config."""
    start = OpRow(section=section, op=case.op, shape=case.shape, dtype=name(case.dtype), by="triton", outcome="ok")
    reason = available()["triton"]
    if reason != "ok":
        yield replace(start, outcome="skipped", note=reason)
        return
    problem = case.build(device)
    judge = Judge(problem, case.dtype)
    start = replace(start, allowed=judge.allowed, flops=float(problem.flops), moved=float(problem.moved))
    rows, calls = list[OpRow](), dict[str, Callable[[], Results]]()
    for trial in trials(lambda: problem.run("triton")):
        call = under(trial, problem)
        note = f"{trial.kernel}, {trial.key}: {trial.config}{', chosen' * trial.chosen}"
        row = judged(judge, call, replace(start, note=note))
        rows.append(row if row.outcome != "failed" else replace(row, note=f"{note}: {row.note}"))
        if row.outcome == "ok":
            calls[note] = call
    times = interleaved(calls, device, seconds * max(len(calls), 1) / 4)
    chosen = next((times[note] for note in calls if note.endswith(", chosen")), None)
    for row in rows:
        yield timed(row, times[row.note], chosen, ceilings()) if row.note in times else row


def under(trial: Trial, problem: Problem) -> Callable[[], Results]:
    """The op as the trial has it."""

    def call() -> Results:
        with trial.applied():
            return problem.run("triton")

    return call
