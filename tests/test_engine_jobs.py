"""Jobs that fail, are cancelled or interrupted: each on its own, nobody waits for ever, and nothing stays behind."""

import gc
import logging
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packdit.runtime import Cancelled, Engine, Request
from packdit.runtime.job import Job
from packdit.runtime.video import Video

SECONDS = 60.0  # more than anything here takes


def small(prompt: str = "a red circle", **fields: Any) -> Request:
    return Request(prompt=prompt, **{"width": 32, "height": 32, "frames": 5, "steps": 2, "guidance": 1, **fields})


def same(got: list[Video], want: list[Video]) -> bool:
    return all(np.array_equal(a.frames, b.frames) for a, b in zip(got, want, strict=True))


def is_cancelled(job: Job) -> bool:
    assert job.wait(SECONDS)
    with pytest.raises(Cancelled):
        job.result()
    return job.status == "cancelled"


def test_cancel_in_the_queue(engine: Engine, gate: Any) -> None:
    first = engine.submit(small())
    gate.wait()
    second = engine.submit(small(seed=1))
    second.cancel()
    assert second.status == "queued"
    gate.open()
    assert is_cancelled(second)
    assert first.result(SECONDS).frames.any()


def test_cancel_between_steps(engine: Engine, gate: Any) -> None:
    first, second = engine.submit_all([small(steps=4), small(steps=4, seed=1)])
    gate.wait()
    first.cancel()
    gate.open()
    assert is_cancelled(first)
    assert same([second.result(SECONDS)], engine.generate([small(steps=4, seed=1)]))


def test_cancel_while_decoding(engine: Engine, decode_gate: Any) -> None:
    job = engine.submit(small(frames=13))
    frames = job.frames()
    decode_gate.let_pass()
    next(frames)
    job.cancel()
    decode_gate.open()
    with pytest.raises(Cancelled):
        for _ in frames:
            pass
    assert is_cancelled(job)
    job.cancel()
    assert engine.generate([small()])


def test_cancelling_a_finished_job_changes_nothing(engine: Engine) -> None:
    job = engine.submit(small())
    video = job.result(SECONDS)
    job.cancel()
    engine.generate([small()])
    assert job.result() is video


def break_admission(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from packdit.runtime.engine import make_sample

    def failing(request: Request, *arguments: Any) -> Any:
        if request.seed == 13:
            raise OSError("no luck")
        return make_sample(request, *arguments)  # type: ignore[arg-type]  # it is complete

    monkeypatch.setattr("packdit.runtime.engine.make_sample", failing)


def break_steps(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = engine.transformer.run

    def failing(tokens: torch.Tensor, pack: Any) -> torch.Tensor:
        if 2 * 16 in pack.cu_seqlens.diff():  # the tokens of the request at fault
            raise OSError("no luck")
        return run(tokens, pack)

    monkeypatch.setattr(engine.transformer, "run", failing)


def break_decoding(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = engine.vae.model.decoder.forward

    def failing(z: torch.Tensor, stream: Any) -> torch.Tensor:
        if z.shape[1] == 8 and stream:
            raise OSError("no luck")
        return decode(z, stream)  # type: ignore[no-any-return]

    monkeypatch.setattr(engine.vae.model.decoder, "forward", failing)


@pytest.mark.parametrize("break_it", [break_admission, break_steps, break_decoding])
def test_a_request_fails_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, break_it: Callable[[Engine, pytest.MonkeyPatch], None]
) -> None:
    neighbours = [small(steps=4), small(seed=1, guidance=3)]
    want = engine.generate(neighbours)
    break_it(engine, monkeypatch)
    jobs = engine.submit_all([neighbours[0], small(seed=13, width=64, height=64), neighbours[1]])
    assert same([jobs[0].result(SECONDS), jobs[2].result(SECONDS)], want)
    assert jobs[1].wait(SECONDS)
    assert jobs[1].status == "failed"
    for _ in range(2):
        with pytest.raises(OSError, match="no luck"):
            jobs[1].result()
    with pytest.raises(OSError, match="no luck"):
        list(jobs[1].frames())
    with pytest.raises(OSError, match="no luck"):
        engine.generate([small(seed=13, width=64, height=64), small()])


@pytest.mark.parametrize("error", [RuntimeError("a bug"), SystemExit(1)])
def test_a_failure_of_the_engine_itself_leaves_nobody_waiting(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def failing() -> None:
        raise error

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(engine, "_drop_cancelled", failing)
        jobs = engine.submit_all([small(), small(seed=1)])
        assert all(job.wait(SECONDS) for job in jobs)
    assert [job.error for job in jobs] == [error, error]
    assert "the engine failed" in caplog.text
    assert engine.generate([small()])


def test_closing_cancels(engine: Engine, gate: Any) -> None:
    jobs = engine.submit_all([small(steps=9), small(steps=9)])
    gate.wait()
    jobs.append(engine.submit(small()))
    closing = threading.Thread(target=engine.close)
    closing.start()
    while not engine._closed:
        time.sleep(0.001)
    gate.open()
    closing.join(SECONDS)
    assert all(is_cancelled(job) for job in jobs)
    assert engine.stats()["steps"] == 1
    engine.close()
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.submit(small())


def test_the_context_manager_closes(new_engine: Callable[..., Engine]) -> None:
    with new_engine() as engine:
        pass
    with pytest.raises(RuntimeError, match="the engine is closed"):
        engine.generate([small()])


def test_ctrl_c_cancels_what_generate_waits_for(engine: Engine, gate: Any) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        gate.wait()
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.generate([small(steps=1000), small(steps=1000)])
    finally:
        signal.signal(signal.SIGINT, before)
    gate.open()
    while engine._worker is not None:
        time.sleep(0.001)
    assert engine.stats()["steps"] == 1


EXIT = """
import sys
from packdit.runtime import Engine, Request
engine = Engine.load(sys.argv[1])
jobs = engine.submit_all([Request(steps=1000, seed=i) for i in range(3)])
next(iter(engine.submit(Request(steps=1)).frames()))
print(jobs[0].status)
"""


def test_an_engine_that_was_not_closed_does_not_keep_the_interpreter(bundle_dir: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", EXIT, str(bundle_dir)], capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "in_progress\n", "")


def test_an_engine_that_is_dropped_is_freed(bundle_dir: Path) -> None:
    engine = Engine.load(bundle_dir)
    engine.generate([small()])
    freed = weakref.ref(engine)
    del engine
    deadline = time.monotonic() + SECONDS
    while freed() is not None and time.monotonic() < deadline:
        gc.collect()
    assert freed() is None


def test_a_failed_job_keeps_nothing_of_its_step(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []

    def failing(tokens: torch.Tensor, pack: Any) -> torch.Tensor:
        kept.append(weakref.ref(tokens))
        raise OSError("no luck")

    monkeypatch.setattr(engine.transformer, "run", failing)
    job = engine.submit(small())
    assert job.wait(SECONDS)
    assert job.error is not None
    while engine._worker is not None:
        time.sleep(0.001)
    gc.collect()
    assert [ref() for ref in kept] == [None] * len(kept)
