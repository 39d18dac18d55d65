import pytest
import torch

from packdit.bench import ragged, registry

CPU = torch.device("cpu")


def test_every_op_that_is_timed_is_also_checked() -> None:
    assert set(ragged.SHAPES) >= {case.op for case in registry.cases("gpu")}


@pytest.mark.parametrize("op", ragged.SHAPES)
def test_every_problem_can_be_built(op: str) -> None:
    found = list(ragged.cases(op, torch.float32))
    assert len({case.shape for case in found}) == len(found)
    for case in found:
        results = case.build(CPU).run(None)
        assert all(result.dtype == torch.float32 for result in results)
