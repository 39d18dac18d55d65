"""Offsets of what is laid end to end."""

import pytest
import torch

from packdit.runtime.pack import offsets


@pytest.mark.parametrize(("lengths", "want"), [([], [0]), ([3], [0, 3]), ([0, 2, 0, 5], [0, 0, 2, 2, 7])])
def test_offsets(lengths: list[int], want: list[int]) -> None:
    got = offsets(lengths)
    assert (got.dtype, got.tolist()) == (torch.int32, want)
