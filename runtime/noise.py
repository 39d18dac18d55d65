"""Variance preserving noise tables and the timesteps that are taken from them (Ho et al., arXiv 2006.11239).

alpha_bar[t] = prod (1 - beta) is the alpha^2 of timestep t. All in the precision of diffusers' schedulers: elementwise
float32, running products in float64 rounded to float32.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Config = dict[str, Any]
Floats = NDArray[Any]


def betas(config: Config, kind: type[np.floating[Any]] = np.float32) -> Floats:
    """[T]: the noise added at each timestep. kind is the precision of "scaled_linear". ValueError for an unknown
    schedule."""
    count, trained = config.get("num_train_timesteps", 1000), config.get("trained_betas")
    start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    shape = config.get("beta_schedule", "linear")
    if trained is not None:
        return np.array(trained, dtype=np.float32)
    if shape == "linear":
        return _line(start, end, count, np.float32)
    if shape == "scaled_linear":
        return _line(start**0.5, end**0.5, count, kind) ** 2
    if shape == "squaredcos_cap_v2":  # Nichol and Dhariwal, arXiv 2102.09672
        bars = [math.cos((i / count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(count + 1)]
        return np.array([min(1 - b / a, 0.999) for a, b in pairwise(bars)], dtype=np.float32)
    raise ValueError(f"the scheduler's beta_schedule must be linear, scaled_linear or squaredcos_cap_v2, got {shape!r}")


def _line(start: float, end: float, count: int, kind: type[np.floating[Any]]) -> Floats:
    """Equal steps counted from the nearer end and rounded once, as torch.linspace makes them where the CPU has FMA."""
    first, last = kind(start), kind(end)
    step, index = float((last - first) / kind(count - 1)), np.arange(count)
    ahead, behind = float(first) + step * index, float(last) - step * index[::-1]
    return np.where(index < count // 2, ahead, behind).astype(kind)


def _running(alphas: Floats) -> Floats:
    return np.cumprod(alphas.astype(np.float64)).astype(alphas.dtype)


def _to_zero(cumulative: Floats) -> Floats:
    """Rescaled so that the last alpha_bar is 0 and the first stays (Lin et al., arXiv 2305.08891, algorithm 1)."""
    root = np.sqrt(cumulative)
    first, last = root[0], root[-1]
    return ((root - last) * (first / (first - last))) ** 2


def alphas_cumprod(config: Config, lowest: float = 0.0) -> Floats:
    """alpha_bar [T] in float32. lowest: what a last value that was rescaled to 0 is set to."""
    one = np.float32(1.0)
    alphas = one - betas(config)
    if not config.get("rescale_betas_zero_snr", False):
        return _running(alphas)
    bars = _to_zero(_running(alphas))
    cumulative = _running(one - (one - np.concatenate([bars[:1], bars[1:] / bars[:-1]])))
    cumulative[-1] = max(cumulative[-1], np.float32(lowest))
    return cumulative


def cogvideox_alphas_cumprod(config: Config) -> Floats:
    """alpha_bar [T] of CogVideoX (Yang et al., arXiv 2408.06072): its signal-to-noise ratio divided by
    snr_shift_scale, then rescaled to end in 0."""
    defaults = {"beta_start": 0.00085, "beta_end": 0.0120, "beta_schedule": "scaled_linear"}
    cumulative = _running(1.0 - betas({**defaults, **config}, np.float64))
    scale = config.get("snr_shift_scale", 3.0)
    cumulative = cumulative / (scale + (1 - scale) * cumulative)
    return _to_zero(cumulative) if config.get("rescale_betas_zero_snr", False) else cumulative


def timesteps(config: Config, steps: int) -> NDArray[np.int64]:
    """The timesteps of DDIM, falling (arXiv 2305.08891, table 2)."""
    count, spacing = config.get("num_train_timesteps", 1000), config.get("timestep_spacing", "leading")
    if spacing == "linspace":
        return np.linspace(0, count - 1, steps).round()[::-1].astype(np.int64)
    if spacing == "leading":
        return np.arange(steps)[::-1] * (count // steps) + config.get("steps_offset", 0)
    return _trailing(spacing, count, steps)


def multistep_timesteps(config: Config, steps: int) -> NDArray[np.int64]:
    """The timesteps of UniPC and DPM-Solver, falling: those of one step more, without the last."""
    count, spacing = config.get("num_train_timesteps", 1000), config.get("timestep_spacing", "linspace")
    if spacing == "linspace":
        return np.linspace(0, count - 1, steps + 1).round()[:0:-1].astype(np.int64)
    if spacing == "leading":
        return np.arange(steps + 1)[:0:-1] * (count // (steps + 1)) + config.get("steps_offset", 0)
    return _trailing(spacing, count, steps)


def _trailing(spacing: Any, count: int, steps: int) -> NDArray[np.int64]:
    if spacing != "trailing":
        raise ValueError(f"the scheduler's timestep_spacing must be linspace, leading or trailing, got {spacing!r}")
    return np.arange(count, 0, -count / steps).round().astype(np.int64) - 1
