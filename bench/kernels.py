"""`packdit bench kernels`: every op on shapes of real models, checked, then timed against ceilings and peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..runtime.memory import reuse_freed_memory
from . import attention, facts
from .ceilings import measure as measure_ceilings
from .ceilings import name as dtype_name
from .measure import How, measure
from .plot import roofline
from .registry import cases
from .rows import OpRow, Table, as_text, fault, write_json

HEADER = ("by", "p20 us", "p50 us", "p80 us", "rate", "", "of ceiling", "/ packdit", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """ops: some, or all where it is empty. scale: "cpu" or "gpu" after the device, "tiny" for tests."""

    device: torch.device
    ops: tuple[str, ...] = ()
    scale: str = ""
    seconds: float = 1.0
    compile: bool = True
    commit: str = ""
    csv: Path | None = None
    json: Path | None = None
    plot: Path | None = None


def run(options: Options, say: Callable[[str], None]) -> bool:
    """Measures and writes what is asked for; `say` takes lines for a person. Whether all results of packdit's were
    accurate; peers and bars do not count."""
    reuse_freed_memory()  # else the system's page faults are timed, of packdit's outputs as of the peers'
    scale = options.scale or ("gpu" if options.device.type == "cuda" else "cpu")
    chosen = cases(scale, set(options.ops) or None)
    found = facts.gather(options.device, options.commit)
    say(f"{found.machine}; {found.threads} threads; torch {found.torch}; commit {found.commit}; {found.date} UTC")
    dtypes = list(dict.fromkeys(case.dtype for case in chosen))
    ceilings = measure_ceilings(options.device, dtypes, 1.0 if scale != "tiny" else 2**-10)
    say(f"ceilings of this run: {ceilings.describe()}")
    for name in attention.LIBRARIES:
        if options.device.type == "cuda" and (reason := attention.missing(name)):
            say(f"peer {name} is not here: {reason}")
    how = How(device=options.device, ceilings=ceilings, seconds=options.seconds, compile=options.compile)
    with Table(OpRow, found, options.csv) as table:
        for case in chosen:
            say(f"{case.op}, {case.shape}, {dtype_name(case.dtype)}")
            before = len(table.rows)
            for row in measure(case, how):
                table.add(row)
            found_here = table.rows[before:]
            say(as_text(HEADER, [line(row) for row in found_here if not row.bar]))
            say("".join(f"{describe_bar(row)}\n" for row in found_here if row.bar))
    summarize(table.rows, say)
    if options.json:
        write_json(options.json, found, table.rows, ceilings=asdict(ceilings))
    if options.plot:
        roofline(options.plot, table.rows, ceilings, found)
    return not any(row.by.startswith("packdit") and row.outcome in ("wrong", "failed") for row in table.rows)


def line(row: OpRow) -> tuple[object, ...]:
    """A row for HEADER."""
    share = None if row.share is None else f"{100 * row.share:.0f} %"
    result = row.note if row.outcome == "ok" else fault(row)
    return (row.by, row.p20_us, row.p50_us, row.p80_us, row.rate, row.unit, share, row.ratio, result)


def describe_bar(row: OpRow) -> str:
    """What was promised and what was reached."""
    return f"{row.outcome}: {row.op}, {row.shape}: {row.bar}; {row.note}"


def summarize(rows: list[OpRow], say: Callable[[str], None]) -> None:
    """What matters most, last."""
    for row in rows:
        if row.outcome in ("wrong", "failed"):
            say(f"{row.op}, {row.shape}, {row.by}: {fault(row)}")
    bars = [row for row in rows if row.bar]
    for row in bars:
        say(describe_bar(row))
    if bars:
        say(f"{sum(row.outcome == 'met' for row in bars)} of {len(bars)} bars met")
