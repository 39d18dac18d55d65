from dataclasses import replace

import pytest
import torch

from packdit.bench import model_checks
from packdit.bench.model_checks import engine, families, family, shipped

CPU = torch.device("cpu")


@pytest.mark.parametrize("check", [shipped, engine])
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


def test_families_with_random_weights_are_accurate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "WanTransformer3DModel" in families()
    small = {"num_attention_heads": 1, "attention_head_dim": 24, "ffn_dim": 40, "num_layers": 1, "text_dim": 20}
    stated = model_checks.FAMILIES["WanTransformer3DModel"]
    wan = replace(stated, config={**stated.config, **small})
    monkeypatch.setattr(model_checks, "FAMILIES", {"WanTransformer3DModel": wan})
    rows = list(family("s", "WanTransformer3DModel", "fp32", CPU))
    assert [(row.by, row.outcome) for row in rows] == [("packdit cpu", "ok"), ("packdit reference", "ok")]


def test_a_backend_that_takes_no_such_numbers_is_skipped() -> None:
    cpu, reference = shipped("s", "bf16", CPU)
    assert (cpu.outcome, reference.outcome) == ("skipped", "ok")
    assert "it takes float32 on cpu, got bfloat16" in cpu.note
