"""The engine: the same frames in any company, shared steps, progress, and what is asked of it."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from packdit.runtime import Condition, Engine, Request
from packdit.runtime.sampler import SAMPLERS
from packdit.runtime.vae import to_bytes
from packdit.runtime.video import Video

SECONDS = 60.0  # more than anything here takes


def small(prompt: str = "a red circle", **fields: Any) -> Request:
    return Request(prompt=prompt, **{"width": 32, "height": 32, "frames": 5, "steps": 2, "guidance": 1, **fields})


def same(got: list[Video], want: list[Video]) -> bool:
    return all(np.array_equal(a.frames, b.frames) for a, b in zip(got, want, strict=True))


def random_requests(count: int) -> list[Request]:
    rng, pixels = random.Random(0), np.random.default_rng(0)
    requests = []
    for i in range(count):
        frames = rng.choice([1, 5, 9, 13])
        given = pixels.integers(0, 256, (rng.randint(1, frames), 40, 40, 3), np.uint8)
        start = rng.randint(0, frames - len(given))
        requests.append(
            Request(
                prompt=rng.choice(["a red circle", "a blue square moves left", "triangle"]),
                width=rng.choice([32, 48, 64]),
                height=rng.choice([32, 48, 64]),
                frames=frames,
                steps=rng.randint(1, 5),
                guidance=[1, 4, 2.5, 0][i % 4],
                sampler=[*SAMPLERS][i % 3],
                seed=i,
                conditions=[Condition(given, start, rng.choice([1.0, 0.6]))] if i % 3 == 0 else (),
            )
        )
    return requests


def test_frames_do_not_depend_on_company_order_or_threads(engine: Engine) -> None:
    requests, before = random_requests(10), torch.get_num_threads()
    order = random.Random(1).sample(range(10), 10)
    try:
        torch.set_num_threads(1)
        together = engine.generate(requests)
        torch.set_num_threads(2)
        assert same(engine.generate(requests), together)
        assert same(engine.generate([requests[i] for i in order]), [together[i] for i in order])
        for request, want in zip(requests, together, strict=True):
            assert same(engine.generate([request]), [want])
    finally:
        torch.set_num_threads(before)
    for request, video in zip(requests, together, strict=True):
        assert video.frames.shape == (request.frames, request.height, request.width, 3)
        assert video.frames.std() > 1


def test_frames_do_not_depend_on_the_budget_of_a_pack(engine: Engine, new_engine: Callable[..., Engine]) -> None:
    requests = random_requests(5)
    with new_engine(token_budget=30) as narrow:
        assert same(narrow.generate(requests), engine.generate(requests))
        assert narrow.stats()["steps"] > engine.stats()["steps"]


def test_a_mixed_list_shares_its_steps(engine: Engine) -> None:
    requests = [small(steps=3), small(steps=5, guidance=3, width=64), small(steps=2, sampler="heun", frames=1)]
    engine.generate(requests)
    stats = engine.stats()
    assert stats["steps"] == 5  # of 3, 5 and 3 stages
    assert stats["sequences"] == 3 + 2 * 5 + 3
    assert stats["tokens"] == 3 * 8 + 2 * 5 * 16 + 3 * 4
    assert stats["padding_tokens"] == stats["captures"] == stats["replays"] == 0
    assert stats["peak_bytes"] > 10e6


def test_a_job_joins_at_any_step(engine: Engine, gate: Any) -> None:
    first = engine.submit(small(steps=3))
    gate.wait()
    second = engine.submit(small(steps=3, seed=1))
    gate.open()
    assert first.wait(SECONDS)
    assert second.wait(SECONDS)
    assert engine.stats()["steps"] == 4
    assert same([second.result()], engine.generate([small(steps=3, seed=1)]))


def test_progress_tells_the_truth(engine: Engine, gate: Any, decode_gate: Any) -> None:
    job = engine.submit(small(steps=3, frames=9))
    seen = []
    for barrier, count in ((gate, 3), (decode_gate, 3)):
        for _ in range(count):
            barrier.wait()
            seen.append((job.phase, job.done_in_phase, job.total_in_phase, round(job.progress * 12)))
            barrier.let_pass()
    assert job.wait(SECONDS)
    assert seen == [
        ("steps", 0, 3, 0),
        ("steps", 1, 3, 1),
        ("steps", 2, 3, 2),
        ("decode", 0, 9, 3),
        ("decode", 1, 9, 4),
        ("decode", 5, 9, 8),
    ]
    assert (job.status, job.phase, job.progress) == ("completed", "done", 1.0)


def test_frames_come_as_they_decode(engine: Engine, decode_gate: Any) -> None:
    job = engine.submit(small(frames=9))
    frames = job.frames()
    decode_gate.let_pass()
    first = next(frames)
    assert (first.shape, first.dtype, job.status) == ((32, 32, 3), np.uint8, "in_progress")
    decode_gate.open()
    assert np.array_equal(np.stack([first, *frames]), job.result(SECONDS).frames)
    assert job.result() is job.result()


def test_a_result_that_takes_too_long(engine: Engine, gate: Any) -> None:
    job = engine.submit(small())
    with pytest.raises(TimeoutError, match=r"not finished within 0\.01 s"):
        job.result(timeout=0.01)
    gate.open()
    assert job.result(SECONDS).frames.shape == (5, 32, 32, 3)


@pytest.mark.parametrize("request_", ["a red circle", None, {"prompt": "a red circle"}])
def test_what_is_no_request(engine: Engine, request_: Any) -> None:
    with pytest.raises(TypeError, match=r"a request must be a packdit\.runtime\.Request, got "):
        engine.submit(request_)


def test_one_bad_request_stops_the_list_before_any_work(engine: Engine) -> None:
    with pytest.raises(ValueError, match="the nearest to 50x32 is 48x32"):
        engine.generate([small(), small(width=50)])
    with pytest.raises(TypeError, match="got 'x'"):
        engine.generate([small(), "x"])  # type: ignore[list-item]
    assert engine._worker is None
    assert engine.stats()["steps"] == 0


def test_no_requests_and_any_iterable_of_them(engine: Engine) -> None:
    assert engine.generate([]) == []
    assert len(engine.generate(small(seed=i) for i in range(3))) == 3


def test_a_clip_that_is_given_whole_is_decoded_at_once(engine: Engine) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    (video,) = engine.generate([small(conditions=[Condition(frames)])])
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1
    again = to_bytes(engine.vae.decode(engine.vae.encode(pixels)).permute(1, 2, 3, 0))
    assert np.abs(video.frames.astype(int) - again.numpy()).max() <= 1  # normalized in between
    assert engine.stats()["steps"] == 0


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(engine: Engine) -> None:
    with pytest.warns(UserWarning, match="the prompt has 52 tokens; the last 20 are cut"):
        engine.generate([small("red " * 50)])


def test_a_prompt_is_encoded_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, calls = engine.text.encoders["text_encoder"], []
    model = encoder.model
    monkeypatch.setattr(encoder, "model", lambda **arguments: calls.append(1) or model(**arguments))
    requests = [small("a green triangle", seed=i, guidance=3, negative_prompt="a pink circle") for i in range(4)]
    engine.generate(requests)
    engine.generate(requests)
    assert len(calls) == 2
