"""Results as rows of a CSV file, each on the disk as soon as it is known."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .facts import Facts


@dataclass(frozen=True, slots=True, kw_only=True)
class OpRow:
    """What was found of one implementation of one op on one shape. None: not measured, or it does not apply.

    outcome: "ok" (accurate), "wrong", "failed" (it raised), "skipped"; of a bar "met" or "missed". error: the largest,
    relative to the largest exact element; allowed: what plain PyTorch may lose, doubled. Times in microseconds, their
    20th, 50th and 80th percentile. share: of the ceiling measured in the same run. ratio: this time over that of
    packdit in the same run. flops, moved: operations and bytes that the task needs at least.
    """

    section: str
    op: str
    shape: str
    dtype: str
    by: str
    outcome: str
    error: float | None = None
    allowed: float | None = None
    p20_us: float | None = None
    p50_us: float | None = None
    p80_us: float | None = None
    rate: float | None = None
    unit: str = ""
    share: float | None = None
    ratio: float | None = None
    bar: str = ""
    note: str = ""
    flops: float | None = None
    moved: float | None = None


def fault(row: OpRow) -> str:
    """What was wrong with it."""
    if row.error is None:
        return f"{row.outcome}: {row.note}"
    return f"{row.outcome}: error {row.error:.2g}, allowed {row.allowed:.2g}"


def cell(value: Any) -> Any:
    """Floats with four significant digits, None as nothing, the rest as it is."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if 1e3 <= abs(value) < 1e7 else f"{value:.4g}"
    return value


class Table:
    """A CSV file of rows of one dataclass, each with the facts of its run; without a file only a list.

    A context manager. `rows` has all that were added.
    """

    def __init__(self, kind: type[Any], facts: Facts, file: Path | None = None) -> None:
        self.facts, self.rows = facts, list[Any]()
        self.stream = None
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            self.stream = file.open("w", newline="", encoding="utf-8")
            names = [field.name for field in (*fields(kind), *fields(facts))]
            self.writer = csv.DictWriter(self.stream, names, lineterminator="\n")
            self.writer.writeheader()
            self.stream.flush()

    def add(self, row: Any) -> None:
        self.rows.append(row)
        if self.stream is not None:
            self.writer.writerow({name: cell(value) for name, value in {**asdict(row), **asdict(self.facts)}.items()})
            self.stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.stream is not None:
            self.stream.close()


def write_json(file: Path, facts: Facts, rows: Sequence[Any], **more: Any) -> None:
    """One object: the facts, `more`, and the rows with all their digits."""
    content = {"facts": asdict(facts), **more, "rows": [asdict(row) for row in rows]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def as_text(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """A table for a terminal, columns as wide as they need."""
    cells = [[str(cell(value)) for value in line] for line in (header, *lines)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def as_markdown(header: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    """The same for a Markdown file."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(str(cell(value)).replace("|", "/") for value in row) + " |" for row in rows)
