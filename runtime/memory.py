"""What memory was used."""

from __future__ import annotations

import ctypes
import resource
import sys

import torch


def peak_bytes(device: torch.device) -> int:
    """The most memory held so far: PyTorch's on a GPU, this process's resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def reuse_freed_memory() -> bool:
    """From now on this process keeps the host memory that it frees, for its next tensors; whether that could be set.

    By default glibc maps every tensor over 32 MB anew, and the system then zeroes it page by page, which takes several
    times as long as an op that streams through it. For processes that compute; another C library is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
