"""Schedules against diffusers' schedulers: the same timesteps, and the same latents of a made-up network."""

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from packdit.runtime.path import Stage, flow_sigmas
from packdit.runtime.sampler import SAMPLERS, clamped_stages
from packdit.runtime.schedule import RAMPS, Schedule

# diffusers 0.42 turns tensors into arrays in a way that numpy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

Array = NDArray[np.float64]

TOKENS = 1500
SIZE = 32
EULER, UNIPC, DPM = "FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler"
DDIM, COG_DDIM, COG_DPM = "DDIMScheduler", "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
DYNAMIC = {"use_dynamic_shifting": True}
OPEN = {"final_sigmas_type": "sigma_min"}
LTX = {**DYNAMIC, "base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024, "shift_terminal": 0.1}
UNCLIPPED = {"clip_sample": False}
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

CASES: list[tuple[str, dict[str, Any], str | None]] = [
    (EULER, {}, None),
    (EULER, {"shift": 3.0}, None),
    (EULER, {"shift": 7.0}, "zero"),
    (EULER, DYNAMIC, None),
    (EULER, {**DYNAMIC, "base_shift": 0.6, "max_shift": 1.3}, "last"),
    (EULER, {**DYNAMIC, "time_shift_type": "linear"}, "last"),
    (EULER, LTX, "last"),
    (EULER, {"shift": 3.0, "stochastic_sampling": True}, None),
    *((UNIPC, {**FLOW, "flow_shift": shift}, None) for shift in (1.0, 3.0, 5.0, 8.0)),
    (UNIPC, {**FLOW, **OPEN, "flow_shift": 5.0}, None),
    (UNIPC, {**FLOW, **DYNAMIC, "shift_terminal": 0.1}, None),
    (UNIPC, {}, None),
    (UNIPC, {"solver_order": 1}, None),
    (UNIPC, {"solver_order": 3}, None),
    (UNIPC, {**OPEN, "solver_order": 3, "solver_type": "bh1"}, None),
    (UNIPC, {**OPEN, "predict_x0": False}, None),
    (UNIPC, {**OPEN, "predict_x0": False, "solver_order": 3, "prediction_type": "v_prediction"}, None),
    (UNIPC, {**OPEN, "predict_x0": False, "prediction_type": "sample"}, None),
    (UNIPC, {**OPEN, "lower_order_final": False}, None),
    (UNIPC, {"disable_corrector": [0, 3], "prediction_type": "sample"}, None),
    (UNIPC, ZERO_SNR, None),
    (UNIPC, {**SCALED, "timestep_spacing": "leading", "steps_offset": 1}, None),
    (UNIPC, {"beta_schedule": "squaredcos_cap_v2"}, None),
    (DPM, {}, None),
    (DPM, {"solver_order": 1}, None),
    (DPM, {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}, None),
    (DPM, OPEN, None),
    (DPM, {**OPEN, "lower_order_final": False}, None),
    (DPM, {"algorithm_type": "sde-dpmsolver++"}, None),
    (DPM, {**FLOW, "flow_shift": 5.0}, None),
    (DDIM, UNCLIPPED, None),
    (DDIM, {**UNCLIPPED, **SCALED}, None),
    (DDIM, {**UNCLIPPED, **ZERO_SNR}, None),
    (DDIM, {**UNCLIPPED, "set_alpha_to_one": False, "steps_offset": 1}, None),
    (DDIM, {**UNCLIPPED, "timestep_spacing": "linspace", "prediction_type": "sample"}, None),
    *((name, ZERO_SNR, None) for name in (COG_DDIM, COG_DPM)),
    *((name, {**ZERO_SNR, "snr_shift_scale": 1.0}, None) for name in (COG_DDIM, COG_DPM)),
    *((name, {"prediction_type": "epsilon"}, None) for name in (COG_DDIM, COG_DPM)),
    *((name, {"set_alpha_to_one": False, "timestep_spacing": "linspace"}, None) for name in (COG_DDIM, COG_DPM)),
]


def made_up_network() -> Callable[[Array, float], Array]:
    matrix = np.random.default_rng(0).standard_normal((SIZE, SIZE)) / SIZE
    return lambda x, t: np.tanh(t / 1000) * x / 2 + matrix @ x * (0.2 + t / 2000)


def run(table: list[Stage], x: Array, noise: Array) -> Array:
    """What guided_step does with a table; `noise` holds what a stage with fresh noise gets."""
    network = made_up_network()
    slots = [x] + [np.full_like(x, np.nan)] * (len(table[0].matrix) - 1)
    for index, stage in enumerate(table):
        if stage.fresh:
            slots[stage.fresh] = noise[index]
        operands = [*slots, network(slots[0], stage.timestep)]
        slots = [
            sum((c * o for c, o in zip(row, operands, strict=True) if c != 0), np.zeros_like(x)) for row in stage.matrix
        ]
    return slots[0]


def peer_run(scheduler: Any, x: Array, noise: Array, monkeypatch: pytest.MonkeyPatch) -> Array:
    """diffusers' own loop."""
    network, latent, old = made_up_network(), torch.from_numpy(x)[None, None], None
    for index, t in enumerate(scheduler.timesteps):
        drawn = torch.from_numpy(noise[index])[None, None]
        module = type(scheduler).__module__
        if hasattr(__import__(module, fromlist=["x"]), "randn_tensor"):
            monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, drawn=drawn, **__: drawn.float())
        out = torch.from_numpy(network(latent[0, 0].double().numpy(), float(t)))[None, None]
        if type(scheduler).__name__ == COG_DPM:
            back = scheduler.timesteps[index - 1] if index else None
            latent, old = scheduler.step(out, old, t, back, latent)
        else:
            latent = scheduler.step(out, t, latent, return_dict=False)[0]
    result: Array = latent[0, 0].double().numpy()
    return result


def peer(name: str, config: dict[str, Any], ramp: str | None, steps: int) -> Any:
    scheduler = getattr(diffusers, name)(**config)
    extra: dict[str, Any] = {}
    if config.get("use_dynamic_shifting"):
        low, high = config.get("base_image_seq_len", 256), 4096
        least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        extra["mu"] = least + (most - least) * (TOKENS - low) / (high - low)
    if ramp:
        scheduler.set_timesteps(sigmas=RAMPS[ramp](steps), **extra)
    else:
        scheduler.set_timesteps(steps, **extra)
    return scheduler


@pytest.mark.parametrize("steps", [10, 30])
@pytest.mark.parametrize(("name", "config", "ramp"), CASES)
def test_a_schedule_is_diffusers_scheduler(
    name: str, config: dict[str, Any], ramp: str | None, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = peer(name, config, ramp, steps)
    path, solve = Schedule(data={"class": name, "ramp": ramp, **config}).make(steps, TOKENS)
    table = solve(path)
    assert [stage.timestep for stage in table] == [float(t) for t in scheduler.timesteps]
    generator = np.random.default_rng(1)
    x, noise = generator.standard_normal(SIZE), generator.standard_normal((steps, SIZE))
    want = peer_run(scheduler, x, noise, monkeypatch)
    assert np.abs(run(table, x, noise) - want).max() < 1e-5 * np.abs(want).max()


def test_named_samplers_run_on_a_checkpoints_own_noise_levels() -> None:
    wan = Schedule(data={"class": UNIPC, **FLOW, "flow_shift": 3.0})
    ddim = Schedule(data={"class": DDIM, **UNCLIPPED})
    for name in SAMPLERS:
        path, solve = wan.make(6, TOKENS, name)
        assert {stage.sigma for stage in solve(path)} == {sigma for _, sigma in wan.make(6, TOKENS)[0].levels}
        if name != "heun":
            path, solve = ddim.make(6, TOKENS, name)
            assert len(solve(path)) == 6
    path, solve = ddim.make(6, TOKENS, "heun")
    with pytest.raises(ValueError, match="heun is for flow-matching models"):
        solve(path)


def test_the_network_of_flux_is_told_sigma() -> None:
    config = {"class": EULER, **DYNAMIC, "ramp": "last"}
    told = Schedule(data={**config, "divide": 1000}).make(4, TOKENS)[0]
    path = Schedule(data=config).make(4, TOKENS)[0]
    assert told.timesteps == tuple((np.float32(path.timesteps) / np.float32(1000)).tolist())
    assert told.time(0.5) == 0.5
    assert path.time(0.5) == 500


def test_exact_flow() -> None:
    path, solve = Schedule.flow(3.0).make(5, TOKENS)
    assert [sigma for _, sigma in path.chain()] == flow_sigmas(5, 3.0)
    assert solve(path)[0].matrix[0][0] == 1.0


def test_given_clips_start_at_a_level_of_the_schedule() -> None:
    """Where there is no timestep for every noise level, at the first level that is not above what is asked for."""
    path, solve = Schedule(data={"class": DDIM, **UNCLIPPED}).make(10, TOKENS)
    for ceiling in (0.9, 0.3):
        first = next(i for i, (_, sigma) in enumerate(path.levels) if sigma <= ceiling)
        bound = clamped_stages(solve, path, ceiling)
        assert [stage.timestep for stage in bound] == [path.timesteps[max(i, first)] for i in range(10)]
        assert bound[first:] == solve(path)[first:]
        assert (bound[0].alpha, bound[0].sigma) == path.levels[first]
        assert bound[0].matrix == ((1.0, 0.0),)
    still = clamped_stages(solve, path, 0.0)
    assert {(stage.alpha, stage.sigma, stage.timestep) for stage in still} == {(1.0, 0.0, 0.0)}


def test_a_ceiling_of_whole_timesteps_is_told_a_whole_one() -> None:
    path, solve = Schedule(data={"class": UNIPC, **FLOW, "flow_shift": 3.0}).make(10, TOKENS)
    bound = clamped_stages(solve, path, 0.4567)
    assert (bound[0].sigma, bound[0].timestep) == (0.4567, 456.0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "the scheduler None is not known; known are flow, FlowMatchEuler"),
        ({"class": "LMSDiscreteScheduler"}, "'LMSDiscreteScheduler' is not known"),
        ({"class": EULER, "invert_sigmas": True}, "invert_sigmas is not supported"),
        ({"class": EULER, **DYNAMIC, "time_shift_type": "cubic"}, "exponential or linear, got 'cubic'"),
        ({"class": EULER, "shift": "3"}, "config cannot be used"),
        ({"class": EULER, "ramp": "up"}, "config cannot be used"),
        ({"class": UNIPC, "use_karras_sigmas": True}, "use_karras_sigmas"),
        ({"class": UNIPC, "solver_order": 4}, "1, 2 or 3, got 4"),
        ({"class": UNIPC, "use_flow_sigmas": True}, "flow_prediction"),
        ({"class": UNIPC, "prediction_type": "flow_prediction"}, "got 'flow_prediction'"),
        ({"class": UNIPC, "final_sigmas_type": "one"}, "zero or sigma_min"),
        ({"class": UNIPC, "beta_schedule": "sigmoid"}, "got 'sigmoid'"),
        ({"class": DPM, "solver_order": 3}, "order 1 or 2"),
        ({"class": DPM, "algorithm_type": "dpmsolver"}, "got 'dpmsolver'"),
        ({"class": DPM, "lambda_min_clipped": -5.1}, "-5.1"),
        ({"class": DDIM}, "clip_sample"),
        ({"class": DDIM, **UNCLIPPED, "timestep_spacing": "even"}, "got 'even'"),
        ({"class": COG_DDIM, **ZERO_SNR, "prediction_type": "epsilon"}, "it needs v_prediction"),
    ],
)
def test_what_cannot_be_reproduced_is_refused_in_a_sentence(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        Schedule(data=data)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert len(message) <= 300


def test_more_steps_than_the_table_has() -> None:
    schedule = Schedule(data={"class": DDIM, **UNCLIPPED, "num_train_timesteps": 20})
    with pytest.raises(ValueError, match="makes 20 steps at most, got 21"):
        schedule.make(21, TOKENS)
