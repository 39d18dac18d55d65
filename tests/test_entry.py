"""Entries: what they name must be there, and nothing else may be."""

import pytest
import torch

from packdit.export.entry import Entry, check_keys, rows

ENTRIES = [Entry("qkv", ("q", "k", "v")), Entry("bias", ("b",), lambda t: t[0] + 1)]


def test_rows_are_one_below_the_other() -> None:
    assert ENTRIES[0].make is rows
    assert rows([torch.ones(2, 3), torch.zeros(1, 3)]).tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]


def test_every_key_once() -> None:
    check_keys(ENTRIES, "qkvb", "model")
    with pytest.raises(ValueError, match=r"^the model lacks the tensor 'k'$"):
        check_keys(ENTRIES, "qvb", "model")
    with pytest.raises(ValueError, match=r"^the model has a tensor that nothing uses: 'extra'$"):
        check_keys(ENTRIES, [*"qkvb", "extra"], "model")


@pytest.mark.parametrize("entry", [Entry("more", ("q",)), Entry("qkv", ("z",)), Entry("more", ("y", "y"))])
def test_a_table_that_names_something_twice_is_a_mistake_of_ours(entry: Entry) -> None:
    with pytest.raises(AssertionError, match="named twice in the model's entries"):
        check_keys([*ENTRIES, entry], "qkvbzy", "model")
