"""Rows for a person at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .measure import OURS
from .rows import OpRow, as_text, fault

HEADER = ("by", "p20 us", "p50 us", "p80 us", "rate", "", "of ceiling", "/ packdit", "")


def show(rows: Sequence[OpRow], say: Callable[[str], None]) -> None:
    """All rows of one case: a title, a line each, then the bars."""
    first = rows[0]
    say(f"{first.op}, {first.shape}, {first.dtype}")
    say(as_text(HEADER, [line(row) for row in rows if not row.bar]))
    say("".join(f"{describe_bar(row)}\n" for row in rows if row.bar))


def accurate(rows: Sequence[OpRow]) -> bool:
    """Whether all results of packdit's are; peers and bars do not count."""
    return not any(row.by.startswith(OURS) and row.outcome in ("wrong", "failed") for row in rows)


def line(row: OpRow) -> tuple[object, ...]:
    """A row for HEADER."""
    share = None if row.share is None else f"{100 * row.share:.0f} %"
    result = row.note if row.outcome == "ok" else fault(row)
    return (row.by, row.p20_us, row.p50_us, row.p80_us, row.rate, row.unit, share, row.ratio, result)


def describe_bar(row: OpRow) -> str:
    """What was promised and what was reached."""
    return f"{row.outcome}: {row.op}, {row.shape}: {row.bar}; {row.note}"


def summarize(rows: Sequence[OpRow], say: Callable[[str], None]) -> None:
    """What matters most, last."""
    for row in rows:
        if row.outcome in ("wrong", "failed"):
            say(f"{row.op}, {row.shape}, {row.by}: {fault(row)}")
    bars = [row for row in rows if row.bar]
    for row in bars:
        say(describe_bar(row))
    if bars:
        say(f"{sum(row.outcome == 'met' for row in bars)} of {len(bars)} bars met")
