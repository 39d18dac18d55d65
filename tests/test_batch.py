"""One step's tensors against each sample's own step in plain Python."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from packdit.kernels import guided_step
from packdit.runtime import Condition
from packdit.runtime.batch import Batch, make_batch, next_batch
from packdit.runtime.plan import Plan, make_plan
from packdit.runtime.sample import Sample

GIVEN = Condition(np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8))
PART = Condition(np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8), 5, 0.5)


@pytest.fixture
def samples(runtime: SimpleNamespace) -> list[Sample]:
    """Of different sizes, guidance, samplers, levels and slots."""
    fields: list[dict[str, Any]] = [
        {"width": 32, "height": 32, "frames": 1, "guidance": 1, "sampler": "euler", "steps": 3},
        {"width": 48, "height": 32, "frames": 5, "guidance": 3, "sampler": "unipc", "steps": 5},
        {"width": 32, "height": 64, "frames": 9, "guidance": 0, "sampler": "heun", "steps": 2, "conditions": [GIVEN]},
        {"width": 64, "height": 32, "frames": 9, "guidance": 2, "sampler": "dpmpp_2m", "conditions": [GIVEN, PART]},
    ]
    return [runtime.sample(i, seed=i, **f) for i, f in enumerate(fields)]


def lay_out(
    runtime: SimpleNamespace, samples: list[Sample], order: list[int], budget: int = 4096
) -> tuple[Plan, list[Sample], Batch]:
    queue = [samples[i] for i in order]
    plan = make_plan([s.num_tokens for s in queue], [s.num_sequences for s in queue], budget, 64)
    chosen = [queue[i] for i in plan.samples]
    return plan, chosen, make_batch(plan, chosen, runtime.transformer)


def stepped_alone(sample: Sample, out: list[torch.Tensor]) -> torch.Tensor:
    """The sample's next state in float64; `out`: the model's output of its sequences, [L, C] each."""
    cond, uncond = out[0].double(), out[-1].double()
    v = uncond + sample.request.guidance * (cond - uncond) if len(out) == 2 else cond
    state = sample.state.double().clone()
    for level, track in enumerate(sample.levels):
        matrix = torch.tensor(track[sample.stage].matrix, dtype=torch.float64)
        slots, mine = len(matrix), sample.level == level
        operands = torch.cat([sample.state[:slots, mine].double(), v[None, mine]])
        state[:slots, mine] = torch.einsum("sj,jlc->slc", matrix, operands)
    return state


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [2], [1, 3]])
def test_a_step_of_a_pack_is_each_samples_own_step(
    runtime: SimpleNamespace, samples: list[Sample], order: list[int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        plan, chosen, batch = lay_out(runtime, samples, order)
        out = torch.randn(plan.num_tokens, 16, generator=generator)
        pieces = out.split(np.diff(plan.cu_seqlens).tolist())
        assert [len(piece) for piece in pieces] == [s.num_tokens for s in chosen for _ in s.told]
        first = np.cumsum([0, *(s.num_sequences for s in chosen)])
        want = [stepped_alone(s, list(pieces[a:b])) for s, a, b in zip(chosen, first, first[1:], strict=False)]
        stages = [s.stage for s in chosen]
        guided_step(batch.state, out, batch.cond, batch.uncond, batch.guidance, batch.table, batch.row)
        batch.advance()
        for sample, state, stage in zip(chosen, want, stages, strict=True):
            torch.testing.assert_close(sample.state.double(), state, rtol=1e-5, atol=1e-5)
            assert sample.stage == stage + 1


def test_the_models_input(runtime: SimpleNamespace, samples: list[Sample]) -> None:
    plan, chosen, batch = lay_out(runtime, samples, [3, 0, 1, 2])
    segments = [(s, branch) for s in chosen for branch in range(s.num_sequences)]
    assert torch.equal(batch.tokens(), torch.cat([s.state[0] for s, _ in segments]))
    assert torch.equal(batch.pack.text, torch.cat([s.told[branch].text for s, branch in segments]))
    lengths = [len(s.told[branch].text) for s, branch in segments]
    assert batch.pack.cu_seqlens_text.tolist() == [0, *np.cumsum(lengths)]
    assert batch.pack.cu_seqlens.tolist() == plan.cu_seqlens.tolist()
    assert batch.pack.max_seqlen == max(s.num_tokens for s in samples)
    for name, values in batch.pack.layout.items():
        assert torch.equal(values, torch.cat([s.layout[name] for s, _ in segments]))


def test_every_token_follows_a_row_of_its_own_segment_and_noise_level(
    runtime: SimpleNamespace, samples: list[Sample]
) -> None:
    plan, chosen, batch = lay_out(runtime, samples, [2, 3, 0, 1])
    segments = [s for s in chosen for _ in s.told]
    row = batch.pack.row.long()
    assert torch.equal(batch.pack.row_segment[row], torch.from_numpy(plan.token_segment))
    for segment, sample in enumerate(segments):
        mine = row[plan.cu_seqlens[segment] : plan.cu_seqlens[segment + 1]]
        sigmas = torch.tensor([track[sample.stage].sigma for track in sample.levels])[sample.level]
        torch.testing.assert_close(batch.pack.timestep[mine], 1000 * sigmas)


def test_a_sample_without_guidance_has_no_second_output(runtime: SimpleNamespace, samples: list[Sample]) -> None:
    _, chosen, batch = lay_out(runtime, samples, [1, 0])
    guided = chosen[0].num_tokens
    assert batch.cond.tolist() == [*range(guided), *range(2 * guided, 2 * guided + chosen[1].num_tokens)]
    assert batch.uncond.tolist() == [*range(guided, 2 * guided), *([-1] * chosen[1].num_tokens)]


def test_samples_that_did_not_fit_are_left_alone(runtime: SimpleNamespace, samples: list[Sample]) -> None:
    before = [s.state.clone() for s in samples]
    _, chosen, batch = lay_out(runtime, samples, [1, 3, 0, 2], budget=50)
    assert chosen == [samples[1], samples[0]]
    batch.state.zero_()
    batch.advance()
    assert [s.stage for s in samples] == [1, 1, 0, 0]
    assert not samples[0].state.any()
    assert torch.equal(samples[2].state, before[2])
    assert torch.equal(samples[3].state, before[3])


def test_a_finished_sample_keeps_nothing_of_the_packs_memory(runtime: SimpleNamespace, samples: list[Sample]) -> None:
    _, chosen, batch = lay_out(runtime, samples, [0, 1, 2, 3])
    for sample in chosen:
        sample.stage = sample.num_stages - 1
    batch.advance()
    for sample in chosen:
        assert sample.done
        assert sample.state.untyped_storage().nbytes() == sample.state.nbytes


def test_the_same_samples_again_differ_in_their_stages_alone(runtime: SimpleNamespace, samples: list[Sample]) -> None:
    plan, chosen, first = lay_out(runtime, samples, [3, 0, 1, 2])
    first.state.add_(1)  # a step
    first.advance()
    again = next_batch(first, plan, chosen, runtime.transformer)
    assert again.state is first.state
    assert again.pack.text is first.pack.text
    fresh = make_batch(plan, chosen, runtime.transformer)
    assert torch.equal(again.tokens(), fresh.tokens())
    assert torch.equal(again.table, fresh.table)
    assert torch.equal(again.pack.timestep, fresh.pack.timestep)
    assert not torch.equal(again.table, first.table)
    assert not torch.equal(again.pack.timestep, first.pack.timestep)


@pytest.mark.parametrize("order", [[3, 0, 1], [0, 3, 1, 2]])
def test_others_or_another_order_are_laid_out_anew(
    runtime: SimpleNamespace, samples: list[Sample], order: list[int]
) -> None:
    _, _, first = lay_out(runtime, samples, [3, 0, 1, 2])
    first.state.add_(1)  # a step
    first.advance()
    before = [s.state.clone() for s in samples]
    queue = [samples[i] for i in order]
    plan = make_plan([s.num_tokens for s in queue], [s.num_sequences for s in queue], 4096, 64)
    batch = next_batch(first, plan, queue, runtime.transformer)
    first.state.zero_()
    start = 0
    for i in order:
        end = start + samples[i].num_tokens
        assert torch.equal(batch.state[: len(before[i]), start:end], before[i])
        start = end
