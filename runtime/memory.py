"""What memory was used, and what there is."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import torch


def peak_bytes(device: torch.device) -> int:
    """The most memory held so far: PyTorch's on a GPU, this process's resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_bytes(device: torch.device) -> int:
    """The memory that new tensors can have now: a GPU's, or what Linux says is available; elsewhere no limit."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return sys.maxsize
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), sys.maxsize)


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def reuse_freed_memory() -> bool:
    """From now on this process keeps the host memory that it frees, for its next tensors; whether that could be set.

    By default glibc maps every tensor over 32 MB anew, and the system then zeroes it page by page, which takes several
    times as long as an op that streams through it. For processes that compute; another C library is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
