"""Noise levels and the table of what is done at them: plain numbers, no torch.

A noise level is a pair (alpha, sigma) with ``x = alpha x0 + sigma eps``. Rectified flow (Liu et al., arXiv 2209.03003)
has alpha = 1 - sigma; variance preserving processes (Ho et al., arXiv 2006.11239) have alpha^2 + sigma^2 = 1. What a
network predicts is one of PREDICTIONS; each gives x0 and eps as linear combinations of x and the network's output, so
that a sampler is a table of linear combinations whatever the network was trained for. Everything here is float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Matrix = tuple[tuple[float, ...], ...]
Vector = NDArray[np.float64]
Level = tuple[float, float]

SLOTS = 4
"""The largest number of slots that a sampler uses."""

PREDICTIONS = ("flow", "epsilon", "v_prediction", "sample")
"""The network's output: v = eps - x0, eps, v = alpha eps - sigma x0 (Salimans and Ho, arXiv 2202.00512), or x0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One model evaluation: the noise level and timestep it is made at, and the update of the slots that follows it.

    A sample holds slots ``(x, h1, .. h[S-1])``: latents and kept history. All are set at once:
    ``new[s] = sum_j matrix[s][j] old[j] + matrix[s][S] m`` with m the guided output. matrix: float64 ``[S, S + 1]`` as
    nested tuples. A slot that no later stage reads has a row of zeros, so history need not be initialised. Where
    `fresh` is not 0, that slot is filled with new noise of variance 1 before the stage.
    """

    alpha: float
    sigma: float
    timestep: float
    matrix: Matrix
    fresh: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """The N steps of a schedule, the noisiest first: step i goes from ``levels[i]`` to ``ends[i]``.

    ends[i] is levels[i + 1] except where a published sampler treats the two as equal though they are not. timesteps
    are what the network is told at each level; on a flow path it is ``unit * sigma``, cut to a whole number where
    `whole` says so.
    """

    levels: tuple[Level, ...]
    ends: tuple[Level, ...]
    timesteps: tuple[float, ...]
    prediction: str
    unit: float = 1000.0
    whole: bool = False

    @property
    def steps(self) -> int:
        return len(self.levels)

    def chain(self) -> list[Level]:
        """The levels and the last end: N + 1."""
        return [*self.levels, self.ends[-1]]

    def chained(self) -> Path:
        """The same levels, each step ending where the next begins."""
        return replace(self, ends=(*self.levels[1:], self.ends[-1]))

    def data(self, i: int, x: Vector, m: Vector) -> Vector:
        """The x0 that the network's output m at level i means, as a combination of what x and m are made of."""
        alpha, sigma = self.levels[i]
        if self.prediction == "flow":
            return x - sigma * m
        if self.prediction == "epsilon":
            return x / alpha - sigma / alpha * m
        return alpha * x - sigma * m if self.prediction == "v_prediction" else m

    def noise(self, i: int, x: Vector, m: Vector) -> Vector:
        """The eps that the network's output means, likewise."""
        alpha, sigma = self.levels[i]
        if self.prediction == "flow":
            return x + alpha * m
        if self.prediction == "sample":
            return x / sigma - alpha / sigma * m
        return sigma * x + alpha * m if self.prediction == "v_prediction" else m

    def below(self, ceiling: float) -> Path | None:
        """The part of the path from noise level `ceiling` on; None where nothing is left to do.

        A flow path starts at the ceiling itself. On another one there is no timestep for every noise level, so it
        starts at the first of its own levels that is not above.
        """
        first = next((i for i, (_, sigma) in enumerate(self.levels) if sigma <= ceiling), self.steps)
        if ceiling <= self.ends[-1][1]:
            return None
        if self.prediction != "flow":
            return self._from(first) if first < self.steps else None
        first += any(sigma == ceiling for _, sigma in self.levels)
        levels = (flow_level(ceiling), *self.levels[first:])
        return replace(
            self,
            levels=levels,
            ends=(*levels[1:], self.ends[-1]),
            timesteps=(self.time(ceiling), *self.timesteps[first:]),
        )

    def time(self, sigma: float) -> float:
        """The timestep of a noise level of a flow path."""
        time = self.unit * sigma
        return float(math.floor(time)) if self.whole else time

    def _from(self, first: int) -> Path:
        return replace(self, levels=self.levels[first:], ends=self.ends[first:], timesteps=self.timesteps[first:])


def flow_level(sigma: float) -> Level:
    """The level of rectified flow."""
    return 1.0 - sigma, sigma


def flow_path(sigmas: Sequence[float]) -> Path:
    """A flow path over `sigmas`, which fall strictly from at most 1 to at least 0; timesteps are 1000 sigma.

    ValueError for sigmas that do not.
    """
    falling = all(s > t for s, t in pairwise(sigmas))
    if len(sigmas) < 2 or not falling or sigmas[0] > 1 or sigmas[-1] < 0:
        raise ValueError("sigmas: got a list that does not fall strictly, from at most 1 to at least 0")
    chain = [flow_level(float(s)) for s in sigmas]
    return Path(
        levels=tuple(chain[:-1]),
        ends=tuple(chain[1:]),
        timesteps=tuple(1000.0 * sigma for _, sigma in chain[:-1]),
        prediction="flow",
    )


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


def pad(matrix: Matrix, slots: int = SLOTS) -> Vector:
    """Widen a stage's ``[S, S + 1]`` matrix to float64 ``[slots, slots + 1]``; the added slots become zero."""
    used = len(matrix)
    assert used <= slots, f"a stage of {used} slots does not fit {slots}"
    wide = np.zeros((slots, slots + 1))
    narrow = np.asarray(matrix)
    wide[:used, :used] = narrow[:, :used]
    wide[:used, slots] = narrow[:, used]
    return wide


def log_snr(level: Level) -> float:
    """lambda = log(alpha / sigma): -inf for pure noise, inf for data."""
    alpha, sigma = level
    if sigma == 0:
        return math.inf
    return math.log(alpha) - math.log(sigma) if alpha > 0 else -math.inf


def towards(start: Level, end: Level) -> tuple[float, float]:
    """(a, b) of the exact step ``x_end = a x + b x0`` for a constant x0, from one level to another.

    a is sigma_end / sigma and b is alpha_end - alpha a, which is ``alpha_end (1 - exp(-h))`` in terms of the step h of
    lambda, without the infinities that lambda has at both ends.
    """
    scale = end[1] / start[1]
    return scale, end[0] - start[0] * scale
