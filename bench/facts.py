"""Where a measurement comes from: machine, versions, commit, date. Every row carries these."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from ..runtime.info import cpu_model, instruction_sets

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One run's. machine: the GPU's name, or the processor's with the instruction set that the C++ kernels use."""

    date: str
    commit: str
    machine: str
    threads: int
    packdit: str
    python: str
    torch: str
    triton: str


def gather(device: torch.device, commit: str = "") -> Facts:
    """The facts of this process on `device`; commit "" asks git."""
    return Facts(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        commit=commit or find_commit(),
        machine=machine(device),
        threads=torch.get_num_threads(),
        packdit=version("packdit"),
        python=platform.python_version(),
        torch=torch.__version__,
        triton=version("triton") if find_spec("triton") else "",
    )


def machine(device: torch.device) -> str:
    """What computes, by name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_model()}, {instruction_sets()['used'] or 'C++ kernels not built'}"


def find_commit() -> str:
    """The checkout's commit, with "+" where files differ from it; "unknown" without git or outside of a checkout."""
    try:
        commit, changes = (
            subprocess.run(["git", "-C", ROOT, *command], check=True, capture_output=True, text=True).stdout.strip()
            for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + "+" * bool(changes)
