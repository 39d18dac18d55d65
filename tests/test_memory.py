"""The peak of memory is in bytes and never falls; freed memory can be kept."""

import platform
import subprocess
import sys

import pytest
import torch

from packdit.runtime.memory import peak_bytes


def test_the_peak_is_in_bytes_and_never_falls() -> None:
    first = peak_bytes(torch.device("cpu"))
    held = torch.ones(4_000_000)
    assert held.nbytes < first < 1e12
    del held
    assert peak_bytes(torch.device("cpu")) >= first


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
