"""Samplers: convergence on Gaussian data, whose flow map is known, and equality with the papers' formulas."""

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from packdit.runtime.path import Stage, flow_path, flow_sigmas, pad
from packdit.runtime.sampler import SAMPLERS, clamped_stages, solver

Array = NDArray[np.float64]
Field = Callable[[Array, float], Array]

MEAN, STD = 0.7, 0.5  # data x0 ~ N(MEAN, STD^2)
NOISE: Array = np.array([-1.5, -0.3, 0.4, 1.2, 2.0])


def variance(sigma: float) -> float:
    return (1 - sigma) ** 2 * STD**2 + sigma**2


def velocity(x: Array, sigma: float) -> Array:
    """E[eps - x0 | x] for the Gaussian: linear regression of both on x."""
    centred = (x - (1 - sigma) * MEAN) / variance(sigma)
    return sigma * centred - (MEAN + STD**2 * (1 - sigma) * centred)


def flow(sigma: float) -> Array:
    """Where the flow carries NOISE from sigma = 1: the map between Gaussians is affine."""
    return (1 - sigma) * MEAN + math.sqrt(variance(sigma)) * NOISE


def stages(name: str, sigmas: Sequence[float]) -> list[Stage]:
    return solver(name)(flow_path(sigmas))


def clamped(name: str, sigmas: Sequence[float], ceiling: float) -> list[Stage]:
    return clamped_stages(solver(name), flow_path(sigmas), ceiling)


def run(table: Sequence[Stage], start: Array, field: Field = velocity) -> Array:
    """Apply a table as guided_step does: history starts as NaN, a coefficient of 0 does not touch its operand."""
    slots = [start] + [np.full_like(start, np.nan)] * 2
    for stage in table:
        operands = [*slots, field(slots[0], stage.sigma)]
        slots = [
            sum((c * operand for c, operand in zip(row, operands, strict=True) if c != 0), np.zeros_like(start))
            for row in pad(stage.matrix, 3).tolist()
        ]
    return slots[0]


def error(table: Sequence[Stage], first: float, last: float = 0.0) -> float:
    return float(np.abs(run(table, flow(first)) - flow(last)).max())


def even_log_snr(steps: int) -> list[float]:
    """From 0.95 to 0.05 in equal steps of lambda: no end where the step in lambda is infinite."""
    ends = math.log(0.05 / 0.95), math.log(0.95 / 0.05)
    return [1 / (1 + math.exp(x)) for x in np.linspace(*ends, steps + 1)]


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2), ("unipc", 3)])
def test_order_of_convergence_in_the_interior(name: str, order: int) -> None:
    errors = [error(stages(name, even_log_snr(n)), 0.95, 0.05) for n in (64, 128, 256)]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes == pytest.approx([order] * 2, abs=0.05)


@pytest.mark.parametrize("first", [1.0, 0.9])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2), ("unipc", 2)])
def test_order_of_convergence_on_the_flow_schedule(name: str, order: int, shift: float, first: float) -> None:
    """Down to 0. The steps next to 0 and 1 stay of length O(1) in lambda, so the order of dpmpp_2m and unipc there is
    that of steps^-2 log(steps): the slope is taken after dividing by the logarithm."""
    counts = (256, 512, 1024)
    errors = [error(stages(name, [first * s for s in flow_sigmas(n, shift)]), first) for n in counts]
    if name in ("dpmpp_2m", "unipc"):
        errors = [e / math.log(n) for e, n in zip(errors, counts, strict=True)]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert min(slopes) > order - 0.15
    assert max(slopes) < order + 0.25


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_tables_are_finite_start_without_history_and_end_without_it(name: str, steps: int) -> None:
    table = stages(name, flow_sigmas(steps, 5.0))
    assert len(table) == (2 * steps - 1 if name == "heun" else steps)
    wide = np.stack([pad(stage.matrix, 3) for stage in table])
    assert wide.shape == (len(table), 3, 4)
    assert np.isfinite(wide).all()
    assert not wide[0, :, 1:3].any()
    assert not wide[-1, 1:].any()
    assert np.isfinite(run(table, flow(1.0))).all()
    assert [stage.timestep for stage in table] == [1000 * stage.sigma for stage in table]


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_the_data_prediction(name: str) -> None:
    np.testing.assert_allclose(run(stages(name, [1.0, 0.0]), NOISE), NOISE - velocity(NOISE, 1.0), rtol=1e-15)


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
@pytest.mark.parametrize("sigmas", [flow_sigmas(2), flow_sigmas(7, 3.0), [0.8, 0.3, 0.01, 0.0]])
def test_a_constant_data_prediction_is_solved_exactly(name: str, sigmas: list[float]) -> None:
    """x0 is the same everywhere: the path is a straight line from the noise to it."""

    def straight(x: Array, sigma: float) -> Array:
        return (x - MEAN) / sigma

    start = (1 - sigmas[0]) * MEAN + sigmas[0] * NOISE
    np.testing.assert_allclose(run(stages(name, sigmas), start, straight), np.full(5, MEAN), atol=1e-13)
    half = run(stages(name, sigmas[:-1]), start, straight)
    np.testing.assert_allclose(half, (1 - sigmas[-2]) * MEAN + sigmas[-2] * NOISE, atol=1e-13)


def direct_heun(x: Array, sigmas: list[float]) -> Array:
    """arXiv 2206.00364, algorithm 1 with S_churn = 0: the step to 0 is Euler."""
    for s, t in pairwise(sigmas):
        slope = velocity(x, s)
        euler = x + (t - s) * slope
        x = euler if t == 0 else x + (t - s) * (slope + velocity(euler, t)) / 2
    return x


def log_snr(sigma: float) -> float:
    return math.log((1 - sigma) / sigma) if 0 < sigma < 1 else (math.inf if sigma == 0 else -math.inf)


def direct_dpmpp_2m(x: Array, sigmas: list[float]) -> Array:
    """arXiv 2211.01095, algorithm 2, equations for D_i and x_i as printed, with alpha = 1 - sigma."""
    before: Array | None = None
    for i, (s, t) in enumerate(pairwise(sigmas)):
        data = x - s * velocity(x, s)
        h = log_snr(t) - log_snr(s)
        use = data
        if before is not None and t > 0:
            r = (log_snr(s) - log_snr(sigmas[i - 1])) / h
            use = (1 + 1 / (2 * r)) * data - 1 / (2 * r) * before
        x = t / s * x - (1 - t) * (math.exp(-h) - 1) * use
        before = data
    return x


def unipc_update(x: Array, data: Array, others: list[tuple[float, Array]], s: float, t: float, rho: Array) -> Array:
    """arXiv 2302.04867, data prediction: others are (sigma, data prediction) at the remaining nodes."""
    h = log_snr(t) - log_snr(s)
    bh = math.expm1(-h)
    differences = [(m - data) / ((log_snr(at) - log_snr(s)) / h) for at, m in others]
    residual = sum((r * d for r, d in zip(rho, differences, strict=True)), np.zeros_like(x))
    return t / s * x - (1 - t) * bh * data - (1 - t) * bh * residual


def corrector_weights(before: float, s: float, t: float) -> Array:
    """Solves R rho = b of UniC-2 for the nodes `before` and t (r = 1)."""
    hh = -(log_snr(t) - log_snr(s))
    r = (log_snr(before) - log_snr(s)) / -hh
    phi_1 = math.expm1(hh) / hh
    phi_2 = (phi_1 - 1) / hh
    phi_3 = (phi_2 - 0.5) / hh
    right = np.array([phi_2, 2 * phi_3]) * hh / math.expm1(hh)
    solved: Array = np.linalg.solve(np.array([[1.0, 1.0], [r, 1.0]]), right)
    return solved


def direct_unipc(x: Array, sigmas: list[float]) -> Array:
    """arXiv 2302.04867: predict, evaluate, correct with that evaluation, predict from the corrected point."""
    known: list[tuple[float, Array]] = []
    corrected = x
    half = np.array([0.5])
    for i, s in enumerate(sigmas[:-1]):
        data = x - s * velocity(x, s)
        if i == 0:
            corrected = x
        elif i == 1:
            corrected = unipc_update(corrected, known[-1][1], [(s, data)], sigmas[0], s, half)
        else:
            rho = corrector_weights(sigmas[i - 2], sigmas[i - 1], s)
            corrected = unipc_update(corrected, known[-1][1], [known[-2], (s, data)], sigmas[i - 1], s, rho)
        t = sigmas[i + 1]
        others = [known[-1]] if known and t > 0 else []
        x = data if t == 0 else unipc_update(corrected, data, others, s, t, half[: len(others)])
        known.append((s, data))
    return x


DIRECT = {"heun": direct_heun, "dpmpp_2m": direct_dpmpp_2m, "unipc": direct_unipc}


@pytest.mark.parametrize("name", DIRECT)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 20])
@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_tables_equal_the_papers_formulas(name: str, steps: int, shift: float) -> None:
    sigmas = [0.97 * s for s in flow_sigmas(steps, shift)]
    x = flow(sigmas[0])
    np.testing.assert_allclose(run(stages(name, sigmas), x), DIRECT[name](x, sigmas), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sigma_one_is_the_limit(name: str) -> None:
    """lambda is -inf at sigma = 1; the table there is the limit of those that start just below."""
    exact = run(stages(name, flow_sigmas(6)), NOISE)
    gaps = []
    for eps in (1e-4, 1e-8, 1e-12):
        near = run(stages(name, [1 - eps, *flow_sigmas(6)[1:]]), NOISE)
        gaps.append(float(np.abs(near - exact).max()))
    assert gaps[0] > gaps[1] > gaps[2]  # falls as 1 / log(eps) for the multistep samplers
    assert gaps[2] < 0.02


@pytest.mark.parametrize("name", SAMPLERS)
def test_clamped_tokens_wait_and_then_run_from_the_ceiling(name: str) -> None:
    sigmas = flow_sigmas(8)
    whole = stages(name, sigmas)
    slots = len(whole[0].matrix)
    for ceiling, below in ((0.6, 5), (0.5, 4), (0.1, 1), (0.125, 1)):
        bound = clamped(name, sigmas, ceiling)
        tail = stages(name, [ceiling, *[s for s in sigmas if s < ceiling]])
        waiting = len(whole) - len(tail)
        assert len(tail) == (2 * below - 1 if name == "heun" else below)
        assert bound[waiting:] == tail
        for stage in bound[:waiting]:
            assert stage.sigma == ceiling
            assert np.array_equal(stage.matrix, np.eye(slots, slots + 1) * (np.arange(slots) == 0)[:, None])
        assert [stage.sigma for stage in bound] == [min(stage.sigma, ceiling) for stage in whole]
        start = flow(ceiling)
        assert np.array_equal(run(bound, start), run(tail, start))


@pytest.mark.parametrize("name", SAMPLERS)
def test_ceilings_at_the_ends(name: str) -> None:
    sigmas = flow_sigmas(4)
    assert clamped(name, sigmas, 1.0) == stages(name, sigmas)
    still = clamped(name, sigmas, 0.0)
    assert len(still) == len(stages(name, sigmas))
    assert {stage.sigma for stage in still} == {0.0}
    nan = np.full_like(NOISE, np.nan)
    assert np.array_equal(run(still, NOISE, lambda x, sigma: nan), NOISE)
    late = [0.7 * s for s in sigmas]
    assert clamped(name, late, 0.9) == stages(name, late)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: stages("ddim", flow_sigmas(2)), "'ddim', allowed are euler, heun, dpmpp_2m, unipc"),
        (lambda: stages("x" * 500, flow_sigmas(2)), "xxx..."),
        (lambda: stages("euler", [1.0]), "fall"),
        (lambda: stages("euler", [1.0, 0.5, 0.5, 0.0]), "fall"),
        (lambda: stages("unipc", [1.0, math.nan, 0.0]), "fall"),
        (lambda: stages("euler", [1.1, 0.0]), "fall"),
        (lambda: stages("euler", [1.0, -0.1]), "fall"),
        (lambda: clamped("euler", flow_sigmas(2), 1.5), "ceiling"),
        (lambda: clamped("euler", flow_sigmas(2), math.nan), "ceiling"),
    ],
)
def test_wrong_input_is_one_sentence(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        call()
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert len(message) <= 300


def test_torch_is_not_needed() -> None:
    code = "import sys, packdit.runtime.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
