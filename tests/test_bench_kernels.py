import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from packdit.bench import kernels
from packdit.bench.kernels import Options, run
from packdit.bench.problem import Problem
from packdit.bench.registry import cases

CPU = torch.device("cpu")


def call(tmp_path: Path, **fields: Any) -> tuple[bool, str]:
    said: list[str] = []
    options = Options(device=CPU, scale="tiny", seconds=0.0, compile=False, ops=("norm_silu",), commit="abc", **fields)
    return run(options, said.append), "\n".join(said)


@pytest.fixture(autouse=True)
def own_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command may do to its process, a test may not."""
    monkeypatch.setattr(kernels, "reuse_freed_memory", lambda: True)


def test_files_and_what_a_person_reads(tmp_path: Path) -> None:
    done, said = call(tmp_path, csv=tmp_path / "r.csv", json=tmp_path / "r.json", plot=tmp_path / "r.png")
    assert done
    assert "commit abc" in said.splitlines()[0]
    assert "ceilings of this run: copy " in said
    assert "norm_silu, Wan's decoder, 24 x 40, float32" in said
    with (tmp_path / "r.csv").open(newline="") as stream:
        assert [row["by"] for row in csv.DictReader(stream)] == ["packdit cpu", "eager"]
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["ceilings"]["peak"] > 0
    assert len(found["rows"]) == 2
    assert (tmp_path / "r.png").exists()


def test_a_wrong_result_is_said_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(scale: str, ops: set[str] | None) -> list[Any]:
        (case,) = cases(scale, ops)

        def build(device: torch.device) -> Problem:
            problem = case.build(device)
            return replace(problem, run=lambda backend: tuple(2 * x for x in problem.run(backend)))

        return [replace(case, build=build)]

    monkeypatch.setattr(kernels, "cases", broken)
    done, said = call(tmp_path)
    assert not done
    assert "norm_silu, Wan's decoder, 24 x 40, packdit cpu: wrong: error " in said.splitlines()[-1]
