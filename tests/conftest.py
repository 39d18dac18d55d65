"""Fresh torch memory is poison in every test: NaN in floats, the largest value in integers, True in booleans.

torch can do this itself, but only under `use_deterministic_algorithms`, which also makes it choose other kernels than
users get, and so would hide an order-dependent sum from the tests of bit-equality. So the allocating functions are
wrapped instead.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import pytest


def poisoned(allocate: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    @functools.wraps(allocate)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        fresh = allocate(*args, **kwargs)
        if fresh.dtype == torch.bool:
            value: float = True
        elif fresh.is_floating_point() or fresh.is_complex():
            value = float("nan")
        else:
            value = torch.iinfo(fresh.dtype).max
        with torch.no_grad():
            return fresh.fill_(value)

    return wrapper


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    if "torch" not in sys.modules:  # the test's own imports have run by now; one without torch need not load it
        return
    import torch

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    for name in ("new_empty", "new_empty_strided"):
        monkeypatch.setattr(torch.Tensor, name, poisoned(getattr(torch.Tensor, name)))
