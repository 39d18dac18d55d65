"""Samplers as stage tables: pure functions from a path of noise levels to what each model evaluation does.

The solvers work in ``lambda = log(alpha / sigma)``. Their first-order step is exact for a constant x0, and `towards`
writes it so that lambda is only needed for ratios of intervals: pure noise and data, its infinite ends, are exact.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .path import Path, Stage, Vector, log_snr, towards
from .unipc import unipc


def euler(path: Path, stochastic: bool = False) -> list[Stage]:
    """Order 1, one evaluation a step: flow Euler (arXiv 2403.03206), which elsewhere is DDIM (Song et al., arXiv
    2010.02502, eta = 0).

    stochastic: x0 as predicted, with new noise, at each next level (h1 is that noise).
    """
    if stochastic:
        x, _, m = np.eye(3)
        return [
            _stage(path, i, alpha * path.data(i, x, m), np.zeros(3), fresh=sigma)
            for i, (alpha, sigma) in enumerate(path.ends)
        ]
    x, m = np.eye(2)
    table = []
    for i, (start, end) in enumerate(zip(path.levels, path.ends, strict=True)):
        if path.prediction == "flow":  # x keeps its coefficient of exactly 1
            row = x + (end[1] - start[1]) * m
        else:
            a, b = towards(start, end)
            row = a * x + b * path.data(i, x, m)
        table.append(_stage(path, i, row))
    return table


def heun(path: Path) -> list[Stage]:
    """Heun's method on a flow path, order 2, two evaluations a step (Karras et al., arXiv 2206.00364, algorithm 1).

    As there, the last step, to sigma = 0, is plain Euler: its local error is of second order, and so is the whole.
    h1 keeps ``x + (sigma_next - sigma) v / 2`` while x is at the Euler point. ValueError for another path.
    """
    if path.prediction != "flow":
        raise ValueError("the sampler heun is for flow-matching models; this model was trained otherwise")
    x, h1, v = np.eye(3)
    none = np.zeros(3)
    table = []
    for i in range(path.steps - 1):
        width = path.ends[i][1] - path.levels[i][1]
        table.append(_stage(path, i, x + width * v, x + width / 2 * v))
        table.append(_stage(path, i + 1, h1 + width / 2 * v, none))
    last = path.steps - 1
    return [*table, _stage(path, last, x + (path.ends[last][1] - path.levels[last][1]) * v, none)]


def dpmpp_2m(path: Path, *, order: int = 2, stochastic: bool = False, plain_last: bool = True) -> list[Stage]:
    """DPM-Solver++(2M), one evaluation a step (Lu et al., arXiv 2211.01095, algorithm 2; order 1 leaves its second
    term out).

    h1 keeps the last data prediction. The first step is of first order, and so is the last where `plain_last` says it
    or it ends at sigma = 0. Where the step before started at pure noise, lambda = -inf, the extrapolation vanishes.
    stochastic: the reverse process with new noise, SDE-DPM-Solver++(2M) of the same paper; h2 is that noise.
    """
    slots = 3 if stochastic else 2
    x, before, *_, m = np.eye(slots + 1)
    none = np.zeros(slots + 1)
    table = []
    for i, (start, end) in enumerate(zip(path.levels, path.ends, strict=True)):
        now = use = path.data(i, x, m)
        last = i + 1 == path.steps
        if order == 2 and i > 0 and end[1] > 0 and not (last and plain_last):
            use = now + 0.5 * _interval_ratio(path, i) * (now - before)
        a, b = towards(start, end)
        kept = none if last else now
        if stochastic:
            decay = a * start[0] / end[0]  # exp(-h)
            row = a * decay * x + end[0] * (1 - decay**2) * use
            table.append(_stage(path, i, row, kept, none, fresh=end[1] * (1 - decay**2) ** 0.5))
        else:
            table.append(_stage(path, i, a * x + b * use, kept))
    return table


DEFAULT = "default"
"""The name of the sampler that a model was published with."""

SAMPLERS: dict[str, Callable[[Path], list[Stage]]] = {
    "euler": euler,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "unipc": unipc,
}

Solver = Callable[[Path], list[Stage]]


def solver(name: str) -> Solver:
    """The sampler called `name`. ValueError for an unknown one."""
    if name not in SAMPLERS:
        got = name if len(name) <= 60 else name[:57] + "..."
        raise ValueError(f"sampler: got {got!r}, allowed are {', '.join(SAMPLERS)}")
    return lambda path: SAMPLERS[name](path.chained())


def clamped_stages(solve: Solver, path: Path, ceiling: float) -> list[Stage]:
    """The stages of tokens whose noise level is ``min(sigma, ceiling)``, for conditions that are given nearly clean.

    As many stages as ``solve(path)`` and of the same size. While both ends of an interval are clamped x stays as it
    is; from the ceiling on the solver runs on what `Path.below` leaves. ceiling 0 keeps x throughout, 1 changes
    nothing. ValueError for a ceiling outside 0..1.
    """
    if not 0 <= ceiling <= 1:
        raise ValueError(f"ceiling: got {ceiling}, allowed is 0 to 1")
    whole = solve(path)
    if ceiling >= path.levels[0][1]:
        return whole
    below = path.below(ceiling)
    tail = solve(below) if below else []
    slots = len(whole[0].matrix)
    keep = tuple(tuple(float(s == 0 and j == 0) for j in range(slots + 1)) for s in range(slots))
    if below:
        (alpha, sigma), time = below.levels[0], below.timesteps[0]
    else:
        alpha, sigma, time = 1.0, 0.0, 0.0
    still = Stage(alpha=alpha, sigma=sigma, timestep=time, matrix=keep)
    return [still] * (len(whole) - len(tail)) + tail


def _interval_ratio(path: Path, i: int) -> float:
    """The length in lambda of interval i over that of interval i - 1: 0 where the latter is infinite (from noise)."""
    start = log_snr(path.levels[i])
    return (log_snr(path.ends[i]) - start) / (start - log_snr(path.levels[i - 1]))


def _stage(path: Path, i: int, *rows: Vector, fresh: float = 0.0) -> Stage:
    """The stage at level i. fresh: the coefficient in x of new noise, which is then in the last slot."""
    (alpha, sigma), slot = path.levels[i], len(rows) - 1 if fresh else 0
    matrix = [row.copy() for row in rows]
    if fresh:
        matrix[0][slot] = fresh
    rows_of_floats = tuple(tuple(map(float, row)) for row in matrix)
    return Stage(alpha=alpha, sigma=sigma, timestep=path.timesteps[i], matrix=rows_of_floats, fresh=slot)
