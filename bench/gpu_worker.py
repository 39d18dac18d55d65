"""One section of `make gpu-check`, in a process of its own: a kernel that hangs or corrupts the device's context ends
this process and not the others.

Prints a JSON object a line: {"at": index, "item": name} before each item, {"row": {...}}, {"ceilings": {...}}, and at
the end {"done": true}. What items print goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from .measure import one_line
from .rows import OpRow
from .sections import Section, ceilings, sections

BROKEN = 3  # exit code: the device's context cannot be used any more


def work(section: Section, device: torch.device, skip: int, say: Callable[[dict[str, Any]], None]) -> bool:
    """Runs the items from `skip` on, until the section's time is over; False where the device is left broken."""
    end = time.monotonic() + section.seconds
    for index, (item, rows) in enumerate(section.items(device)):
        if index < skip:
            continue
        say({"at": index, "item": item})
        if time.monotonic() > end:
            say({"row": asdict(verdict(section, item, "skipped", "no time was left"))})
            continue
        try:
            for row in rows():
                say({"row": asdict(row)})
        except Exception as error:
            say({"row": asdict(verdict(section, item, "failed", one_line(error)))})
            if not usable(device):
                return False
    if section.alone:
        say({"ceilings": asdict(ceilings(device))})
    say({"done": True})
    return True


def verdict(section: Section, item: str, outcome: str, note: str) -> OpRow:
    """What became of an item that gave no row of its own."""
    return OpRow(section=section.name, op=item, shape="", dtype="", by="packdit", outcome=outcome, note=note)


def usable(device: torch.device) -> bool:
    """Whether the device still computes: some errors of kernels stay with the process for good."""
    try:
        torch.ones(1, device=device).item()
    except Exception:  # whatever it is, nothing can be computed
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("section")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--sweep", default="")
    given = parser.parse_args()
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    (section,) = (found for found in sections(given.sweep) if found.name == given.section)
    with torch.inference_mode():
        return 0 if work(section, torch.device(given.device), given.skip, say) else BROKEN


if __name__ == "__main__":
    sys.exit(main())
