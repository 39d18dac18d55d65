"""How a checkpoint's tensors become those of a packed model: a list of entries, which is data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..runtime.request import quote

Make = Callable[[Sequence[Tensor]], Tensor]


def rows(tensors: Sequence[Tensor]) -> Tensor:
    """One below the other: [n0, ...], [n1, ...] -> [n0 + n1, ...]."""
    return torch.cat(tuple(tensors)) if len(tensors) > 1 else tensors[0]


@dataclass(frozen=True, slots=True)  # not keyword-only: a family's list reads as a table
class Entry:
    """One tensor of a packed model, and what it is made of.

    `make` gets the sources in their order, in float32 (float64 where they are that), and gives the target, which is
    then rounded to the bundle's dtype. It also runs on the meta device, where it tells the target's shape, so it must
    not read values. `rows`, the default, is written source by source and never held whole.
    """

    target: str
    sources: tuple[str, ...]
    make: Make = rows


def rename(renamings: Iterable[tuple[str, str]], key: str) -> str:
    """`key` with every pattern, a regular expression, replaced by what it becomes, one after another."""
    for pattern, new in renamings:
        key = re.sub(pattern, new, key)
    return key


def check_keys(entries: Iterable[Entry], keys: Iterable[str], what: str) -> None:
    """ValueError that names the first key of a checkpoint that an entry lacks, or that nothing uses.

    A key that two entries use and a target that two entries make are mistakes of the table: AssertionError.
    """
    entries, keys = list(entries), set(keys)
    used = Counter(source for entry in entries for source in entry.sources)
    made = Counter(entry.target for entry in entries)
    twice = [name for counts in (used, made) for name, count in counts.items() if count > 1]
    assert not twice, f"named twice in the {what}'s entries: {twice[:3]}"
    for entry in entries:
        for source in entry.sources:
            if source not in keys:
                raise ValueError(f"the {what} lacks the tensor {quote(source)}")
    for key in sorted(keys - set(used)):
        raise ValueError(f"the {what} has a tensor that nothing uses: {quote(key)}")
