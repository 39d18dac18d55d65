"""The parent of `make gpu-check`, with stand-ins for its sections' processes, and once as it is."""

import csv
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from packdit.bench.facts import Facts
from packdit.bench.gpu_check import Check, main
from packdit.bench.rows import OpRow, Table
from packdit.bench.sections import Item, Section

FACTS = Facts(date="d", commit="c", machine="m", threads=2, packdit="1", python="3", torch="2", triton="")
ROW = json.dumps({"row": asdict(OpRow(section="s", op="o", shape="", dtype="", by="packdit", outcome="ok"))})
SAY = "import sys, os, time\nskip = int(sys.argv[1])\ndef say(text): print(text, flush=True)\n"
AT = 'say(\'{"at": %d, "item": "item %d"}\')\n'
DONE = "say('{\"done\": true}')\n"


def nothing(device: torch.device) -> Iterator[Item]:
    return iter(())


def run(tmp_path: Path, script: str, seconds: float = 30.0, left: float = 60.0) -> tuple[list[OpRow], Check]:
    """A section whose process is this script; its first argument says what to skip."""

    def command(section: Section, skip: int) -> Sequence[str]:
        return [sys.executable, "-I", "-S", "-c", SAY + script, str(skip)]

    section = Section(name="s", seconds=seconds, items=nothing)
    with Table(OpRow, FACTS, tmp_path / "gpu.csv") as table:
        check = Check(table=table, end=time.monotonic() + left, command=command, log=tmp_path / "log.txt")
        check.run([section])
    return table.rows, check


def test_rows_are_kept_and_what_is_printed_goes_to_the_log(tmp_path: Path) -> None:
    rows, check = run(tmp_path, f"{AT % (0, 0)}say({ROW!r})\nsys.stderr.write('a warning')\n{DONE}")
    assert [row.outcome for row in rows] == ["ok"]
    assert (tmp_path / "log.txt").read_text() == "a warning"
    assert list(check.seconds) == ["s"]


def test_a_process_that_breaks_is_followed_by_one_for_the_rest(tmp_path: Path) -> None:
    script = f"if skip == 0:\n    {AT % (0, 0)}    {AT % (1, 1)}    os._exit(9)\n{AT % (2, 2)}say({ROW!r})\n{DONE}"
    rows, _ = run(tmp_path, script)
    assert [(row.op, row.outcome, row.note) for row in rows] == [
        *(("item 1", "failed", "its process ended with code 9"), ("o", "ok", ""))
    ]


def test_a_section_that_always_breaks_ends(tmp_path: Path) -> None:
    rows, _ = run(tmp_path, "os._exit(1)\n")
    assert [row.outcome for row in rows] == 4 * ["failed"]


@pytest.mark.parametrize(("seconds", "left"), [(0.5, 60.0), (60.0, 0.5)])
def test_a_process_that_hangs_is_stopped(seconds: float, left: float, tmp_path: Path) -> None:
    start = time.monotonic()
    rows, _ = run(tmp_path, f"say({ROW!r})\n{AT % (3, 3)}time.sleep(60)\n", seconds, left)
    assert time.monotonic() - start < 20
    assert rows[-1].note == "stopped: the section's time was over"
    assert rows[-1].outcome == "skipped"


def test_what_there_is_no_time_for_does_not_start(tmp_path: Path) -> None:
    rows, _ = run(tmp_path, "os._exit(1)\n", left=0.0)
    assert [row.outcome for row in rows] == ["skipped"]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")


@pytest.mark.usefixtures("compiled")
def test_without_a_gpu_it_says_so_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert shown.err == f"gpu-check needs a GPU, and PyTorch {torch.__version__} finds none here.\n"
    assert not (tmp_path / "out").exists()


def test_it_never_interprets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--device", "cpu", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "gpu-check does not interpret: unset TRITON_INTERPRET.\n"


@pytest.mark.usefixtures("compiled")
def test_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--out", str(tmp_path), "--commit", "abc", "--only", "times of rows"]) == 0
    with (tmp_path / "gpu.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["commit"] for row in rows} == {"abc"}
    assert {row["outcome"] for row in rows} == {"ok"}
    assert {row["by"] for row in rows} == {"packdit cpu", "packdit reference", "eager"}
    assert "everything that ran is accurate" in (tmp_path / "report.md").read_text().splitlines()[0]
    assert {file.name for file in tmp_path.iterdir()} <= {"gpu.csv", "report.md", "roofline.png", "log.txt"}
    assert "Ceilings of this run: copy " in capsys.readouterr().out


def test_the_make_target_needs_no_other_and_no_git() -> None:
    """What make would run, in a checkout where nothing was built."""
    root = Path(__file__).resolve().parent.parent
    command = ["make", "--dry-run", "--always-make", "gpu-check", "PYTHON=some-python", "OUT=there", "COMMIT=abc"]
    shown = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    assert 'some-python -m packdit.bench.gpu_check --out "there" --commit "abc"' in shown
    assert "env -u TRITON_INTERPRET" in shown
    assert not re.search(r"venv|\bgit\b|constraints", shown)
