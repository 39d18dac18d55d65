"""The plan of one step: which samples run, and where each of their sequences lies in the pack. Integers, no torch.

The planner itself is C++ (csrc/planner.cpp); this file gives its answer names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..kernels import _C

Int32s = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Samples laid end to end. S segments, T tokens; a sample is its index in the list given to `make_plan`."""

    samples: tuple[int, ...]  # those taken, in the given order
    segment_sample: Int32s  # [S] the sample of each segment
    segment_branch: Int32s  # [S] 0 conditional, 1 unconditional
    cu_seqlens: Int32s  # [S + 1] first token of each segment, then T
    token_segment: Int32s  # [T] the segment of each token

    @property
    def num_segments(self) -> int:
        return len(self.segment_sample)

    @property
    def num_tokens(self) -> int:
        return len(self.token_segment)


def make_plan(lengths: Sequence[int], sequences: Sequence[int], budget: int, max_segments: int) -> Plan:
    """Packs samples first come, first served, under a token budget.

    `lengths` holds the tokens of one sequence of each sample, `sequences` how many sequences it runs (1, or 2 when
    guided). A sample is taken whenever all its sequences still fit, and skipped otherwise; the first is always taken,
    alone if it is larger than the budget. `max_segments` is at least 2. ValueError for anything out of range.
    """
    samples, segment_sample, segment_branch, cu_seqlens, token_segment = _C.plan_pack(
        lengths, sequences, budget, max_segments
    )
    return Plan(
        samples=tuple(samples.tolist()),
        segment_sample=segment_sample,
        segment_branch=segment_branch,
        cu_seqlens=cu_seqlens,
        token_segment=token_segment,
    )


def work_table(cu_seqlens: Sequence[int] | Int32s, block: int) -> Int32s:
    """The [N, 2] (segment, query block) entries of one attention launch, longest segments first, none for empty ones.

    A segment of length L has ceil(L / block) entries. ValueError where `cu_seqlens` does not start at 0 or descends.
    """
    return _C.work_table(cu_seqlens, block)
