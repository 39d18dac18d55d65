"""Pictures of rows. matplotlib is optional: without it nothing is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from .ceilings import Ceilings
from .facts import Facts
from .rows import OpRow

COLOURS = {
    "packdit": "#c0392b",
    "eager": "#7f8c8d",
    "diffusers": "#7f8c8d",
    "compile": "#2980b9",
    "openvino": "#27ae60",
}
OTHERS = "#8e44ad"
QUANTIZED = ", task of a quantized op"  # the roof is not that of its numbers


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def roofline(file: Path, rows: Sequence[OpRow], ceilings: Ceilings, facts: Facts) -> bool:
    """Operations a byte against operations a second, under the ceilings of the same run; whether it was drawn.

    Ops that compute nothing have no place in it.
    """
    points = [
        (who(row) + QUANTIZED * (row.share is None), row.flops / row.moved, row.flops / row.p50_us * 1e6)
        for row in rows
        if row.p50_us and row.flops and row.moved and not row.bar
    ]
    if not (points and can_plot()):
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", yscale="log")
    left, right = min(x for _, x, _ in points) / 2, max(x for _, x, _ in points) * 2
    top = max(ceilings.operations(row.dtype) for row in rows)
    ridge = top / ceilings.copy
    axes.plot([left, max(ridge, left), max(right, ridge)], [left * ceilings.copy, top, top], color="black", linewidth=1)
    for name in sorted({name for name, _, _ in points}, key=lambda name: (not name.startswith("packdit"), name)):
        xs, ys = zip(*((x, y) for other, x, y in points if other == name), strict=True)
        marker = "^" if QUANTIZED in name else "o" if name == "packdit" else "x"
        axes.scatter(xs, ys, color=COLOURS.get(name.split(",")[0], OTHERS), marker=marker, s=24, label=name)
    axes.set(xlabel="operations a byte moved, at least", ylabel="operations a second", xlim=(left, max(right, ridge)))
    axes.set_title(f"{facts.machine}, {facts.threads} threads, torch {facts.torch}\n{ceilings.describe()}", fontsize=9)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, which="both", linewidth=0.4)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    return True


def speedups(file: Path, rows: Sequence[OpRow], facts: Facts) -> bool:
    """How many times as fast as diffusers eager everybody is, a group of bars a case; whether it was drawn."""
    cases: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.p50_us and not row.bar:
            cases.setdefault(f"{row.op}\n{row.shape}", {})[who(row)] = row.p50_us
    cases = {case: found for case, found in cases.items() if "diffusers" in found}
    if not (cases and can_plot()):
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1 + 0.9 * len(cases)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(dict.fromkeys(name for found in cases.values() for name in found))
    height = 0.8 / len(names)
    for i, name in enumerate(names):
        places = [k + i * height for k, found in enumerate(cases.values()) if name in found]
        times = [found["diffusers"] / found[name] for found in cases.values() if name in found]
        axes.barh(places, times, height, color=COLOURS.get(name, OTHERS), label=name)
    axes.set_yticks([k + 0.4 - height / 2 for k in range(len(cases))], list(cases), fontsize=8)
    axes.set(xlabel="times as fast as diffusers eager, same weights, float32")
    axes.invert_yaxis()
    axes.set_title(f"{facts.machine}, {facts.threads} threads, torch {facts.torch}", fontsize=9)
    axes.legend(fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    return True


def who(row: OpRow) -> str:
    """packdit, whatever its backend, or the peer."""
    return row.by.split()[0]
