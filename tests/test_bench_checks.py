import pytest
import torch
from torch import Tensor

from packdit.bench import checks, ragged
from packdit.bench.checks import COMPANY_OPS, Company, accuracy, invariance

CPU = torch.device("cpu")


def test_accuracy_has_a_row_for_each_backend_that_takes_the_problem() -> None:
    for dtype, backends in ((torch.float32, ["cpu", "reference"]), (torch.float16, ["reference"])):
        rows = list(accuracy("s", next(ragged.cases("modulate", dtype)), CPU))
        assert [row.by for row in rows] == [f"packdit {name}" for name in backends]
        for row in rows:
            assert (row.section, row.outcome) == ("s", "ok")
            assert row.error is not None
            assert row.allowed is not None
            assert row.error <= row.allowed


@pytest.mark.parametrize("op", [op for op in COMPANY_OPS if "fp8" not in op])
def test_segments_are_alone(op: str) -> None:
    rows = list(invariance("s", op, torch.float32, CPU))
    assert [(row.shape, row.outcome) for row in rows] == [
        *(("alone", "ok"), ("in another order", "ok"), ("beside NaN", "ok"))
    ]


@pytest.mark.parametrize("op", COMPANY_OPS)
def test_the_reference_promises_nothing(op: str) -> None:
    assert not list(invariance("s", op, torch.float16, CPU))


def test_what_depends_on_its_companions_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Company.run

    def leaking(self: Company, op: str, tokens: Tensor, lengths: tuple[int, ...], backend: str) -> Tensor:
        out = run(self, op, tokens, lengths, backend)
        return out + 1e-3 * out[0]

    monkeypatch.setattr(checks.Company, "run", leaking)
    rows = list(invariance("s", "modulate", torch.float32, CPU))
    assert [row.outcome for row in rows] == ["wrong", "wrong", "ok"]
    assert rows[0].note == "other bits"
