"""What the machine can do at best, measured in the same run as what is compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from ..kernels.backend import native
from .timing import interleaved

COPY_BYTES = {"cpu": 256 * 2**20, "cuda": 2**31}  # far beyond the caches
GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """copy: bytes a second, read and written, of a large copy. gemm: operations a second of a large square product of
    PyTorch's, by dtype. peak: of fused multiply-adds in registers, float32 (0 on a GPU)."""

    copy: float
    gemm: Mapping[str, float]
    peak: float = 0.0

    def operations(self, dtype: str) -> float:
        """Operations a second at best: on a CPU the peak, on a GPU what the library's product reaches."""
        return self.peak or self.gemm[dtype]

    def floor(self, flops: float, moved: float, dtype: str) -> tuple[float, str]:
        """The least seconds for a task, and what bounds it: "operations" or "bytes"."""
        by_operations, by_bytes = flops / self.operations(dtype), moved / self.copy
        return (by_operations, "operations") if by_operations > by_bytes else (by_bytes, "bytes")

    def describe(self) -> str:
        """For a person, on one line."""
        parts = [f"copy {self.copy / 1e9:.1f} GB/s"]
        parts += [f"{dtype} product {rate / 1e12:.3g} TFLOP/s" for dtype, rate in self.gemm.items()]
        if self.peak:
            parts.append(f"float32 FMA peak {self.peak / 1e12:.3g} TFLOP/s")
        return ", ".join(parts)


def measure(device: torch.device, dtypes: list[torch.dtype], scale: float = 1.0) -> Ceilings:
    """Takes about a second for the copy and each dtype; `scale` below 1 takes smaller tensors, for tests."""
    seconds = SECONDS * scale
    copy = copy_rate(device, int(COPY_BYTES[device.type] * scale), seconds)
    size = max(int(GEMM_SIZE[device.type] * scale), 16)
    gemm = {}
    for dtype in dtypes:
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        gemm[name(dtype)] = 2 * size**3 / interleaved({"gemm": partial(torch.mm, a, b)}, device, seconds)["gemm"].p50
    peak = native().fma_peak(torch.get_num_threads()) if device.type == "cpu" else 0.0
    return Ceilings(copy=copy, gemm=gemm, peak=peak)


def copy_rate(device: torch.device, num_bytes: int, seconds: float) -> float:
    """Bytes read and written a second by PyTorch's copy between tensors of half of num_bytes each."""
    source = torch.ones(num_bytes // 8, device=device)
    target = torch.empty_like(source)
    return 8 * len(source) / interleaved({"copy": lambda: target.copy_(source)}, device, seconds)["copy"].p50


def name(dtype: torch.dtype) -> str:
    """torch.float32 -> "float32"."""
    return str(dtype).removeprefix("torch.")
