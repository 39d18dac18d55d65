"""Noise levels, predictions and the tables made of them."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from packdit.runtime.path import PREDICTIONS, Path, flow_path, flow_sigmas, log_snr, pad, towards

VP = (0.8, 0.6)


def test_flow_sigmas() -> None:
    assert flow_sigmas(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert flow_sigmas(1, 7.0) == [1.0, 0.0]
    for shift in (0.1, 0.3, 3.0, 12.0):
        line = np.linspace(1, 1 / 30, 30)
        np.testing.assert_allclose(flow_sigmas(30, shift)[:-1], shift * line / (1 + (shift - 1) * line), rtol=1e-14)
        assert flow_sigmas(30, shift)[0] == 1.0


def test_pad_moves_the_output_column() -> None:
    narrow = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert pad(narrow, 3).tolist() == [[1, 2, 0, 3], [4, 5, 0, 6], [0, 0, 0, 0]]
    assert pad(narrow, 2).tolist() == [list(row) for row in narrow]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_prediction_gives_the_data_and_the_noise(prediction: str) -> None:
    alpha, sigma = (0.3, 0.7) if prediction == "flow" else VP
    x0, eps = np.random.default_rng(0).standard_normal((2, 9))
    x = alpha * x0 + sigma * eps
    out = {"flow": eps - x0, "epsilon": eps, "v_prediction": alpha * eps - sigma * x0, "sample": x0}[prediction]
    path = Path(levels=((alpha, sigma),), ends=((1.0, 0.0),), timesteps=(1.0,), prediction=prediction)
    np.testing.assert_allclose(path.data(0, x, out), x0, rtol=1e-13)
    np.testing.assert_allclose(path.noise(0, x, out), eps, rtol=1e-13)


@pytest.mark.parametrize("end", [(0.9, 0.19**0.5), (1.0, 0.0)])
@pytest.mark.parametrize("start", [VP, (0.0, 1.0)])
def test_a_step_for_a_constant_x0_is_exact(start: tuple[float, float], end: tuple[float, float]) -> None:
    x0, eps = np.random.default_rng(0).standard_normal((2, 9))
    a, b = towards(start, end)
    np.testing.assert_allclose(
        a * (start[0] * x0 + start[1] * eps) + b * x0, end[0] * x0 + end[1] * eps, rtol=1e-12, atol=1e-13
    )


def test_log_snr_has_both_infinities() -> None:
    assert [log_snr(level) for level in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0))] == [-math.inf, 0.0, math.inf]


def test_a_path_from_a_ceiling_on() -> None:
    path = flow_path([1.0, 0.75, 0.5, 0.25, 0.0])
    assert path.below(0.6) == flow_path([0.6, 0.5, 0.25, 0.0])
    assert path.below(0.5) == flow_path([0.5, 0.25, 0.0])
    assert path.below(0.0) is None
    assert path.chained() == path


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: flow_sigmas(0), "steps: got 0"),
        (lambda: flow_sigmas(3, 0.0), "shift"),
        (lambda: flow_sigmas(3, math.nan), "shift"),
        (lambda: flow_path([1.0, 0.5, 0.5]), "fall strictly"),
    ],
)
def test_wrong_input_is_one_sentence(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
