"""Which samples the next step runs. Integers only, no torch.

Those that have waited longest go first, so every sample advances: in a queue of n, a sample runs at least once in every
n steps, whatever the sizes, because the planner always takes the first. Within the token budget as many of the others
as fit run along.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from .plan import Plan, make_plan


class Schedulable(Protocol):
    """What the scheduler needs to know of a sample in flight."""

    @property
    def num_tokens(self) -> int:
        """Tokens of one of its sequences."""

    @property
    def num_sequences(self) -> int:
        """1, or 2 when it is guided."""

    last_step: int  # the step that ran it last; -1 before its first
    arrival: int  # its place in the order of arrival


S = TypeVar("S", bound=Schedulable)


@dataclass(slots=True, kw_only=True)
class Scheduler:
    """token_budget: tokens of a pack, unless a single sample is larger. max_segments: sequences of a pack."""

    token_budget: int
    max_segments: int = 256
    step: int = 0

    def next_plan(self, samples: Iterable[S]) -> tuple[Plan, list[S]]:
        """The plan of the next step, and the samples that it runs, in its order. `samples` must not be empty."""
        queue: Sequence[S] = sorted(samples, key=lambda s: (s.last_step, s.arrival))
        plan = make_plan(
            [s.num_tokens for s in queue], [s.num_sequences for s in queue], self.token_budget, self.max_segments
        )
        chosen = [queue[i] for i in plan.samples]
        for sample in chosen:
            sample.last_step = self.step
        self.step += 1
        return plan, chosen
