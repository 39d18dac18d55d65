"""UniPC of each order and form: exact for a constant prediction, and of the order that the paper promises."""

import math
from itertools import pairwise

import numpy as np
import pytest

from packdit.runtime.path import Path, Stage
from packdit.runtime.unipc import Options, unipc

MEAN, STD = 0.7, 0.5  # data x0 ~ N(MEAN, STD^2)
NOISE = np.array([-1.5, -0.3, 0.4, 1.2, 2.0])


def process(steps: int, prediction: str) -> Path:
    """A variance preserving path in equal steps of lambda."""
    alphas = [(1 / (1 + math.exp(-2 * x))) ** 0.5 for x in np.linspace(-1.5, 1.5, steps + 1)]
    levels = [(alpha, (1 - alpha**2) ** 0.5) for alpha in alphas]
    return Path(levels=tuple(levels[:-1]), ends=tuple(levels[1:]), timesteps=tuple(range(steps)), prediction=prediction)


def where(level: tuple[float, float]) -> np.ndarray:
    """Where the probability flow carries NOISE: the map between Gaussians is affine."""
    return level[0] * MEAN + math.sqrt((level[0] * STD) ** 2 + level[1] ** 2) * NOISE


def run(table: list[Stage], path: Path) -> np.ndarray:
    slots = [where(path.levels[0])] + [np.full_like(NOISE, np.nan)] * (len(table[0].matrix) - 1)
    for stage in table:
        alpha, sigma = stage.alpha, stage.sigma
        eps = sigma * (slots[0] - alpha * MEAN) / ((alpha * STD) ** 2 + sigma**2)
        x0 = (slots[0] - sigma * eps) / alpha
        out = {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0}[path.prediction]
        operands = [*slots, out]
        slots = [
            sum((c * o for c, o in zip(row, operands, strict=True) if c != 0), np.zeros_like(NOISE))
            for row in stage.matrix
        ]
    return slots[0]


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    ("options", "order"),
    [
        (Options(order=1), 2),
        (Options(), 3),
        (Options(data=False), 3),
        (Options(bh2=False), 3),
        (Options(order=3), 3),
        (Options(order=3, data=False, bh2=False), 3),
    ],
)
def test_order_of_convergence(options: Options, order: int, prediction: str) -> None:
    """One more than the predictor's, but of the first steps, which are of lower order, order 3 cannot be more."""
    errors = []
    for steps in (64, 128, 256):
        path = process(steps, prediction)
        errors.append(float(np.abs(run(unipc(path, options), path) - where(path.ends[-1])).max()))
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert min(slopes) > order - 0.25


@pytest.mark.parametrize("order", [1, 2, 3])
def test_history_is_read_only_after_it_was_written(order: int) -> None:
    path = process(6, "epsilon")
    table = unipc(path, Options(order=order, lower_last=True))
    assert {len(stage.matrix) for stage in table} == {order + 1}
    assert not np.asarray(table[0].matrix)[:, 1:-1].any()
    assert not np.asarray(table[-1].matrix)[1:].any()
    assert np.isfinite(run(table, path)).all()


def test_a_step_that_is_not_corrected_keeps_its_prediction() -> None:
    table = unipc(process(6, "epsilon"), Options(plain=(2,)))
    assert not any(table[2].matrix[1])
    assert table[3].matrix[0][1] == 0
    assert table[2].matrix[0][1] != 0
