"""A submitted request: its status, its progress, and its frames as they decode. Safe to use from any thread."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from itertools import count
from types import TracebackType

import numpy as np

from .request import CompleteRequest
from .video import Video


class Cancelled(Exception):
    """Raised by `Job.result` and `Job.frames` when the job was cancelled."""


class Job:
    """What `Engine.submit` returns.

    status: "queued", "in_progress", "completed", "failed" or "cancelled". phase: what is being worked on, one of
    "text", "steps", "decode", "done"; done_in_phase of total_in_phase counts its stages or frames.
    """

    def __init__(self, request: CompleteRequest) -> None:
        self.request = request
        self.status, self.phase = "queued", "text"
        self.done_in_phase, self.total_in_phase = 0, 1
        self.error: BaseException | None = None
        self._traceback: TracebackType | None = None
        self._frames: list[np.ndarray] = []
        self._video: Video | None = None
        self._changed = threading.Condition()
        self._cancel = threading.Event()

    @property
    def progress(self) -> float:
        """0 to 1; a step of the sampler and a decoded frame count alike. 1 only when all frames are there."""
        with self._changed:
            frames, steps = self.request.frames, self.request.steps
            share = self.done_in_phase / max(1, self.total_in_phase)
            done = {"text": 0.0, "steps": steps * share, "decode": steps + frames * share, "done": steps + frames}
            return done[self.phase] / (steps + frames)

    @property
    def finished(self) -> bool:
        """True when nothing more will happen: completed, failed or cancelled."""
        return self.status in ("completed", "failed", "cancelled")

    def cancel(self) -> None:
        """Asks the engine to drop the job; it does so before its next step. No effect on a finished job."""
        self._cancel.set()

    def frames(self) -> Iterator[np.ndarray]:
        """Yields uint8 [h, w, 3], one by one as they decode; raises what the job failed with, or `Cancelled`."""
        for index in count():
            frame = self._frame(index)
            if frame is None:
                return
            yield frame

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the job is finished, `timeout` seconds at most; True if it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self.finished, timeout)

    def result(self, timeout: float | None = None) -> Video:
        """The video, always the same one; waits for it. TimeoutError after `timeout` seconds.

        Raises what the job failed with, or `Cancelled`.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"the job was not finished within {timeout} s")
        with self._changed:
            self._raise()
            if self._video is None:
                self._video = Video(frames=np.stack(self._frames), fps=self.request.fps)
                self._frames = list(self._video.frames)  # views, so that the frames are held once
            return self._video

    def _frame(self, index: int) -> np.ndarray | None:
        """Waits for a frame; None after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._frames) > index or self.finished)
            if index < len(self._frames):
                return self._frames[index]
            self._raise()
            return None

    def _raise(self) -> None:
        if self.status == "cancelled":
            raise Cancelled("the job was cancelled")
        if self.error is not None:
            raise self.error.with_traceback(self._traceback)  # or it would grow with every call

    # Below: called by the engine alone.

    @property
    def cancel_asked(self) -> bool:
        return self._cancel.is_set()

    def advance(self, phase: str, done: int, total: int) -> None:
        """Says what is being worked on."""
        with self._changed:
            self.status, self.phase, self.done_in_phase, self.total_in_phase = "in_progress", phase, done, total
            self._changed.notify_all()

    def add(self, frames: np.ndarray) -> None:
        """Takes decoded frames [n, h, w, 3]."""
        with self._changed:
            self._frames.extend(frames)
            self.done_in_phase += len(frames)
            self._changed.notify_all()

    def finish(self, status: str, error: BaseException | None = None) -> None:
        """Ends the job; no effect on one that has ended."""
        with self._changed:
            if self.finished:
                return
            self.status, self.error = status, error
            if status == "completed":
                self.phase = "done"
            if error is not None:
                self._traceback = error.__traceback__
                traceback.clear_frames(self._traceback)  # or the job would keep the tensors of the failed step
            self._changed.notify_all()
