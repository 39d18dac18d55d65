"""A checkpoint's scheduler_config.json -> its path of noise levels and its solver, as diffusers' scheduler has them.

Tables are made in the precision that diffusers makes them in (float32 for most), because the timesteps that the network
is told and the levels near sigma = 0 depend on it; everything after that is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .noise import Config, Floats, alphas_cumprod, cogvideox_alphas_cumprod, multistep_timesteps, timesteps
from .path import Level, Path, Stage, flow_level, flow_path, flow_sigmas
from .request import quote
from .sampler import DEFAULT, Solver, dpmpp_2m, euler, solver
from .unipc import Options, unipc

RAMPS: dict[str, Callable[[int], Floats]] = {
    "last": lambda n: np.linspace(1.0, 1 / n, n),
    "zero": lambda n: np.linspace(1.0, 0.0, n + 1)[:-1],
}
"""What a pipeline hands to its scheduler as sigmas, before any shift: from 1 to 1/n, or n of n + 1 steps to 0."""

Made = tuple[Path, Solver]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How a bundle's latents are denoised. data: scheduler_config.json with "class" for its class, and

    ramp: a name in RAMPS where the pipeline brings its own sigmas; divide: what it divides timesteps by; boundary: the
    share of num_train_timesteps below which the second of two transformers takes over.
    ValueError, in one sentence, for what cannot be reproduced.
    """

    data: Config

    def __post_init__(self) -> None:
        name = self.data.get("class")
        if name not in MAKERS:
            raise ValueError(f"the scheduler {quote(name)} is not known; known are {', '.join(MAKERS)}")
        for key in NEVER:
            if self.data.get(key):
                raise ValueError(f"the scheduler's {key} is not supported; set it to false, or use another scheduler")
        try:
            self.make(2, 1024)
        except (TypeError, KeyError, ArithmeticError, IndexError) as error:
            raise ValueError(f"the {name}'s config cannot be used: {quote(error)}") from error

    @classmethod
    def flow(cls, shift: float) -> Schedule:
        """Rectified flow with a constant shift, in exact arithmetic."""
        return cls(data={"class": "flow", "shift": shift})

    def make(self, steps: int, tokens: int, sampler: str = DEFAULT) -> Made:
        """The path of `steps` steps for a sequence of `tokens` tokens, and the solver called `sampler`."""
        path, own = MAKERS[self.data["class"]](self.data, steps, tokens)
        return path, own if sampler == DEFAULT else solver(sampler)

    def first_of_second(self, stages: Sequence[Stage]) -> int:
        """The first stage that the second of two transformers runs; their number where there is one alone."""
        boundary = self.data.get("boundary") or 0.0
        least = boundary * self.data.get("num_train_timesteps", 1000) / self.data.get("divide", 1)
        return next((i for i, stage in enumerate(stages) if stage.timestep < least), len(stages))


NEVER = (
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"),
    *("invert_sigmas", "thresholding", "solver_p"),
)
"""Settings of diffusers' schedulers that are refused when they are on."""


def _exact_flow(config: Config, steps: int, tokens: int) -> Made:
    return flow_path(flow_sigmas(steps, config["shift"])), euler


def _flow_match_euler(config: Config, steps: int, tokens: int) -> Made:
    """FlowMatchEulerDiscreteScheduler. Where the pipeline brings no sigmas, the last one is shifted twice, as there."""
    trained, shift = config.get("num_train_timesteps", 1000), config.get("shift", 1.0)
    dynamic = config.get("use_dynamic_shifting", False)
    if config.get("ramp"):
        sigmas = RAMPS[config["ramp"]](steps).astype(np.float32)
    else:
        ends = np.array([trained, 1], dtype=np.float32) / np.float32(trained)
        if not dynamic:
            ends = _shifted(ends, shift)
        first, last = (float(end) * trained for end in ends)
        sigmas = np.linspace(first, last, steps) / trained
    sigmas = _dynamic(config, sigmas, tokens) if dynamic else _shifted(sigmas, shift)
    sigmas = _to_terminal(config, sigmas).astype(np.float32)
    times = sigmas * np.float32(trained)
    path = _flow([*sigmas.tolist(), 0.0], times, config, whole=False)
    return path, partial(euler, stochastic=bool(config.get("stochastic_sampling", False)))


def _flow(chain: list[float], times: NDArray[Any], config: Config, *, whole: bool) -> Path:
    """A flow path over the sigmas of `chain`, with timesteps as the pipeline hands them to the network."""
    levels = [flow_level(sigma) for sigma in chain]
    divide = config.get("divide", 1)
    told = times.astype(np.float32) / np.float32(divide)
    return Path(
        levels=tuple(levels[:-1]),
        ends=tuple(levels[1:]),
        timesteps=tuple(told.tolist()),
        prediction="flow",
        unit=config.get("num_train_timesteps", 1000) / divide,
        whole=whole,
    )


def _shifted(sigmas: Floats, shift: float) -> Floats:
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def _dynamic(config: Config, sigmas: Floats, tokens: int) -> Floats:
    """Shifted by mu, which is linear in the number of tokens (arXiv 2403.03206, section 5.3.2)."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (most - least) / (high - low)
    mu = tokens * slope + (least - slope * low)
    kind = config.get("time_shift_type", "exponential")
    if kind not in ("exponential", "linear"):
        raise ValueError(f"the scheduler's time_shift_type must be exponential or linear, got {quote(kind)}")
    weight = math.exp(mu) if kind == "exponential" else mu
    return weight / (weight + (1 / sigmas - 1))


def _to_terminal(config: Config, sigmas: Floats) -> Floats:
    """Stretched so that the last one is `shift_terminal`."""
    terminal = config.get("shift_terminal")
    return 1 - (1 - sigmas) / ((1 - sigmas[-1]) / (1 - terminal)) if terminal else sigmas


def _unipc(config: Config, steps: int, tokens: int) -> Made:
    """UniPCMultistepScheduler; on flow sigmas it starts a millionth below 1."""
    trained = config.get("num_train_timesteps", 1000)
    order, data = config.get("solver_order", 2), config.get("predict_x0", True)
    if order not in (1, 2, 3):
        raise ValueError(f"the scheduler's solver_order must be 1, 2 or 3, got {quote(order)}")
    if config.get("use_flow_sigmas", False):
        sigmas = np.linspace(1, 1 / trained, steps + 1)[:-1]
        if config.get("use_dynamic_shifting", False):
            sigmas = _dynamic(config, sigmas, tokens)
        else:
            sigmas = _shifted(sigmas, config.get("flow_shift", 1.0))
        sigmas = _to_terminal(config, sigmas)
        if abs(sigmas[0] - 1) < 1e-6:
            sigmas[0] -= 1e-6
        path = _multistep_flow(config, sigmas, sigmas[-1])
    else:
        path = _multistep(config, steps)
    options = Options(
        order=order,
        data=data,
        bh2=config.get("solver_type", "bh2") != "bh1",
        lower_last=config.get("lower_order_final", True),
        plain=tuple(config.get("disable_corrector") or ()),
    )
    return path, partial(unipc, options=options)


def _dpm_solver(config: Config, steps: int, tokens: int) -> Made:
    """DPMSolverMultistepScheduler of order 1 and 2, midpoint, on data prediction."""
    kind, order = config.get("algorithm_type", "dpmsolver++"), config.get("solver_order", 2)
    form, low = config.get("solver_type", "midpoint"), config.get("lambda_min_clipped", -math.inf)
    supported = kind in ("dpmsolver++", "sde-dpmsolver++") and order in (1, 2) and form == "midpoint"
    if not supported or low not in (None, -math.inf):
        raise ValueError(
            "of DPMSolverMultistepScheduler, dpmsolver++ and sde-dpmsolver++ of order 1 or 2 with midpoint and no "
            f"lambda_min_clipped are supported, got {quote(kind)}, {quote(order)}, {quote(form)}, {quote(low)}"
        )
    if config.get("use_flow_sigmas", False):
        trained, shift = config.get("num_train_timesteps", 1000), config.get("flow_shift", 1.0)
        line = _shifted(1.0 - np.linspace(1, 1 / trained, steps + 1), shift)
        path = _multistep_flow(config, np.flip(line)[:-1].copy(), _smallest(config))
    else:
        path = _multistep(config, steps)
    early = config.get("lower_order_final", True) and path.steps < 15
    plain_last = bool(config.get("euler_at_final", False) or early)
    return path, partial(dpmpp_2m, order=order, stochastic=kind.startswith("sde"), plain_last=plain_last)


def _smallest(config: Config) -> float:
    """sigma / alpha at timestep 0."""
    first = alphas_cumprod(config, lowest=2**-24)[0]
    return float(((1 - first) / first) ** np.float32(0.5))


def _last(config: Config, smallest: float) -> float:
    kind = config.get("final_sigmas_type", "zero")
    if kind not in ("zero", "sigma_min"):
        raise ValueError(f"the scheduler's final_sigmas_type must be zero or sigma_min, got {quote(kind)}")
    return smallest if kind == "sigma_min" else 0.0


def _multistep_flow(config: Config, sigmas: Floats, smallest: float) -> Path:
    """A flow path with timesteps cut to whole numbers."""
    if config.get("prediction_type") != "flow_prediction":
        raise ValueError("a scheduler with use_flow_sigmas needs the prediction_type flow_prediction")
    trained = config.get("num_train_timesteps", 1000)
    chain = np.append(sigmas, _last(config, smallest)).astype(np.float32).tolist()
    return _flow(chain, (sigmas * trained).astype(np.int64), config, whole=True)


def _multistep(config: Config, steps: int) -> Path:
    """The path of UniPC and DPM-Solver over a variance preserving process, given by sigma / alpha."""
    cumulative = alphas_cumprod(config, lowest=2**-24)
    ratios = ((1 - cumulative) / cumulative) ** np.float32(0.5)
    times = multistep_timesteps(config, steps)
    chosen = np.interp(times, np.arange(len(ratios)), ratios)
    chain = np.append(chosen, _last(config, _smallest(config))).astype(np.float32).tolist()
    levels = [((1 / (r * r + 1)) ** 0.5, r * (1 / (r * r + 1)) ** 0.5) for r in chain]
    return _process(config, levels[:-1], levels[1:], times)


def _process(config: Config, levels: list[Level], ends: list[Level], times: NDArray[Any]) -> Path:
    kind = config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(f"the scheduler's prediction_type must be epsilon, v_prediction or sample, got {quote(kind)}")
    if kind == "epsilon" and levels[0][0] == 0:
        raise ValueError("a schedule that starts from pure noise cannot predict epsilon; it needs v_prediction")
    told = tuple(float(t) for t in times)
    return Path(levels=tuple(levels), ends=tuple(ends), timesteps=told, prediction=kind)


def _ddim_path(config: Config, cumulative: Floats, steps: int) -> Path:
    """Steps of a constant number of timesteps, whichever timestep comes next, as diffusers' DDIM takes them."""
    trained = config.get("num_train_timesteps", 1000)
    if steps > trained:
        raise ValueError(f"this model's scheduler makes {trained} steps at most, got {steps}")
    final = 1.0 if config.get("set_alpha_to_one", True) else float(cumulative[0])
    times = timesteps(config, steps)
    befores = [int(t) - trained // steps for t in times]
    products = [float(cumulative[t]) for t in times], [float(cumulative[t]) if t >= 0 else final for t in befores]
    levels, ends = ([(p**0.5, (1 - p) ** 0.5) for p in part] for part in products)
    return _process(config, levels, ends, times)


def _ddim(config: Config, steps: int, tokens: int) -> Made:
    """DDIMScheduler with eta = 0."""
    if config.get("clip_sample", True):
        raise ValueError("the scheduler's clip_sample is not supported; set it to false")
    return _ddim_path(config, alphas_cumprod(config), steps), euler


def _cogvideox_ddim(config: Config, steps: int, tokens: int) -> Made:
    return _ddim_path(config, cogvideox_alphas_cumprod(config), steps), euler


def _cogvideox_dpm(config: Config, steps: int, tokens: int) -> Made:
    """CogVideoXDPMScheduler: SDE-DPM-Solver++(2M), with new noise in every step but the last."""
    return _ddim_path(config, cogvideox_alphas_cumprod(config), steps), partial(dpmpp_2m, stochastic=True)


MAKERS: dict[str, Callable[[Config, int, int], Made]] = {
    "flow": _exact_flow,
    "FlowMatchEulerDiscreteScheduler": _flow_match_euler,
    "UniPCMultistepScheduler": _unipc,
    "DPMSolverMultistepScheduler": _dpm_solver,
    "DDIMScheduler": _ddim,
    "CogVideoXDDIMScheduler": _cogvideox_ddim,
    "CogVideoXDPMScheduler": _cogvideox_dpm,
}
