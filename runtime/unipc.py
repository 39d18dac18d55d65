"""UniPC as a stage table (Zhao et al., arXiv 2302.04867, multistep), of any order, in data or noise prediction.

With h the step of lambda, ``m`` the prediction (x0, or eps in the noise form) and ``r_k = (lambda_k - lambda) / h`` of
the earlier evaluations, a step is ``a x + b (m + ratio sum_k rho_k (m_k - m) / r_k)``, where a and b are the exact
first-order step. UniP solves for rho over the earlier evaluations, UniC also over the one at the new point, which
serves the next predictor too. rho of order 2 in UniP and of order 1 in UniC is one half, as in the paper. Weights
``rho_k / r_k`` vanish where the earlier evaluation was at pure noise (r_k = -inf).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from .path import Level, Path, Stage, Vector, log_snr, towards


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """order 1 to 3. data: x0 is extrapolated, else eps. bh2: B(h) = exp(h) - 1 ("bh2"), else h ("bh1").

    lower_last: the last steps are of no higher order than there are steps left; a step to sigma = 0 is of the first in
    any case. plain: steps whose result is not corrected.
    """

    order: int = 2
    data: bool = True
    bh2: bool = True
    lower_last: bool = False
    plain: Collection[int] = ()


PUBLISHED = Options()


def unipc(path: Path, options: Options = PUBLISHED) -> list[Stage]:
    """The stages of UniPC on a path whose steps end where the next begin.

    Slots: x; the corrected point less the term of the next evaluation; the predictions before, newest first.
    """
    slots = 2 + options.order - 1
    unit = np.eye(slots + 1)
    x, known, m = unit[0], unit[1], unit[-1]
    chain, table = path.chain(), []
    weight, corrects = 0.0, False
    for i in range(path.steps):
        now = path.data(i, x, m) if options.data else path.noise(i, x, m)
        history = [now, *unit[2:slots]][: i + 1]
        corrected = known + weight * now if corrects else x
        order = _order(path, options, i)
        rows = [_predict(corrected, history, chain, i, order, options)]
        corrects = i + 1 < path.steps and i not in options.plain
        if corrects:
            partial, weight = _correct(corrected, history, chain, i, order, options)
            rows.append(partial)
        else:
            rows.append(np.zeros(slots + 1))
        rows += history[: slots - 2] if i + 1 < path.steps else []
        rows += [np.zeros(slots + 1)] * (slots - len(rows))
        level = path.levels[i]
        matrix = tuple(tuple(map(float, row)) for row in rows)
        table.append(Stage(alpha=level[0], sigma=level[1], timestep=path.timesteps[i], matrix=matrix))
    return table


def _order(path: Path, options: Options, i: int) -> int:
    if path.ends[i][1] == 0:
        return 1
    left = path.steps - i if options.lower_last else options.order
    return min(options.order, i + 1, left)


def _first_order(start: Level, end: Level, options: Options) -> tuple[float, float]:
    """(a, b) of the step; in the noise form x0 and eps change places."""
    return towards(start, end) if options.data else towards(start[::-1], end[::-1])


def _intervals(chain: list[Level], i: int, order: int) -> tuple[float, list[float]]:
    """h of step i, and 1 / r_k of the `order` - 1 evaluations before it."""
    now = log_snr(chain[i])
    h = log_snr(chain[i + 1]) - now
    return h, [h / (log_snr(chain[i - k]) - now) for k in range(1, order)]


def _moments(h: float, count: int, options: Options) -> tuple[list[float], float]:
    """b_1 .. b_count of the equations for rho, and B(h) / (exp(+-h) - 1)."""
    hh = -h if options.data else h
    first = math.expm1(hh)
    scale = first if options.bh2 else hh
    phi, factorial, moments = first / hh - 1, 1, []
    for k in range(1, count + 1):
        moments.append(phi * factorial / scale)
        factorial *= k + 1
        phi = phi / hh - 1 / factorial
    return moments, 1.0 if options.bh2 else scale / first


def _weights(inverse: list[float], moments: list[float], last: bool) -> list[float]:
    """rho_k / r_k of the earlier evaluations with 1 / r_k in `inverse`, and rho of the new one where `last`.

    An evaluation at pure noise gets weight 0 and takes the last equation with it: the limit of the solution.
    """
    kept = [k for k, u in enumerate(inverse) if u != 0]
    nodes = [1 / inverse[k] for k in kept] + ([1.0] if last else [])
    rho = np.linalg.solve(np.vander(nodes, increasing=True).T, moments[: len(nodes)]) if nodes else np.empty(0)
    weights = [0.0] * len(inverse)
    for k, value in zip(kept, rho.tolist(), strict=False):
        weights[k] = value * inverse[k]
    return [*weights, float(rho[-1])] if last else weights


def _predict(x: Vector, history: list[Vector], chain: list[Level], i: int, order: int, options: Options) -> Vector:
    """UniP: the point at the end of step i."""
    a, b = _first_order(chain[i], chain[i + 1], options)
    now = history[0]
    if order == 1:
        return a * x + b * now
    h, inverse = _intervals(chain, i, order)
    moments, ratio = _moments(h, order - 1, options)
    weights = [0.5 * inverse[0]] if order == 2 else _weights(inverse, moments, last=False)
    change = sum((w * (m - now) for w, m in zip(weights, history[1:], strict=False)), np.zeros_like(x))
    return a * x + b * (now + ratio * change)


def _correct(
    x: Vector, history: list[Vector], chain: list[Level], i: int, order: int, options: Options
) -> tuple[Vector, float]:
    """UniC for the point at the end of step i: (all that is known now, the weight of the prediction there)."""
    a, b = _first_order(chain[i], chain[i + 1], options)
    now = history[0]
    h, inverse = _intervals(chain, i, order)
    moments, ratio = _moments(h, order, options)
    weights = [0.5] if order == 1 else _weights(inverse, moments, last=True)
    change = sum((w * (m - now) for w, m in zip(weights[:-1], history[1:], strict=False)), np.zeros_like(x))
    return a * x + b * (now + ratio * (change - weights[-1] * now)), b * ratio * weights[-1]
