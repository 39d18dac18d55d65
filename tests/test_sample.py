"""Requests in flight: their noise, the frames that are given, and the stages that they go through."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from packdit.kernels import guided_step, patchify
from packdit.runtime import Condition, Request
from packdit.runtime.batch import make_batch
from packdit.runtime.conditions import encode_condition
from packdit.runtime.path import flow_sigmas
from packdit.runtime.plan import make_plan
from packdit.runtime.prompts import Told
from packdit.runtime.sample import Sample, make_sample, stage_seed, start_noise
from packdit.runtime.sampler import SAMPLERS
from packdit.runtime.schedule import Schedule

PATCH = (1, 2, 2)


def clip(n: int, height: int = 32, width: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8)


def encoded(runtime: SimpleNamespace, frames: np.ndarray) -> Tensor:
    """[4, t, h, w], normalized."""
    video = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1
    latent: Tensor = runtime.vae.normalize(runtime.vae.encode(video))
    return latent


def run(runtime: SimpleNamespace, sample: Sample) -> None:
    """All stages of one sample."""
    while not sample.done:
        plan = make_plan([sample.num_tokens], [sample.num_sequences], 4096, 2)
        batch = make_batch(plan, [sample], runtime.transformer)
        out = runtime.transformer.run(batch.tokens(), batch.pack)
        guided_step(batch.state, out, batch.cond, batch.uncond, batch.guidance, batch.table, batch.row)
        batch.advance()


@pytest.mark.parametrize(
    ("seed", "channels", "grid", "first", "digest"),
    [
        (0, 4, (5, 8, 6), [-2.3104116916656494, -0.3732508718967438, -1.0608166456222534], "723d6f85ac6ad877"),
        (7, 12, (1, 4, 4), [0.06626754254102707, 0.046991556882858276, 1.8365386724472046], "38fa42f0f0e95cb0"),
        (2**63 - 1, 1, (1, 1, 3), [1.2197630405426025, -0.3929794728755951, 1.0230751037597656], "ea14cb16fa66e46c"),
    ],
)
def test_a_seed_means_the_same_noise_everywhere_and_for_ever(
    seed: int, channels: int, grid: tuple[int, int, int], first: list[float], digest: str
) -> None:
    noise = start_noise(seed, channels, grid)
    assert noise.shape == (channels, *grid)
    assert noise.flatten()[:3].tolist() == first
    assert hashlib.sha256(noise.numpy().tobytes()).hexdigest().startswith(digest)


def test_a_sample_starts_from_its_seeds_noise(runtime: SimpleNamespace) -> None:
    sample = runtime.sample(width=48, height=32, frames=9, seed=5, steps=3, guidance=1)
    assert torch.equal(sample.state[0], patchify([start_noise(5, 4, (3, 4, 6))], PATCH))
    assert torch.equal(sample.latent(PATCH), start_noise(5, 4, (3, 4, 6)))
    assert (sample.grid, sample.num_tokens, sample.num_sequences) == ((3, 4, 6), 18, 1)
    assert (sample.stage, sample.num_stages, sample.done) == (0, 3, False)
    assert [stage.sigma for stage in sample.levels[0]] == flow_sigmas(3, runtime.limits.shift)[:-1]


def test_guidance_other_than_one_is_a_second_sequence(runtime: SimpleNamespace) -> None:
    assert runtime.sample(guidance=1).num_sequences == 1
    assert runtime.sample(guidance=0).num_sequences == 2
    assert runtime.sample(guidance=4).num_sequences == 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frames_given_at_full_strength_keep_their_bits(runtime: SimpleNamespace, sampler: str) -> None:
    frames = clip(5)
    sample = runtime.sample(
        width=48, height=32, frames=9, steps=4, sampler=sampler, conditions=[Condition(frames)], seed=1
    )
    given = encoded(runtime, frames)
    before = sample.latent(PATCH)
    assert torch.equal(before[:, :2], given)
    run(runtime, sample)
    after = sample.latent(PATCH)
    assert torch.equal(after[:, :2], given)
    assert not torch.equal(after[:, 2:], before[:, 2:])
    assert after.isfinite().all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frames_given_in_part_start_at_their_noise_level_and_move(runtime: SimpleNamespace, sampler: str) -> None:
    frames = clip(1)
    sample = runtime.sample(
        width=48, height=32, frames=5, steps=6, sampler=sampler, conditions=[Condition(frames, strength=0.75)], seed=2
    )
    noise = start_noise(2, 4, (2, 4, 6))
    torch.testing.assert_close(
        sample.latent(PATCH)[:, 0], (0.75 * encoded(runtime, frames) + 0.25 * noise[:, :1])[:, 0]
    )
    assert sample.levels[1][0].sigma == 0.25
    assert max(stage.sigma for stage in sample.levels[1]) == 0.25
    assert len(sample.levels[1]) == len(sample.levels[0])
    before = sample.latent(PATCH)
    run(runtime, sample)
    assert not torch.equal(sample.latent(PATCH)[:, 0], before[:, 0])


def test_no_strength_at_all_gives_nothing(runtime: SimpleNamespace) -> None:
    fields = {"width": 48, "height": 32, "frames": 5, "steps": 3, "seed": 3}
    free = runtime.sample(**fields)
    bound = runtime.sample(**fields, conditions=[Condition(clip(2), strength=0.5)], strength=0)
    run(runtime, free)
    run(runtime, bound)
    assert torch.equal(free.state[0], bound.state[0])


def test_a_requests_strength_scales_its_conditions(runtime: SimpleNamespace) -> None:
    frames = clip(1)
    a = runtime.sample(width=48, height=32, frames=5, conditions=[Condition(frames, strength=0.5)], strength=0.5)
    b = runtime.sample(width=48, height=32, frames=5, conditions=[Condition(frames, strength=0.25)])
    assert a.levels == b.levels
    assert torch.equal(a.state, b.state)


def test_a_clip_that_is_given_whole_has_nothing_to_do(runtime: SimpleNamespace) -> None:
    frames = clip(9)
    sample = runtime.sample(width=48, height=32, frames=9, conditions=[Condition(frames)])
    assert sample.done
    assert torch.equal(sample.latent(PATCH), encoded(runtime, frames))


def test_a_clip_that_is_given_whole_in_part_skips_the_stages_that_would_keep_it(runtime: SimpleNamespace) -> None:
    sample = runtime.sample(width=48, height=32, frames=9, steps=10, conditions=[Condition(clip(9), strength=0.6)])
    sigmas = flow_sigmas(10, runtime.limits.shift)
    assert sample.num_stages - sample.stage == 1 + sum(0 < sigma < 0.4 for sigma in sigmas)
    assert sample.levels[1][sample.stage].sigma == pytest.approx(0.4)


def test_strengths_are_levels_of_their_own(runtime: SimpleNamespace) -> None:
    conditions = [Condition(clip(1), 0), Condition(clip(4, seed=1), 9, 0.5), Condition(clip(1, seed=2), 5, 0.5)]
    sample = runtime.sample(width=48, height=32, frames=17, conditions=conditions)
    assert len(sample.levels) == 3
    assert sample.level.view(5, 6).unique(dim=1).flatten().tolist() == [1, 0, 2, 2, 0]


def test_the_later_of_two_conditions_wins(runtime: SimpleNamespace) -> None:
    first, second = clip(5), clip(1, seed=1)
    sample = runtime.sample(width=48, height=32, frames=5, conditions=[Condition(first), Condition(second, 0, 1.0)])
    latent = sample.latent(PATCH)
    assert torch.equal(latent[:, :1], encoded(runtime, second))
    assert torch.equal(latent[:, 1:], encoded(runtime, first)[:, 1:])


@pytest.mark.parametrize(
    ("start", "count", "first", "filled"),
    [
        (0, 1, 0, [0]),
        (0, 3, 0, [0, 1, 2, 2, 2]),
        (1, 4, 1, [0, 0, 1, 2, 3]),
        (3, 1, 1, [0] * 5),
        (4, 2, 1, [0, 0, 0, 0, 0, 1, 1, 1, 1]),
        (6, 1, 2, [0] * 9),
        (8, 1, 2, [0] * 9),
        (16, 1, 4, [0] * 17),
    ],
)
def test_groups_given_in_part_are_filled_with_the_nearest_given_frame(
    runtime: SimpleNamespace, start: int, count: int, first: int, filled: list[int]
) -> None:
    frames = clip(count)
    request = runtime.sample(width=48, height=32, frames=17).request
    got_first, latents = encode_condition(Condition(frames, start), request, runtime.vae)
    assert got_first == first
    assert torch.equal(latents, encoded(runtime, frames[filled])[:, first:])


def test_training_gives_frames_the_same_way(shapes: SimpleNamespace, runtime: SimpleNamespace) -> None:
    request = runtime.sample(width=48, height=32, frames=17).request
    for start, end in ((0, 1), (0, 7), (5, 9), (6, 8), (16, 17), (1, 17), (0, 17)):
        frames = clip(17)
        first, latents = encode_condition(Condition(frames[start:end], start), request, runtime.vae)
        assert (first, first + latents.shape[1]) == shapes.latents.groups_of(start, end)
        filled = shapes.latents.fill(torch.from_numpy(frames), start, end).numpy()
        assert torch.equal(latents, encoded(runtime, filled)[:, first : first + latents.shape[1]])


def test_frames_of_another_size_are_scaled_and_cropped(runtime: SimpleNamespace) -> None:
    request = runtime.sample(width=48, height=32, frames=1).request
    gray = np.full((1, 100, 70, 3), 77, np.uint8)
    _, latents = encode_condition(Condition(gray), request, runtime.vae)
    assert torch.equal(latents, encoded(runtime, np.full((1, 32, 48, 3), 77, np.uint8)))


def stochastic(runtime: SimpleNamespace, seed: int) -> Sample:
    """A sample whose steps but the last add new noise."""
    schedule = Schedule(data={"class": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": True})
    request = runtime.limits.complete(Request(width=48, height=32, frames=5, steps=3, seed=seed, sampler="default"))
    told = [Told(text=torch.ones(2, 24))] * 2
    return make_sample(replace(request, sampler="default"), told, runtime.transformer, runtime.vae, schedule, 0)


def test_new_noise_is_of_the_seed_and_the_stage_alone(runtime: SimpleNamespace) -> None:
    sample, again, other = (stochastic(runtime, seed) for seed in (1, 1, 2))
    noises = []
    for stage in range(2):
        for s in (sample, again, other):
            s.stage = stage
            s.refresh(PATCH)
        again.refresh(PATCH)  # a step that failed is tried again
        assert torch.equal(sample.state[1], again.state[1])
        noises += [sample.state[1].clone(), other.state[1].clone()]
    assert len({noise.numpy().tobytes() for noise in noises}) == 4
    expected = start_noise(stage_seed(1, 0), 4, sample.grid)
    assert torch.equal(noises[0], patchify([expected], PATCH))
    assert abs(float(expected.std()) - 1) < 0.2


def test_new_noise_makes_a_clip_of_its_own(runtime: SimpleNamespace) -> None:
    sample, again, other = (stochastic(runtime, seed) for seed in (1, 1, 2))
    for s in (sample, again, other):
        run(runtime, s)
        assert s.latent(PATCH).isfinite().all()
    assert torch.equal(sample.latent(PATCH), again.latent(PATCH))
    assert not torch.equal(sample.latent(PATCH), other.latent(PATCH))
