import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

COMMITTED = Path(__file__).resolve().parent.parent / "bench" / "results" / "aot.csv"
SOME = ["modulate", "guided_step", "qk_norm_rope half", "attention bfloat16 128 causal", "attention float32 64"]


def compile_for(file: Path, archs: list[int], cases: list[str], before: str = "") -> subprocess.CompletedProcess[str]:
    """In a process of its own: this one interprets."""
    code = f"""
import sys
from pathlib import Path
from packdit.kernels import aot
{before}
sys.exit(aot.main(Path({str(file)!r}), {archs}, {cases}))
"""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(file.parent / "cache")
    return subprocess.run([sys.executable, "-P", "-c", code], env=env, check=False, capture_output=True, text=True)


def rows(file: Path) -> dict[tuple[str, str], dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return {(row["case"], row["arch"]): row for row in csv.DictReader(stream)}


def test_the_kernels_pass_and_are_the_committed_ones(tmp_path: Path) -> None:
    archs = [80, 90, 100, 120]
    done = compile_for(tmp_path / "aot.csv", archs, SOME)
    assert done.returncode == 0, done.stderr
    found, committed = rows(tmp_path / "aot.csv"), rows(COMMITTED)
    assert set(found) == {(case, str(arch)) for case in SOME for arch in archs}
    for key, row in found.items():
        if row["triton"] == committed[key]["triton"]:
            assert row == committed[key], "what a kernel compiles to has changed: run make gate and look at the rows"


def test_the_gate_refuses_a_tile_that_is_too_large(tmp_path: Path) -> None:
    huge = "t.Tiles(block_m=128, block_n=128, num_warps=4, num_stages=4)"
    before = f"import packdit.kernels.triton_attention as t; t.tiles = lambda *_: {huge}"
    done = compile_for(tmp_path / "aot.csv", [90], SOME[3:4], before)
    assert done.returncode == 1
    assert "sm_90 attention bfloat16 128 causal: " in done.stderr
    assert "spills" in done.stderr
    assert "bytes of shared memory; allowed: 232448" in done.stderr
