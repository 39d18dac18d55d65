"""Jobs by themselves: what they tell, and how they end."""

import threading
import traceback
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from packdit.runtime import Cancelled
from packdit.runtime.job import Job


@pytest.fixture
def new_job(runtime: SimpleNamespace) -> Callable[[], Job]:
    """A job of 5 frames and 16 steps."""
    return lambda: Job(runtime.sample(width=32, height=32, frames=5).request)


def chunk(n: int, value: int = 0) -> np.ndarray:
    return np.full((n, 32, 32, 3), value, np.uint8)


def test_progress_counts_steps_and_frames_alike(new_job: Callable[[], Job]) -> None:
    job = new_job()
    assert (job.status, job.phase, job.progress, job.finished) == ("queued", "text", 0.0, False)
    job.advance("steps", 4, 16)
    assert (job.status, job.progress) == ("in_progress", 4 / 21)
    job.advance("steps", 12, 32)  # Heun has two stages a step
    assert job.progress == 6 / 21
    job.advance("decode", 0, 5)
    assert job.progress == 16 / 21
    job.add(chunk(1))
    assert job.progress == 17 / 21
    job.add(chunk(4))
    job.finish("completed")
    assert (job.status, job.phase, job.progress, job.finished) == ("completed", "done", 1.0, True)


def test_frames_are_there_for_every_reader(new_job: Callable[[], Job]) -> None:
    job, seen = new_job(), []
    reader = threading.Thread(target=lambda: seen.extend(frame[0, 0, 0] for frame in job.frames()))
    reader.start()
    job.add(chunk(1, 1))
    job.add(chunk(4, 2))
    job.finish("completed")
    reader.join(60)
    assert seen == [1, 2, 2, 2, 2]
    assert [frame[0, 0, 0] for frame in job.frames()] == seen


def test_the_frames_of_a_finished_job_are_held_once(new_job: Callable[[], Job]) -> None:
    job = new_job()
    job.add(chunk(5))
    job.finish("completed")
    video = job.result()
    assert job.result() is video
    assert all(np.shares_memory(frame, video.frames) for frame in job.frames())
    assert video.fps == 8.0


def test_it_ends_once(new_job: Callable[[], Job]) -> None:
    job = new_job()
    job.finish("cancelled")
    job.finish("failed", OSError("late"))
    assert (job.status, job.error) == ("cancelled", None)
    with pytest.raises(Cancelled):
        job.result()


def test_an_error_is_raised_as_it_was_however_often(new_job: Callable[[], Job]) -> None:
    job = new_job()
    try:
        raise OSError("no luck")
    except OSError as error:
        job.finish("failed", error)
    lengths = []
    for _ in range(3):
        with pytest.raises(OSError, match="no luck") as caught:
            job.result()
        lengths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(set(lengths)) == 1


def test_wait_and_timeouts(new_job: Callable[[], Job]) -> None:
    job = new_job()
    assert not job.wait(0.001)
    with pytest.raises(TimeoutError, match=r"not finished within 0\.001 s"):
        job.result(0.001)
    job.finish("cancelled")
    assert job.wait(0.001)
