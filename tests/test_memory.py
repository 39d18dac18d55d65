"""The peak of memory is in bytes and never falls."""

import torch

from packdit.runtime.memory import peak_bytes


def test_the_peak_is_in_bytes_and_never_falls() -> None:
    first = peak_bytes(torch.device("cpu"))
    held = torch.ones(4_000_000)
    assert held.nbytes < first < 1e12
    del held
    assert peak_bytes(torch.device("cpu")) >= first
