import pytest
import torch

from packdit.bench import model_checks
from packdit.bench.model_checks import engine, transformer

CPU = torch.device("cpu")


@pytest.mark.parametrize("check", [transformer, engine])
def test_the_model_that_ships_is_accurate(check: object) -> None:
    assert callable(check)
    rows = list(check("s", "fp32", CPU))
    assert [(row.by, row.outcome) for row in rows] == [("packdit cpu", "ok"), ("packdit reference", "ok")]


def test_an_inaccurate_engine_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = {"auto": torch.zeros(10), "reference": torch.zeros(10), "cpu": torch.full((10,), 2 / 255)}
    monkeypatch.setattr(model_checks, "frames", lambda device, dtype, backend: pictures[backend].double() + 0.5)
    assert [row.outcome for row in engine("s", "fp32", CPU)] == ["wrong", "ok"]


def test_dtypes() -> None:
    assert model_checks.dtypes_on(CPU) == ["fp32"]
    assert model_checks.dtypes_on(torch.device("cuda")) == ["fp32", "bf16", "fp16"]
