import gc

import pytest
import torch

from packdit.bench.timing import interleaved, percentiles

CPU = torch.device("cpu")


def test_percentiles() -> None:
    times = percentiles([5.0, 1.0, 2.0, 4.0, 3.0, 6.0])
    assert (times.p20, times.p50, times.p80, times.count) == (2.0, 3.5, 5.0, 6)
    assert percentiles([7.0]).p20 == percentiles([7.0]).p80 == 7.0


def test_calls_take_turns_and_each_begins_a_round() -> None:
    made: list[str] = []
    calls = {name: (lambda name=name: made.append(name)) for name in "abc"}
    found = interleaved(calls, CPU, seconds=0.0)
    assert list(found) == ["a", "b", "c"]
    assert {times.count for times in found.values()} == {5}
    assert "".join(made[3:12]) == "abcbcacab"


@pytest.mark.parametrize("cold", [True, False])
def test_durations_are_seconds(cold: bool) -> None:
    long, short = torch.ones(2**22), torch.ones(2)
    calls = {"long": lambda: long.exp(), "short": lambda: short.exp()}
    found = interleaved(calls, CPU, seconds=0.0, cold=cold)
    assert 0 < found["short"].p50 < found["long"].p50 < 10


def test_nothing_to_time() -> None:
    assert interleaved({}, CPU, seconds=0.1) == {}


def test_the_garbage_collector_is_on_again() -> None:
    def fail() -> None:
        assert not gc.isenabled()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        interleaved({"fail": fail}, CPU, seconds=0.0)
    assert gc.isenabled()
