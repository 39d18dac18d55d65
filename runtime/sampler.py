"""Samplers as stage tables: pure functions from a schedule to what each model evaluation does.

Rectified flow (Liu et al., arXiv 2209.03003; Esser et al., arXiv 2403.03206): ``x_sigma = (1 - sigma) x0 + sigma eps``,
the model gives ``v = eps - x0``, so ``dx/dsigma = v`` and the data prediction is ``D = x - sigma v``.

A sample holds slots ``(x, h1, .. h[S-1])``: latents and kept history. A stage evaluates the model on x at ``sigma`` and
then sets all slots at once: ``new[s] = sum_j matrix[s][j] old[j] + matrix[s][S] v``. A slot that no later stage reads
has a row of zeros, so history need not be initialised. Everything here is float64 and runs once a request.

DPM-Solver++ and UniPC work in ``lambda = log((1 - sigma) / sigma)``. With ``h = lambda_next - lambda`` and
``r = sigma_next / sigma``, their factor ``-(1 - sigma_next) (exp(-h) - 1)`` is ``1 - r``: lambda is only needed for
ratios of intervals, and sigma = 1 and sigma = 0 are exact. On equal sigmas the tables give what diffusers' FlowMatch
(Euler, Heun), DPMSolverMultistep and UniPCMultistep schedulers give, which start just below 1 for the last two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Matrix = tuple[tuple[float, ...], ...]
Vector = NDArray[np.float64]

SLOTS = 3
"""The largest number of slots that a sampler uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One model evaluation: where it is made, and the update of the slots that follows it.

    matrix: float64 ``[S, S + 1]`` as nested tuples; columns are the old slots, then v (the guided model output).
    """

    sigma: float
    matrix: Matrix

    @property
    def timestep(self) -> float:
        """The model's time, 0 (data) to 1000 (noise)."""
        return 1000.0 * self.sigma


def pad(matrix: Matrix, slots: int = SLOTS) -> Vector:
    """Widen a stage's ``[S, S + 1]`` matrix to float64 ``[slots, slots + 1]``; the added slots become zero."""
    used = len(matrix)
    assert used <= slots, f"a stage of {used} slots does not fit {slots}"
    wide = np.zeros((slots, slots + 1))
    narrow = np.asarray(matrix)
    wide[:used, :used] = narrow[:, :used]
    wide[:used, slots] = narrow[:, used]
    return wide


def flow_sigmas(steps: int, shift: float = 1.0) -> list[float]:
    """The schedule of flow-matching models: 1 to 1/steps in equal steps, shifted, then 0; ``steps + 1`` values.

    The shift (arXiv 2403.03206, section 5.3.2), ``shift sigma / (1 + (shift - 1) sigma)``, moves steps towards the
    noise when it is above 1. ValueError for steps < 1 or a shift that is not positive and finite.
    """
    if steps < 1:
        raise ValueError(f"steps: got {steps}, allowed is 1 or more")
    if not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"shift: got {shift}, allowed is a positive finite number")
    line = [(steps - i) / steps for i in range(steps)]
    # The denominator is written so that sigma = 1 stays exactly 1 for every shift.
    return [shift * s / (shift * s + (1.0 - s)) for s in line] + [0.0]


def euler(sigmas: Sequence[float]) -> list[Stage]:
    """Flow Euler, order 1, one evaluation a step: ``x + (sigma_next - sigma) v`` (arXiv 2403.03206)."""
    return [Stage(sigma=s, matrix=((1.0, t - s),)) for s, t in pairwise(sigmas)]


def heun(sigmas: Sequence[float]) -> list[Stage]:
    """Heun's method, order 2, two evaluations a step (Karras et al., arXiv 2206.00364, algorithm 1).

    As there, the last step, to sigma = 0, is plain Euler: its local error is of second order, and so is the whole.
    h1 keeps ``x + (sigma_next - sigma) v / 2`` while x is at the Euler point.
    """
    table = []
    for s, t in pairwise(sigmas[:-1]):
        half = (t - s) / 2
        table.append(Stage(sigma=s, matrix=((1.0, 0.0, t - s), (1.0, 0.0, half))))
        table.append(Stage(sigma=t, matrix=((0.0, 1.0, half), (0.0, 0.0, 0.0))))
    last, end = sigmas[-2:]
    return [*table, Stage(sigma=last, matrix=((1.0, 0.0, end - last), (0.0, 0.0, 0.0)))]


def dpmpp_2m(sigmas: Sequence[float]) -> list[Stage]:
    """DPM-Solver++(2M), order 2, one evaluation a step (Lu et al., arXiv 2211.01095, algorithm 2).

    h1 keeps the last data prediction. The first step and the step to sigma = 0 are of first order, which for this
    schedule is Euler. Where the step before started at sigma = 1, lambda = -inf, the extrapolation vanishes.
    """
    x, h1, v = np.eye(3)
    table = []
    for i, (s, t) in enumerate(pairwise(sigmas)):
        data = x - s * v
        x_next = _predict(x, data, h1, sigmas, i)
        table.append(_stage(s, x_next, data if t > 0 else np.zeros(3)))
    return table


def unipc(sigmas: Sequence[float]) -> list[Stage]:
    """UniPC-2, order 2 and more, one evaluation a step (Zhao et al., arXiv 2302.04867, multistep, data prediction).

    B(h) is "bh2"; UniP-2 and UniC-1 take the coefficient one half, as the paper does.
    The evaluation at a predicted point serves its corrector and the next predictor. h1 keeps the corrected point less
    the term of that evaluation, h2 the last data prediction. The first step and the step to 0 are of first order.
    """
    x, h1, h2, v = np.eye(4)
    none = np.zeros(4)
    table = []
    weight = 0.0  # of the data prediction in the corrected point
    for i, (s, t) in enumerate(pairwise(sigmas)):
        data = x - s * v
        corrected = h1 + weight * data if i > 0 else x
        x_next = _predict(corrected, data, h2, sigmas, i)
        if t > 0:
            partial, weight = _correct(corrected, data, h2, sigmas, i)
            table.append(_stage(s, x_next, partial, data))
        else:
            table.append(_stage(s, x_next, none, none))
    return table


SAMPLERS: dict[str, Callable[[Sequence[float]], list[Stage]]] = {
    "euler": euler,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "unipc": unipc,
}


def stages(name: str, sigmas: Sequence[float]) -> list[Stage]:
    """The stages of sampler `name` over `sigmas`, which fall from at most 1 to exactly 0, in the order they run.

    ValueError for an unknown name, and for sigmas that are not such a schedule.
    """
    if name not in SAMPLERS:
        got = name if len(name) <= 60 else name[:57] + "..."
        raise ValueError(f"sampler: got {got!r}, allowed are {', '.join(SAMPLERS)}")
    falling = all(s > t for s, t in pairwise(sigmas))
    if len(sigmas) < 2 or not falling or sigmas[0] > 1 or sigmas[-1] != 0:
        raise ValueError("sigmas: got a list that does not fall strictly from at most 1 to 0")
    return SAMPLERS[name]([float(s) for s in sigmas])


def clamped_stages(name: str, sigmas: Sequence[float], ceiling: float) -> list[Stage]:
    """The stages of tokens whose noise level is ``min(sigma, ceiling)``, for conditions that are given nearly clean.

    As many stages as ``stages(name, sigmas)`` and of the same size. While both ends of an interval are clamped x stays
    as it is; from the ceiling on the sampler runs on ``[ceiling, sigmas below it]``. ceiling 0 keeps x throughout,
    1 changes nothing. ValueError for a ceiling outside 0..1.
    """
    if not 0 <= ceiling <= 1:
        raise ValueError(f"ceiling: got {ceiling}, allowed is 0 to 1")
    whole = stages(name, sigmas)
    if ceiling >= sigmas[0]:
        return whole
    below = [float(s) for s in sigmas if s < ceiling]
    tail = stages(name, [float(ceiling), *below]) if below else []
    slots = len(whole[0].matrix)
    keep = tuple(tuple(float(s == 0 and j == 0) for j in range(slots + 1)) for s in range(slots))
    return [Stage(sigma=float(ceiling), matrix=keep)] * (len(whole) - len(tail)) + tail


def _predict(x: Vector, data: Vector, data_before: Vector, sigmas: Sequence[float], i: int) -> Vector:
    """The point at sigmas[i + 1]: order 2 where there is a step before and a noise level after, else order 1.

    DPM-Solver++(2M) and UniP-2 with its coefficient of one half are the same formula.
    """
    s, t = sigmas[i], sigmas[i + 1]
    if i > 0 and t > 0:
        data = data + 0.5 * _interval_ratio(sigmas, i) * (data - data_before)
    return (t / s) * x + (1.0 - t / s) * data


def _correct(x: Vector, data: Vector, data_before: Vector, sigmas: Sequence[float], i: int) -> tuple[Vector, float]:
    """UniC for the point at sigmas[i + 1]: (all that is known at sigmas[i], the weight of the data prediction there).

    Order 2 solves ``rho_1 + rho_2 = b_1, q rho_1 + rho_2 = b_2`` with ``q = -h_before / h``; u = 1 / q stays finite.
    """
    s, t = sigmas[i], sigmas[i + 1]
    share = 1.0 - t / s
    if i == 0:
        return (t / s) * x + share * 0.5 * data, share * 0.5
    h = _log_snr(t) - _log_snr(s)
    inverse_b = 1.0 / math.expm1(-h)
    b_1 = -1.0 / h - inverse_b
    b_2 = -2.0 * b_1 / h - inverse_b
    u = -_interval_ratio(sigmas, i)
    rho_1 = (b_1 - b_2) * u / (u - 1.0)
    rho_2 = b_1 - rho_1
    known = data + rho_1 * u * (data_before - data) - rho_2 * data
    return (t / s) * x + share * known, share * rho_2


def _interval_ratio(sigmas: Sequence[float], i: int) -> float:
    """The length in lambda of interval i over that of interval i - 1: 0 where the latter is infinite (from 1)."""
    before, s, t = (_log_snr(sigma) for sigma in sigmas[i - 1 : i + 2])
    return (t - s) / (s - before)


def _log_snr(sigma: float) -> float:
    """lambda = log(alpha / sigma) for sigma above 0; -inf at 1."""
    return math.log1p(-sigma) - math.log(sigma) if sigma < 1 else -math.inf


def _stage(sigma: float, *rows: Vector) -> Stage:
    return Stage(sigma=sigma, matrix=tuple(tuple(map(float, row)) for row in rows))
