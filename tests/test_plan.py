"""The pack planner against a plain-Python one, and the part of the runtime that must not need torch."""

import random
import subprocess
import sys

import numpy as np
import pytest

from packdit.runtime.plan import make_plan, work_table

INT32_MAX = 2**31 - 1


def reference_taken(lengths: list[int], sequences: list[int], budget: int, max_segments: int) -> list[int]:
    taken: list[int] = []
    tokens = segments = 0
    for i, (length, count) in enumerate(zip(lengths, sequences, strict=True)):
        fits = tokens + length * count <= budget and segments + count <= max_segments
        if fits or i == 0:
            taken.append(i)
            tokens += length * count
            segments += count
    return taken


def random_case(rng: random.Random) -> tuple[list[int], list[int], int, int]:
    longest = rng.choice([0, 1, 7, 300])
    count = rng.randrange(12)
    lengths = [rng.randint(0, longest) for _ in range(count)]
    sequences = [rng.randint(1, 2) for _ in range(count)]
    return lengths, sequences, rng.randint(1, 1000), rng.randint(2, 12)


def check_plan(lengths: list[int], sequences: list[int], budget: int, max_segments: int) -> None:
    plan = make_plan(lengths, sequences, budget, max_segments)
    taken = reference_taken(lengths, sequences, budget, max_segments)
    segments = [(i, branch) for i in taken for branch in range(sequences[i])]
    sizes = [lengths[i] for i, _ in segments]
    assert list(plan.samples) == taken
    assert list(zip(plan.segment_sample.tolist(), plan.segment_branch.tolist(), strict=True)) == segments
    np.testing.assert_array_equal(plan.cu_seqlens, np.cumsum([0, *sizes]))
    np.testing.assert_array_equal(plan.token_segment, np.repeat(np.arange(len(sizes)), np.array(sizes, dtype=int)))
    assert (plan.num_segments, plan.num_tokens) == (len(segments), sum(sizes))
    assert plan.num_segments <= max_segments
    assert plan.num_tokens <= budget or plan.samples == (0,)
    for array in (plan.segment_sample, plan.segment_branch, plan.cu_seqlens, plan.token_segment):
        assert array.dtype == np.int32


@pytest.mark.parametrize("seed", range(20))
def test_matches_the_reference(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        check_plan(*random_case(rng))


def test_takes_whatever_still_fits() -> None:
    plan = make_plan([50, 60, 20, 30, 1], [2, 1, 1, 1, 2], budget=150, max_segments=8)
    assert plan.samples == (0, 2, 3)


def test_a_guided_sample_is_never_split() -> None:
    plan = make_plan([4, 4, 4], [2, 2, 1], budget=100, max_segments=3)
    assert plan.samples == (0, 2)
    assert plan.segment_sample.tolist() == [0, 0, 2]
    assert plan.segment_branch.tolist() == [0, 1, 0]


def test_an_oversize_first_sample_runs_alone() -> None:
    plan = make_plan([500, 0, 1], [2, 1, 1], budget=100, max_segments=8)
    assert plan.samples == (0,)
    assert plan.cu_seqlens.tolist() == [0, 500, 1000]


def test_no_samples_is_an_empty_plan() -> None:
    plan = make_plan([], [], budget=1, max_segments=2)
    assert plan.samples == ()
    assert plan.cu_seqlens.tolist() == [0]


def test_empty_segments_keep_their_place() -> None:
    plan = make_plan([0, 3, 0], [1, 1, 2], budget=10, max_segments=8)
    assert plan.cu_seqlens.tolist() == [0, 0, 3, 3, 3]
    assert plan.token_segment.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("lengths", "sequences", "budget", "max_segments", "message"),
    [
        ([5, -1], [1, 1], 10, 2, "length of sample 1 is -1"),
        ([INT32_MAX + 1], [1], 10, 2, "length of sample 0 is 2147483648"),
        ([INT32_MAX], [2], 10, 2, "tokens of the first sample is 4294967294"),
        ([5], [0], 10, 2, "number of sequences of sample 0 is 0; allowed: 1 to 2"),
        ([5], [3], 10, 2, "number of sequences of sample 0 is 3; allowed: 1 to 2"),
        ([5], [1], 0, 2, "token budget is 0"),
        ([5], [1], INT32_MAX + 1, 2, "token budget is 2147483648"),
        ([5], [1], 10, 1, "max_segments is 1; allowed: 2 to 2147483647"),
        ([5, 6], [1], 10, 2, "got 2 lengths and 1 sequence counts"),
    ],
)
def test_refuses_bad_input(
    lengths: list[int], sequences: list[int], budget: int, max_segments: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(lengths, sequences, budget, max_segments)


@pytest.mark.parametrize("seed", range(20))
def test_work_table_covers_every_block_once_longest_first(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [rng.choice([0, 1, 15, 16, 17, rng.randrange(400)]) for _ in range(rng.randrange(10))]
    block = rng.choice([1, 16, 64])
    longest_first = sorted(range(len(sizes)), key=lambda s: -sizes[s])
    expected = [(s, b) for s in longest_first for b in range(-(-sizes[s] // block))]
    table = work_table(np.cumsum([0, *sizes]).astype(np.int32), block)
    assert table.dtype == np.int32
    assert table.shape == (len(expected), 2)
    assert [tuple(entry) for entry in table.tolist()] == expected


@pytest.mark.parametrize(
    ("cu_seqlens", "block", "message"),
    [
        ([], 16, "cu_seqlens is empty"),
        ([1, 2], 16, "first entry of cu_seqlens is 1"),
        ([0, 5, 4], 16, "entry 2 of cu_seqlens is 4; allowed: 5 to"),
        ([0, INT32_MAX + 1], 16, "entry 1 of cu_seqlens is 2147483648"),
        ([0, 5], 0, "block is 0"),
    ],
)
def test_work_table_refuses_bad_input(cu_seqlens: list[int], block: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        work_table(cu_seqlens, block)


@pytest.mark.parametrize(
    "module", ["packdit.kernels", "packdit.runtime.plan", "packdit.runtime.request", "packdit.runtime.scheduler"]
)
def test_loads_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
