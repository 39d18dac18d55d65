from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from packdit.bench import measure as module
from packdit.bench.bars import Bar
from packdit.bench.ceilings import Ceilings
from packdit.bench.measure import How, measure
from packdit.bench.problem import Case, Problem, eager

CPU = torch.device("cpu")
HOW = How(device=CPU, ceilings=Ceilings(copy=1e9, gemm={}, peak=1e9), seconds=0.0)
X = torch.linspace(0.1, 1, 1000)


def triple(x: Tensor) -> tuple[Tensor, ...]:
    return (3 * x,)


def wrong() -> tuple[Tensor, ...]:
    return (4 * X,)


def broken() -> tuple[Tensor, ...]:
    raise RuntimeError("no\n  such kernel")


def case(run: Callable[[str | None], Any] = lambda backend: triple(X), **fields: Any) -> Case:
    def build(device: torch.device) -> Problem:
        given = {"peers": {**eager(triple, X), "wrong": wrong, "broken": broken}, **fields}
        return Problem(
            run=run, exact=lambda: triple(X.double()), plain=lambda: triple(X), flops=3000, moved=8000, **given
        )

    return Case(op="triple", shape="s", dtype=torch.float32, build=build)


def test_only_what_is_accurate_is_timed() -> None:
    rows = {row.by: row for row in measure(case(), HOW)}
    assert {by: row.outcome for by, row in rows.items()} == {
        "packdit cpu": "ok",
        "eager": "ok",
        "wrong": "wrong",
        "broken": "failed",
    }
    assert rows["broken"].note == "RuntimeError: no such kernel"
    assert rows["wrong"].p50_us is None
    assert rows["wrong"].error == pytest.approx(1 / 3, rel=1e-3)
    ours = rows["packdit cpu"]
    assert ours.p50_us is not None
    assert ours.ratio == 1
    assert ours.unit == "GB/s"  # a millisecond by the bytes, a third of it by the operations
    assert ours.rate == pytest.approx(8000 / 1e9 / (ours.p50_us / 1e6))
    assert ours.share == pytest.approx(8e-6 / (ours.p50_us / 1e6))


def test_a_quantized_op_has_no_ceiling() -> None:
    assert {row.share for row in measure(case(limit=0.1, peers={}), HOW)} == {None}


def test_the_reference_is_measured_where_there_is_nothing_else() -> None:
    def run(backend: str | None) -> tuple[Tensor, ...]:
        if backend == "cpu":
            raise ValueError("it does not take this")
        return triple(X)

    assert [row.by for row in measure(case(run, peers={}), HOW)] == ["packdit reference"]


def test_a_backend_that_breaks_is_a_failure_and_not_left_out() -> None:
    rows = list(measure(case(lambda backend: broken(), peers={}), HOW))
    assert [(row.by, row.outcome) for row in rows] == [("packdit cpu", "failed")]


@pytest.mark.parametrize(
    ("against", "at_least", "outcome"),
    [("eager", 0.0, "met"), ("eager", 1e9, "missed"), ("ceiling", 1e9, "missed"), ("peers", 0.0, "met")],
)
def test_bars(against: str, at_least: float, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bar = Bar(op="triple", shape="s", dtype=torch.float32, device="cpu", against=against, at_least=at_least)
    others = [Bar(op="triple", shape=s, dtype=torch.float32, device=d, against=a, at_least=1) for s, d, a in OTHERS]
    monkeypatch.setattr(module, "BARS", (bar, *others))
    found = [row for row in measure(case(), HOW) if row.bar]
    assert [(row.outcome, row.bar, row.p50_us) for row in found] == [(outcome, bar.describe(), None)]
    assert found[0].note.startswith("reached ")


OTHERS = [("another", "cpu", "eager"), ("s", "cuda", "eager"), ("s", "cpu", "a peer that is not here")]


def test_bars_in_words() -> None:
    bar = Bar(op="o", shape="s", dtype=torch.float32, device="cpu", against="TFLOP/s", at_least=600.0)
    assert bar.describe() == "at least 600 TFLOP/s"
