from dataclasses import replace

from packdit.bench.rows import OpRow
from packdit.bench.show import accurate, describe_bar, line, show, summarize

ROW = OpRow(section="s", op="o", shape="wide", dtype="float32", by="packdit cpu", outcome="ok", share=0.256)
WRONG = replace(ROW, outcome="wrong", error=0.5, allowed=0.1)
BAR = replace(ROW, outcome="missed", bar="at least 2x eager", note="reached 1")


def test_a_line() -> None:
    assert line(ROW)[0] == "packdit cpu"
    assert line(ROW)[6] == "26 %"
    assert line(replace(ROW, note="compiled in 3 s"))[-1] == "compiled in 3 s"
    assert line(WRONG)[-1] == "wrong: error 0.5, allowed 0.1"


def test_only_packdits_results_count() -> None:
    assert accurate([ROW, BAR, replace(WRONG, by="eager")])
    assert not accurate([ROW, WRONG])


def test_a_case_and_the_end_of_a_run() -> None:
    said: list[str] = []
    show([ROW, BAR], said.append)
    assert said[0] == "o, wide, float32"
    assert said[-1] == describe_bar(BAR) + "\n" == "missed: o, wide: at least 2x eager; reached 1\n"
    said.clear()
    summarize([ROW, WRONG, BAR], said.append)
    assert said == [
        *("o, wide, packdit cpu: wrong: error 0.5, allowed 0.1", "missed: o, wide: at least 2x eager; reached 1"),
        "0 of 1 bars met",
    ]
