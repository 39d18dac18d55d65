from dataclasses import replace
from pathlib import Path

import pytest

from packdit.bench import plot
from packdit.bench.ceilings import Ceilings
from packdit.bench.facts import Facts
from packdit.bench.plot import roofline, speedups
from packdit.bench.rows import OpRow

FACTS = Facts(date="d", commit="c", machine="m", threads=2, packdit="1", python="3", torch="2", triton="")
ROW = OpRow(
    section="s",
    op="o",
    shape="",
    dtype="bfloat16",
    by="packdit triton",
    outcome="ok",
    p50_us=10.0,
    flops=1e6,
    moved=1e4,
)
CEILINGS = Ceilings(copy=1e9, gemm={"bfloat16": 1e12})


def test_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [ROW, replace(ROW, by="eager", moved=1e7), replace(ROW, flops=0.0), replace(ROW, p50_us=None)]
    assert roofline(tmp_path / "new" / "r.png", rows, CEILINGS, FACTS)
    assert (tmp_path / "new" / "r.png").read_bytes().startswith(b"\x89PNG")


def test_no_picture_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not roofline(tmp_path / "r.png", [], CEILINGS, FACTS)
    assert not speedups(tmp_path / "s.png", [ROW], FACTS)
    monkeypatch.setattr(plot, "can_plot", lambda: False)
    assert not roofline(tmp_path / "r.png", [ROW], CEILINGS, FACTS)
    assert not list(tmp_path.iterdir())


def test_speedups_are_over_diffusers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [ROW, replace(ROW, by="diffusers"), replace(ROW, by="openvino"), replace(ROW, by="diffusers", shape="mix")]
    assert speedups(tmp_path / "new" / "s.png", rows, FACTS)
    assert (tmp_path / "new" / "s.png").exists()
