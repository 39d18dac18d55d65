"""report.md of `make gpu-check`: what a person reads in two minutes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from .ceilings import Ceilings
from .facts import Facts
from .measure import OURS
from .rows import OpRow, as_markdown, fault

MAX_FAULTS = 30


def report(rows: Sequence[OpRow], facts: Facts, seconds: Mapping[str, float], ceilings: Ceilings | None = None) -> str:
    """The verdict first, then faults, bars, times, sections."""
    parts = [
        f"# {facts.machine}: {headline(rows)}",
        f"packdit {facts.packdit}, commit {facts.commit}, {facts.date} UTC; torch {facts.torch}, triton "
        f"{facts.triton or 'not installed'}, Python {facts.python}.",
    ]
    if ceilings is not None:
        parts.append(f"Ceilings of this run: {ceilings.describe()}.")
    parts += faults(rows)
    parts += [*bars(rows), *times(rows)]
    parts += ["## Sections", sections(rows, seconds)]
    return "\n\n".join(parts) + "\n"


def headline(rows: Sequence[OpRow]) -> str:
    """In one line."""
    count = Counter(row.outcome for row in rows)
    bad = count["wrong"] + count["failed"]
    verdict = "everything that ran is accurate" if not bad else f"{bad} FAULTS"
    bars = f"; {count['met']} of {count['met'] + count['missed']} bars met" if count["met"] + count["missed"] else ""
    skipped = f"; {count['skipped']} skipped" if count["skipped"] else ""
    return f"{verdict}, {count['ok']} rows{bars}{skipped}"


def faults(rows: Sequence[OpRow]) -> list[str]:
    bad = [row for row in rows if row.outcome in ("wrong", "failed")]
    if not bad:
        return []
    header = ("section", "op", "shape", "dtype", "by", "result")
    lines = [(row.section, row.op, row.shape, row.dtype, row.by, fault(row)) for row in bad[:MAX_FAULTS]]
    more = [f"And {len(bad) - MAX_FAULTS} more, in gpu.csv."] if len(bad) > MAX_FAULTS else []
    return ["## Faults", as_markdown(header, lines), *more]


def bars(rows: Sequence[OpRow]) -> list[str]:
    found = [row for row in rows if row.bar]
    if not found:
        return []
    lines = [(row.outcome, row.op, row.shape, row.bar, row.note) for row in found]
    return ["## Bars", as_markdown(("", "op", "shape", "promised", ""), lines)]


def times(rows: Sequence[OpRow]) -> list[str]:
    """One line a case: packdit's first backend, and the fastest peer."""
    header = ("op", "shape", "by", "µs", "rate", "of ceiling", "fastest peer", "its time over ours")
    lines = list(_lines(rows))
    return ["## Times", as_markdown(header, lines)] if lines else []


def _lines(rows: Sequence[OpRow]) -> Iterator[tuple[object, ...]]:
    cases: dict[tuple[str, str, str, str], list[OpRow]] = {}
    for row in rows:
        if row.p50_us is not None:
            cases.setdefault((row.section, row.op, row.shape, row.dtype), []).append(row)
    for found in cases.values():
        ours = next((row for row in found if row.by.startswith(OURS)), found[0])
        peers = [row for row in found if not row.by.startswith(OURS) and row is not ours]
        best = min(peers, key=lambda row: row.p50_us or 0.0, default=None)
        share = "" if ours.share is None else f"{100 * ours.share:.0f} %"
        peer = ("", "") if best is None else (best.by, best.ratio)
        yield (ours.op, ours.shape, ours.by, ours.p50_us, f"{ours.rate:.4g} {ours.unit}", share, *peer)


def sections(rows: Sequence[OpRow], seconds: Mapping[str, float]) -> str:
    """What each section gave, and how long it took."""
    outcomes = ("ok", "wrong", "failed", "skipped")
    lines = []
    for name in dict.fromkeys((*seconds, *(row.section for row in rows))):
        count = Counter(row.outcome for row in rows if row.section == name)
        lines.append((name, *(count[outcome] for outcome in outcomes), round(seconds.get(name, 0.0))))
    return as_markdown(("section", *outcomes, "seconds"), lines)
