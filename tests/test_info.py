"""packdit info: what it tells of this machine, and of a model that is damaged."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("typer")
import torch
from typer.testing import CliRunner

from packdit.kernels.backend import available
from packdit.runtime import bundle
from packdit.runtime.cli import app
from packdit.runtime.info import describe, gather


@pytest.fixture
def shipped(bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models that ship: a whole one and a truncated one."""
    for name in ("whole", "broken"):
        shutil.copytree(bundle_dir, tmp_path / name)
    (tmp_path / "broken" / "vae.safetensors").write_bytes(b"")
    monkeypatch.setattr(bundle, "SHIPPED", tmp_path)
    return tmp_path


def test_json_is_one_object_with_everything(shipped: Path) -> None:
    result = CliRunner().invoke(app, ["info", "--json"])
    facts = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert facts["torch"] == torch.__version__
    assert facts["backends"] == available()
    assert facts["memory_bytes"] > 2**28
    assert facts["cpu"]["model"]
    whole = facts["models"]["whole"]
    assert (whole["family"], whole["dtype"], whole["limits"]["frame_step"]) == ("shapes", "fp32", 4)
    assert whole["bytes"] == sum(p.stat().st_size for p in (shipped / "whole").rglob("*.*") if p.name != "bundle.json")
    assert "truncated" in facts["models"]["broken"]["error"]


def test_the_text_has_a_line_for_each_fact(shipped: Path) -> None:
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 0
    for start in (
        "packdit",
        "processor",
        "instructions",
        "for int8",
        "memory",
        "GPU",
        "backend reference",
        "model whole",
    ):
        assert f"\n{start} " in f"\n{result.stdout}"
    assert "cannot be used: " in result.stdout


def test_a_backend_that_cannot_be_used_says_why(monkeypatch: pytest.MonkeyPatch, shipped: Path) -> None:
    shutil.rmtree(shipped / "whole")
    shutil.rmtree(shipped / "broken")
    facts = {**gather(), "backends": {"cpu": "it is not built"}}
    text = describe(facts)
    assert "not used: it is not built" in text
    assert "none ship with this installation" in text
