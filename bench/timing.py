"""Times of several calls in one run: taken in turns, so that noise hits all alike, each from a cold cache."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

EVICTING_BYTES = {"cpu": 96 * 2**20, "cuda": 256 * 2**20}  # read before a call: more than the last level's cache
HEAD_START = 400_000  # GPU cycles for which the device is kept busy while the host queues a call
ROUNDS = range(5, 101)

Call = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Percentiles of a call's duration in seconds."""

    p20: float
    p50: float
    p80: float
    count: int


def percentiles(durations: list[float]) -> Times:
    """Of at least one duration; between two measured ones by linear interpolation."""
    ranked = sorted(durations)

    def at(share: float) -> float:
        place = share * (len(ranked) - 1)
        low = int(place)
        high = min(low + 1, len(ranked) - 1)
        return ranked[low] + (ranked[high] - ranked[low]) * (place - low)

    return Times(p20=at(0.2), p50=at(0.5), p80=at(0.8), count=len(ranked))


def interleaved(calls: Mapping[str, Call], device: torch.device, seconds: float, cold: bool = True) -> dict[str, Times]:
    """Runs every call once a round, beginning with another one each time, for about `seconds` and 5 to 100 rounds.

    Every call has run before: whatever it does only once is not timed. cold: the caches hold nothing of the call's, as
    a single op finds them; else it runs once more just before, so that nothing of the previous one (threads that still
    spin, above all) is left. On a GPU it is the device's time, without the host's for queueing, unless a call waits for
    the device.
    """
    order = list(calls)
    measure = _gpu_time if device.type == "cuda" else _cpu_time
    durations: dict[str, list[float]] = {name: [] for name in order}
    with torch.inference_mode(), _no_collection():
        start = time.perf_counter()
        for name in order:
            measure(calls[name], device, cold)
        once = time.perf_counter() - start
        rounds = min(max(int(seconds / max(once, 1e-9)), ROUNDS.start), ROUNDS.stop - 1)
        for turn in range(rounds):
            first = turn % max(len(order), 1)
            for name in order[first:] + order[:first]:
                durations[name].append(measure(calls[name], device, cold))
    return {name: percentiles(found) for name, found in durations.items()}


def _cpu_time(call: Call, device: torch.device, cold: bool) -> float:
    if cold:
        _evicting(device).sum()
    else:
        call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _gpu_time(call: Call, device: torch.device, cold: bool) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    if not cold:
        call()
    torch.cuda._sleep(HEAD_START)
    if cold:
        _evicting(device).sum()
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


@cache
def _evicting(device: torch.device) -> Tensor:
    return torch.zeros(EVICTING_BYTES[device.type] // 4, device=device)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Within it Python's garbage collector does not run."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
