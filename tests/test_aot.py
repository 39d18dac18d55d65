import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

COMMITTED = Path(__file__).resolve().parent.parent / "bench" / "results" / "aot.csv"
SOME = [
    *("modulate", "guided_step", "qk_norm_rope half", "patchify", "round_rows"),
    *("attention bfloat16 128", "attention bfloat16 80 causal", "attention bfloat16 128 bias", "attention float32 64"),
    *("attention bfloat16 128 specialized 64 keys, 2 stages", "attention fp8 128"),
    *("linear bfloat16 residual", "linear fp8 gelu_tanh"),
]


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


def rows(file: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return {(row["case"], row["kernel"], row["arch"]): row for row in csv.DictReader(stream)}


def test_the_kernels_pass_and_are_the_committed_ones(tmp_path: Path) -> None:
    archs = [80, 90, 100, 120]
    done = compile_for(tmp_path / "aot.csv", archs, SOME)
    assert done.returncode == 0, done.stderr
    found, committed = rows(tmp_path / "aot.csv"), rows(COMMITTED)
    assert {case for case, _, _ in found} == set(SOME)
    assert {arch for _, _, arch in found} == set(map(str, archs))
    for key, row in found.items():
        if row["triton"] == committed[key]["triton"]:
            assert row == committed[key], "what a kernel compiles to has changed: run make gate and look at the rows"


def test_the_gate_refuses_a_tile_that_is_too_large(tmp_path: Path) -> None:
    huge = "t.Tiles(block_m=128, block_n=128, num_warps=4, num_stages=4)"
    before = f"import packdit.kernels.triton_attention as t; t.tiles.rule = lambda _: {huge}"
    done = compile_for(tmp_path / "aot.csv", [90], ["attention bfloat16 128 causal"], before)
    assert done.returncode == 1
    assert "sm_90 attention bfloat16 128 causal, attention_kernel: " in done.stderr
    assert "spills" in done.stderr
    assert "bytes of shared memory; allowed: 232448" in done.stderr


def test_the_gate_refuses_slow_products_and_narrow_pieces(tmp_path: Path) -> None:
    narrow = "t.MatrixTiles(block_m=16, block_n=16, block_k=16, num_warps=4, num_stages=1)"
    before = f"import packdit.kernels.triton_linear as t; t.choice.rule = lambda _: {narrow}"
    done = compile_for(tmp_path / "aot.csv", [90], ["linear bfloat16 bias"], before)
    assert done.returncode == 1
    assert "0 HGMMA" in done.stderr
    assert "no 16-byte loads" in done.stderr


def test_a_copy_that_does_not_fit_its_buffer_is_found(tmp_path: Path) -> None:
    copy = (
        "ttng.async_tma_copy_global_to_local %d[%a, %b] %e : !tt.tensordesc<tensor<{}xbf16>> -> !ttg.memdesc<{}xbf16>"
    )
    lines = [copy.format(*shapes) for shapes in (("128x64", "128x64"), ("128x64", "64x64"), ("1x64", "64"))]
    done = compile_for(tmp_path / "aot.csv", [], [], f"print(aot.misfits({chr(10).join(lines)!r})); sys.exit()")
    assert done.stdout.strip() == "1"
