from dataclasses import replace

from packdit.bench.ceilings import Ceilings
from packdit.bench.facts import Facts
from packdit.bench.report import MAX_FAULTS, headline, report
from packdit.bench.rows import OpRow

FACTS = Facts(date="d", commit="c", machine="a GPU", threads=2, packdit="1", python="3", torch="2", triton="")
ROW = OpRow(section="one", op="modulate", shape="wide", dtype="bfloat16", by="packdit triton", outcome="ok")
TIMED = replace(ROW, section="times", p20_us=9.0, p50_us=10.0, p80_us=11.0, rate=3.0, unit="GB/s", share=0.5, ratio=1.0)
PEERS = [replace(TIMED, by="eager", p50_us=30.0, ratio=3.0), replace(TIMED, by="compile", p50_us=20.0, ratio=2.0)]
BAR = replace(ROW, section="times", outcome="missed", bar="at least 2x eager", note="reached 1.5")


def test_the_verdict_comes_first() -> None:
    text = report([ROW, TIMED, *PEERS, BAR], FACTS, {"one": 2.0, "times": 3.4}, Ceilings(copy=1e9, gemm={}))
    assert text.startswith("# a GPU: everything that ran is accurate, 4 rows; 0 of 1 bars met\n")
    assert "| modulate | wide | packdit triton | 10 | 3 GB/s | 50 % | compile | 2 |" in text
    assert "| missed | modulate | wide | at least 2x eager | reached 1.5 |" in text
    assert "| times | 3 | 0 | 0 | 0 | 3 |" in text
    assert "## Faults" not in text
    assert "triton not installed" in text


def test_faults_are_shown_and_not_too_many() -> None:
    bad = [replace(ROW, outcome="wrong", error=0.5, allowed=0.1)] + 40 * [replace(ROW, outcome="failed", note="a|b")]
    text = report([ROW, *bad], FACTS, {})
    assert text.splitlines()[0] == "# a GPU: 41 FAULTS, 1 rows"
    assert "| wrong: error 0.5, allowed 0.1 |" in text
    assert text.count("failed: a/b") == MAX_FAULTS - 1
    assert "And 11 more, in gpu.csv." in text


def test_nothing_ran() -> None:
    assert headline([]) == "everything that ran is accurate, 0 rows"
    assert headline([replace(ROW, outcome="skipped")]).endswith("0 rows; 1 skipped")
