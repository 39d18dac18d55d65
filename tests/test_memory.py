"""The peak of memory is in bytes and never falls; freed memory can be kept."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from packdit.runtime.memory import free_bytes, peak_bytes


def test_the_peak_is_in_bytes_and_never_falls() -> None:
    first = peak_bytes(torch.device("cpu"))
    held = torch.ones(4_000_000)
    assert held.nbytes < first < 1e12
    del held
    assert peak_bytes(torch.device("cpu")) >= first


def test_free_memory_is_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "linux":
        assert 1e6 < free_bytes(torch.device("cpu")) < 1e14
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: "MemTotal: 9 kB\nMemAvailable:       7 kB\n")
    assert free_bytes(torch.device("cpu")) == 7 * 1024
    monkeypatch.setattr(Path, "read_text", Path("/not there").open)
    assert free_bytes(torch.device("cpu")) == sys.maxsize


REUSE = """
import resource, torch
from packdit.runtime.memory import reuse_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
mapped = faults()
assert reuse_freed_memory()
faults()
print(mapped, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's allocator has other settings")
def test_freed_memory_is_not_mapped_anew() -> None:
    """In a process of its own, whose allocator it changes for good."""
    done = subprocess.run([sys.executable, "-P", "-c", REUSE], check=True, capture_output=True, text=True)
    mapped, reused = map(int, done.stdout.split())
    assert reused < mapped / 10
