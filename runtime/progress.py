"""How far a run is, on one line of stderr."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from tqdm import tqdm  # type: ignore[import-untyped]  # its types are a package of their own

from .request import CompleteRequest

if TYPE_CHECKING:
    from .job import Job


def say(text: str, stream: TextIO) -> None:
    """A line on `stream`, above the bar where there is one."""
    tqdm.write(text, file=stream)


class Progress:
    """A bar with the phase, the share of all work that is done, and the time left; nothing where stderr is no terminal.

    A denoising step, a decoded frame and a written file count as one each. The share is rounded down: it is 100 % only
    when the last file is there.
    """

    def __init__(self, requests: Sequence[CompleteRequest]) -> None:
        self.steps, self.frames = sum(r.steps for r in requests), sum(r.frames for r in requests)
        self.files = len(requests)
        self.bar = tqdm(
            total=self.steps + self.frames + self.files,
            bar_format="{desc} |{bar}| {elapsed}<{remaining}",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            mininterval=0,
            miniters=0,
            leave=False,
            desc="  0% load",
        )

    def show(self, jobs: Sequence[Job], written: int) -> None:
        """Looks at the jobs, one a request."""
        done = [job.progress * (job.request.steps + job.request.frames) + 1e-6 for job in jobs]
        steps = sum(math.floor(min(d, j.request.steps)) for d, j in zip(done, jobs, strict=True))
        frames = sum(math.floor(max(0, d - j.request.steps)) for d, j in zip(done, jobs, strict=True))
        if any(job.phase == "text" for job in jobs):
            phase = "text"
        elif steps < self.steps:
            phase = f"steps {steps}/{self.steps}"
        elif frames < self.frames:
            phase = f"decode {frames}/{self.frames}"
        else:
            phase = f"write {written}/{self.files}"
        ready, total = steps + frames + written, self.steps + self.frames + self.files
        self.bar.set_description_str(f"{100 * ready // total:3d}% {phase}", refresh=False)
        self.bar.update(ready - self.bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.close()
