"""Which samples the next step runs. Integers only, no torch.

Those that have waited longest go first, and within the token budget as many of the others as fit run along. The planner
always takes the first, and nobody who arrives later overtakes, so a sample that n others wait with runs within n + 1
steps, whatever their sizes and however many more arrive.
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

    @property
    def expert(self) -> int:
        """Which of the model's transformers its next stage needs; a pack is for one of them."""

    last_step: int  # the step that ran it last, or the one before it arrived; below 0: it has just arrived
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
        samples = list(samples)
        for sample in samples:
            if sample.last_step < 0:  # it has waited for nothing yet: those that were there before it go first
                sample.last_step = self.step - 1
        queue: Sequence[S] = sorted(samples, key=lambda s: (s.last_step, s.arrival))
        queue = [s for s in queue if s.expert == queue[0].expert]
        plan = make_plan(
            [s.num_tokens for s in queue], [s.num_sequences for s in queue], self.token_budget, self.max_segments
        )
        chosen = [queue[i] for i in plan.samples]
        for sample in chosen:
            sample.last_step = self.step
        self.step += 1
        return plan, chosen
