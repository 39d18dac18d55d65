from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from packdit.bench import sweep as module
from packdit.bench.ceilings import Ceilings
from packdit.bench.problem import Case, Problem
from packdit.bench.sweep import sweep
from packdit.kernels.tuning import Tuned

CPU = torch.device("cpu")
X = torch.linspace(0.1, 1, 100)
factor: Tuned[int, float] = Tuned("doubling", lambda key: 2.0, lambda key: (2.0, 1.5, 0.0))


def build(device: torch.device) -> Problem:
    def run(backend: str | None) -> tuple[Tensor, ...]:
        chosen = factor(7)
        if chosen == 0:
            raise RuntimeError("does not fit")
        return (chosen * X,)

    exact = partial(torch.mul, X.double(), 2)
    return Problem(run=run, exact=lambda: (exact(),), plain=lambda: (2 * X,), flops=100, moved=800)


def run(monkeypatch: pytest.MonkeyPatch, state: str) -> list[module.OpRow]:
    monkeypatch.setattr(module, "available", lambda: {"triton": state})
    case = Case(op="double", shape="100", dtype=torch.float32, build=build)
    ceilings: Callable[[], Ceilings] = lambda: Ceilings(copy=1e9, gemm={}, peak=1e9)  # noqa: E731
    return list(sweep("s", case, CPU, ceilings, 0.0))


def test_every_candidate_is_checked_and_the_accurate_ones_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, other, broken = run(monkeypatch, "ok")
    assert (chosen.note, chosen.outcome, chosen.ratio) == ("doubling, 7: 2.0, chosen", "ok", 1)
    assert (other.note, other.outcome, other.p50_us) == ("doubling, 7: 1.5", "wrong", None)
    assert (broken.note, broken.outcome) == ("doubling, 7: 0.0: RuntimeError: does not fit", "failed")


def test_without_triton_there_is_nothing_to_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = run(monkeypatch, "no GPU")
    assert (row.outcome, row.note) == ("skipped", "no GPU")
