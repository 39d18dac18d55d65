import csv
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from packdit.bench import peers
from packdit.bench.families import FAMILIES, Family
from packdit.bench.peers import Options, average, families, load, run
from packdit.bench.rows import OpRow

WAN = "WanTransformer3DModel"
SMALL = Family(
    config={
        **FAMILIES[WAN].config,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "text_dim": 20,
        "freq_dim": 16,
        "ffn_dim": 40,
        "num_layers": 1,
    },
    clip=(1, 2, 2),
    mix=((1, 2, 2), (2, 1, 2), (1, 2, 2)),
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "FAMILIES", {WAN: SMALL})
    monkeypatch.setattr(peers, "reuse_freed_memory", lambda: True)  # what a command may do to its process


def call(**fields: Any) -> tuple[bool, str]:
    said: list[str] = []
    return run(Options(seconds=0.0, compile=False, commit="abc", **fields), said.append), "\n".join(said)


def test_files_and_what_a_person_reads(tmp_path: Path) -> None:
    done, said = call(csv=tmp_path / "p.csv", json=tmp_path / "p.json", plot=tmp_path / "p.png")
    assert done
    with (tmp_path / "p.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    shapes = [(row["shape"], row["by"]) for row in rows if not row["bar"]]
    assert shapes == [
        (shape, by) for shape in ("clip, 4 tokens", "mix of 3, 12 tokens") for by in ("diffusers", "packdit cpu")
    ]
    bars = [row["bar"] for row in rows if row["bar"]]
    assert bars == [f"at least {least}x diffusers eager" for least in ("1", "1.5", "1.25")]
    assert all(float(row["flops"]) > 1e4 for row in rows if row["p50_us"])
    assert "1 families, clip, geometric mean" in said
    assert (tmp_path / "p.json").exists()
    assert (tmp_path / "p.png").exists()


def test_a_model_that_differs_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def altered(*arguments: Any) -> peers.Models:
        models = load(*arguments)
        with torch.no_grad():
            models.diffusers.proj_out.bias += 1
        return models

    monkeypatch.setattr(peers, "load", altered)
    done, said = call()
    assert not done
    assert f"{WAN}, clip, 4 tokens, packdit cpu: wrong: error " in said
    assert "met: " not in said


def test_a_peer_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **more: Any) -> Any:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(peers, "converted", broken)
    said: list[str] = []
    assert run(Options(seconds=0.0), said.append)
    assert "failed: RuntimeError: no such operator" in "\n".join(said)


def test_equal_grids_have_equal_timesteps() -> None:
    clips = load(WAN, SMALL).clips(SMALL.mix)
    assert [clip["timesteps"] for clip in clips] == [900.0, 800.0, 900.0]
    assert not torch.equal(clips[0]["latents"], clips[2]["latents"])


def test_families_are_named_by_their_beginnings() -> None:
    assert families(()) == families(("wan",)) == families(("W", "wanT")) == [WAN]
    with pytest.raises(ValueError, match=r"--family must be the beginning of one of WanT\w+, got 'flux'"):
        families(("wan", "flux"))


def test_the_average_is_over_one_clip_of_each() -> None:
    def row(shape: str, ratio: float | None) -> OpRow:
        fields = {"section": "peers", "op": "o", "dtype": "float32", "by": "diffusers", "outcome": "ok"}
        return OpRow(**fields, shape=shape, ratio=ratio)  # type: ignore[arg-type]

    (bar,) = average([row("clip, 4 tokens", 2.0), row("clip, 4 tokens", 0.5), row("mix of 3", 9.0), row("clip", None)])
    assert (bar.op, bar.outcome, bar.note) == ("2 families", "missed", "reached 1")
    assert not list(average([]))
