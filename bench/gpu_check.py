"""`make gpu-check`: all that needs a GPU, in at most eight minutes and a handful of files.

Sections run in processes of their own (see sections.py); a row is on the disk as soon as it is known, so a run that is
cut short keeps what it has. Files: gpu.csv, report.md, roofline.png where matplotlib is there, log.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..kernels.backend import interpreted
from . import facts
from .ceilings import Ceilings
from .gpu_worker import verdict
from .plot import roofline
from .report import report
from .rows import OpRow, Table
from .sections import Section, sections

MINUTES = 8.0
LAST_SECONDS = 15.0  # for the report and the picture
MAX_RESTARTS = 3  # of a section whose process broke

Command = Callable[[Section, int], Sequence[str]]


@dataclass(kw_only=True, eq=False)
class Check:
    """A run: where its rows go and when it must end (of time.monotonic). seconds: what each section took."""

    table: Table
    end: float
    command: Command
    log: Path
    seconds: dict[str, float] = field(default_factory=dict)
    ceilings: Ceilings | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, sections: Sequence[Section]) -> None:
        """Those that may run together first, then the others one by one."""
        together = [section for section in sections if not section.alone]
        with ThreadPoolExecutor(max(len(together), 1)) as pool:
            list(pool.map(self.section, together))
        for section in sections:
            if section.alone:
                self.section(section)

    def section(self, section: Section) -> None:
        """One, within its time and the run's; what breaks its process does not end it."""
        start = time.monotonic()
        end = min(start + section.seconds, self.end)
        skip, item = 0, "start"
        for _ in range(MAX_RESTARTS + 1):
            skip, item, code = self.process(section, skip, end)
            if code == 0:
                break
            if time.monotonic() >= end:
                self.add(verdict(section, item, "skipped", "stopped: the section's time was over"))
                break
            self.add(verdict(section, item, "failed", f"its process ended with code {code}"))
        self.seconds[section.name] = time.monotonic() - start

    def process(self, section: Section, skip: int, end: float) -> tuple[int, str, int]:
        """One process, until it ends or is stopped: the item after the one that it was at, that one's name, the code;
        0 only where all was done."""
        item, done = "start", False
        left = end - time.monotonic()
        if left <= 0:
            return skip, "all", 1
        with (
            self.log.open("a", encoding="utf-8") as log,
            subprocess.Popen(
                self.command(section, skip), stdout=subprocess.PIPE, stderr=log, text=True, env=environment(section)
            ) as process,
        ):
            assert process.stdout is not None
            alarm = threading.Timer(left, process.kill)
            alarm.start()
            for line in process.stdout:
                message = json.loads(line)
                done = done or "done" in message
                if "at" in message:
                    skip, item = message["at"] + 1, message["item"]
                self.take(message)
            code = process.wait()
            alarm.cancel()
        return skip, item, 0 if done else code or 1

    def take(self, message: dict[str, Any]) -> None:
        if "row" in message:
            self.add(OpRow(**message["row"]))
        if "ceilings" in message:
            self.ceilings = Ceilings(**message["ceilings"])

    def add(self, row: OpRow) -> None:
        with self.lock:
            self.table.add(row)


def environment(section: Section) -> dict[str, str]:
    """Of its process: those that run together keep off each other's processors."""
    return {**os.environ, **({} if section.alone else {"OMP_NUM_THREADS": "1"})}


def worker(device: str, sweep: str) -> Command:
    """The command of a section's process."""

    def command(section: Section, skip: int) -> Sequence[str]:
        here = [sys.executable, "-P", "-m", "packdit.bench.gpu_worker", section.name]
        return [*here, "--device", device, "--skip", str(skip), "--sweep", sweep]

    return command


def why_not(device: str) -> str:
    """In one sentence why nothing can be checked here; empty where it can."""
    if interpreted():
        return "gpu-check does not interpret: unset TRITON_INTERPRET."
    if device == "cuda" and not torch.cuda.is_available():
        return f"gpu-check needs a GPU, and PyTorch {torch.__version__} finds none here."
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where everything was accurate, 1 where something was not, 2 where nothing could be checked."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="the directory to write")
    parser.add_argument("--commit", default="", help="the commit to name in the rows; by default git is asked")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a dry run on small shapes")
    parser.add_argument("--sweep", default="", metavar="OP", help="only time every candidate of this op's kernels")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the sections whose name has this in it")
    given = parser.parse_args(arguments)
    if reason := why_not(given.device):
        print(reason, file=sys.stderr)
        return 2
    start = time.monotonic()
    chosen = [section for section in sections(given.sweep) if given.only in section.name]
    given.out.mkdir(parents=True, exist_ok=True)
    log = given.out / "log.txt"
    log.write_text("", encoding="utf-8")
    found = facts.gather(torch.device(given.device), given.commit)
    with Table(OpRow, found, given.out / "gpu.csv") as table:
        check = Check(
            table=table, end=start + 60 * MINUTES - LAST_SECONDS, command=worker(given.device, given.sweep), log=log
        )
        check.run(chosen)
    text = report(table.rows, found, check.seconds, check.ceilings)
    (given.out / "report.md").write_text(text, encoding="utf-8")
    if check.ceilings is not None:
        roofline(given.out / "roofline.png", table.rows, check.ceilings, found)
    print(text)
    print(f"{time.monotonic() - start:.0f} s; all of it is in {given.out}{os.sep}")
    return int(any(row.outcome in ("wrong", "failed") for row in table.rows))


if __name__ == "__main__":
    sys.exit(main())
