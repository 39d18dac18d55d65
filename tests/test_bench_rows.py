import csv
import json
from pathlib import Path

from packdit.bench.facts import Facts
from packdit.bench.rows import OpRow, Table, as_markdown, as_text, cell, fault, write_json

FACTS = Facts(date="d", commit="c", machine="m", threads=2, packdit="1", python="3", torch="2", triton="")
ROW = OpRow(section="s", op="o", shape="1, 2", dtype="float32", by="packdit cpu", outcome="ok", p50_us=123456.7)


def test_a_row_is_on_the_disk_at_once(tmp_path: Path) -> None:
    file = tmp_path / "new" / "rows.csv"
    with Table(OpRow, FACTS, file) as table:
        table.add(ROW)
        with file.open(newline="") as stream:
            (found,) = csv.DictReader(stream)
        assert (found["shape"], found["p50_us"], found["error"], found["threads"]) == ("1, 2", "123457", "", "2")
    assert table.rows == [ROW]
    assert table.stream is not None
    assert table.stream.closed


def test_without_a_file_rows_are_kept() -> None:
    with Table(OpRow, FACTS) as table:
        table.add(ROW)
    assert table.rows == [ROW]


def test_json_has_all_digits(tmp_path: Path) -> None:
    write_json(tmp_path / "rows.json", FACTS, [ROW], ceilings={"copy": 1.5})
    found = json.loads((tmp_path / "rows.json").read_text())
    assert found["facts"]["machine"] == "m"
    assert found["ceilings"] == {"copy": 1.5}
    assert found["rows"][0]["p50_us"] == 123456.7


def test_cells() -> None:
    assert [cell(value) for value in (None, 0.123456, 12.3456, 1234.56, 1.5e9, 7, "x")] == [
        *("", "0.1235", "12.35", "1235", "1.5e+09", 7, "x")
    ]


def test_tables_for_people() -> None:
    assert as_text(("a", "long"), [(1.0, "b"), ("ccc", None)]) == "a    long\n1    b\nccc"
    assert as_markdown(("a", "b"), [(1.5, "x|y")]) == "| a | b |\n| --- | --- |\n| 1.5 | x/y |"


def test_faults() -> None:
    wrong = OpRow(section="s", op="o", shape="", dtype="", by="", outcome="wrong", error=0.5, allowed=0.25)
    assert fault(wrong) == "wrong: error 0.5, allowed 0.25"
    assert fault(OpRow(section="s", op="o", shape="", dtype="", by="", outcome="failed", note="why")) == "failed: why"
