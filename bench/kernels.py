"""`packdit bench kernels`: every op on shapes of real models, checked, then timed against ceilings and peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..kernels import flash
from ..runtime.memory import reuse_freed_memory
from . import facts
from .ceilings import measure as measure_ceilings
from .measure import How, measure
from .plot import roofline
from .registry import cases
from .rows import OpRow, Table, write_json
from .show import accurate, show, summarize


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
    if options.device.type == "cuda":
        missing = [(name, reason) for name, reason in flash.found().items() if reason != "ok"]
        say("".join(f"peer {name} is not here: {reason}\n" for name, reason in missing))
    how = How(device=options.device, ceilings=ceilings, seconds=options.seconds, compile=options.compile)
    with Table(OpRow, found, options.csv) as table:
        for case in chosen:
            found_here = list(measure(case, how))
            for row in found_here:
                table.add(row)
            show(found_here, say)
    summarize(table.rows, say)
    if options.json:
        write_json(options.json, found, table.rows, ceilings=asdict(ceilings))
    if options.plot:
        roofline(options.plot, table.rows, ceilings, found)
    return accurate(table.rows)
