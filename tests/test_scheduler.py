"""The scheduler in simulation: nobody starves, whatever else arrives, and packs keep to the budget. Integers only."""

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest

from packdit.runtime.scheduler import Scheduler


@dataclass(slots=True, eq=False)
class Piece:
    """A sample without tensors."""

    num_tokens: int
    arrival: int
    num_sequences: int = 1
    expert: int = 0
    last_step: int = -1

    @property
    def size(self) -> int:
        return self.num_tokens * self.num_sequences


def runs(scheduler: Scheduler, queue: list[Piece]) -> list[Piece]:
    """One step; what it ran, after checking the plan."""
    plan, chosen = scheduler.next_plan(queue)
    assert plan.num_tokens == sum(piece.size for piece in chosen)
    assert plan.num_segments == sum(piece.num_sequences for piece in chosen)
    assert plan.num_tokens <= scheduler.token_budget or len(chosen) == 1
    assert plan.num_segments <= scheduler.max_segments
    assert len({piece.expert for piece in chosen}) == 1
    return chosen


def test_a_mixed_queue_that_fits_shares_every_step() -> None:
    queue = [Piece(10, 0), Piece(500, 1, 2), Piece(1, 2)]
    scheduler = Scheduler(token_budget=1011)
    for _ in range(5):
        assert runs(scheduler, queue) == queue


@pytest.mark.parametrize("seed", range(10))
def test_in_a_fixed_queue_of_n_everyone_runs_within_n_steps(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.randint(1, 12)
    queue = [Piece(rng.choice([1, 10, 100, 5000]), i, rng.randint(1, 2)) for i in range(n)]
    scheduler = Scheduler(token_budget=rng.choice([50, 200, 1000]), max_segments=rng.randint(2, 6))
    history = [{p.arrival for p in runs(scheduler, queue)} for _ in range(6 * n)]
    for piece in queue:
        for start in range(5 * n):
            assert any(piece.arrival in step for step in history[start : start + n])


def longest_gap(piece: Piece, others: int, size: int, steps: int = 200) -> int:
    """The most steps from one run of `piece` to the next, while whoever else has run makes room for a newcomer."""
    scheduler, ran = Scheduler(token_budget=100), [-1]
    queue = [piece, *(Piece(size, 1 + i) for i in range(others))]
    for step in range(steps):
        chosen = runs(scheduler, queue)
        ran += [step] if piece in chosen else []
        stay = [p for p in queue if p is piece or p not in chosen]
        queue = stay + [Piece(size, 100 + 100 * step + i) for i in range(1 + others - len(stay))]
    return max(after - before for before, after in pairwise([*ran, steps]))


def test_a_flood_of_small_ones_does_not_starve_a_large_one() -> None:
    assert longest_gap(Piece(100, 0), others=20, size=10) == 3  # twenty small ones fill two packs


def test_a_flood_of_large_ones_does_not_starve_a_small_one() -> None:
    assert longest_gap(Piece(1, 0), others=5, size=100) == 6


def test_nobody_who_arrives_later_overtakes() -> None:
    rng = random.Random(0)
    scheduler, queue, arrivals = Scheduler(token_budget=64), [], 0
    waiting: dict[int, int] = {}  # arrival -> steps that it may still wait
    for _ in range(300):
        for _ in range(rng.choice([0, 0, 1, 3])):
            queue.append(Piece(rng.choice([1, 8, 64, 200]), arrivals))
            waiting[arrivals] = len(queue)
            arrivals += 1
        if not queue:
            continue
        chosen = runs(scheduler, queue)
        for piece in queue:
            waiting[piece.arrival] = len(queue) if piece in chosen else waiting[piece.arrival] - 1
            assert waiting[piece.arrival] > 0, "it waited for more steps than there were others before it"
        queue = [p for p in queue if p not in chosen or rng.random() < 0.7]


def test_samples_of_different_experts_take_turns() -> None:
    scheduler = Scheduler(token_budget=100, step=1)
    queue = [Piece(10, i, expert=i % 2) for i in range(6)]
    for _ in range(3):
        assert {piece.arrival for piece in runs(scheduler, queue)} == {0, 2, 4}
        assert {piece.arrival for piece in runs(scheduler, queue)} == {1, 3, 5}
