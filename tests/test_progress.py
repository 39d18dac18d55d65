"""The bar: its phases, and that it says 100 % only when all is done."""

import io
import re
import sys

import numpy as np
import pytest

pytest.importorskip("tqdm")
from packdit.runtime.job import Job
from packdit.runtime.progress import Progress, say
from packdit.runtime.request import CompleteRequest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def request(steps: int, frames: int) -> CompleteRequest:
    return CompleteRequest(width=64, height=64, frames=frames, fps=8, steps=steps, guidance=1, sampler="euler")


def shown(progress: Progress, jobs: list[Job], written: int) -> str:
    progress.show(jobs, written)
    return str(progress.bar.desc)


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Takes the place of stderr; no fixture, because pytest sets stderr anew after its setup."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_each_phase_counts_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    jobs = [Job(request(4, 5)), Job(request(2, 1))]
    with Progress([job.request for job in jobs]) as progress:
        assert progress.bar.desc == "  0% load"
        assert shown(progress, jobs, 0) == "  0% text"
        jobs[0].advance("steps", 1, 8)  # a sampler with two stages a step
        assert shown(progress, jobs, 0) == "  0% text"
        jobs[1].advance("steps", 1, 2)
        assert shown(progress, jobs, 0) == "  7% steps 1/6"
        jobs[0].advance("steps", 8, 8)
        assert shown(progress, jobs, 0) == " 35% steps 5/6"
        jobs[1].advance("decode", 0, 1)
        jobs[0].advance("decode", 0, 5)
        assert shown(progress, jobs, 0) == " 42% decode 0/6"
        jobs[0].add(np.zeros((5, 64, 64, 3), np.uint8))
        jobs[0].finish("completed")
        assert shown(progress, jobs, 1) == " 85% decode 5/6"
        jobs[1].add(np.zeros((1, 64, 64, 3), np.uint8))
        jobs[1].finish("completed")
        assert shown(progress, jobs, 1) == " 92% write 1/2"
        assert shown(progress, jobs, 2) == "100% write 2/2"
    assert stream.getvalue().endswith("\r")


def test_the_share_is_rounded_down(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    job = Job(request(1000, 257))
    with Progress([job.request]) as progress:
        job.advance("decode", 257, 257)
        assert shown(progress, [job], 0) == " 99% write 0/1"
    percents = [int(text) for text in re.findall(r"(\d+)%", stream.getvalue())]
    assert sorted(set(percents)) == [0, 99]


def test_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(request(2, 1))
    with Progress([job.request]) as progress:
        progress.show([job], 0)
        say("a line", sys.stdout)
    assert tuple(capsys.readouterr()) == ("a line\n", "")
