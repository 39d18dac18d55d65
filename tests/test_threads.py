"""One thread within the block, as many as before after it."""

import pytest
import torch

from packdit.runtime.threads import one_thread


def test_threads_are_restored() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_threads_are_restored_after_a_failure() -> None:
    before = torch.get_num_threads()
    with pytest.raises(OSError, match="no luck"), one_thread():
        raise OSError("no luck")
    assert torch.get_num_threads() == before
