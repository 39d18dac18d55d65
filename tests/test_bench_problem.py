import pytest
import torch
from torch import Tensor

from packdit.bench.problem import Judge, Problem, compiled, eager, norm_error, of_op, poisoned_memory
from packdit.kernels import modulate


def double(x: Tensor) -> tuple[Tensor, ...]:
    return (2 * x,)


def problem(limit: float | None = None) -> Problem:
    x = torch.linspace(0.1, 1, 50)
    return Problem(
        run=lambda backend: double(x),
        exact=lambda: double(x.double()),
        plain=lambda: double(x),
        flops=1,
        moved=1,
        peers=eager(double, x),
        limit=limit,
    )


def test_an_accurate_result_passes_and_others_do_not() -> None:
    judge = Judge(problem(), torch.float32)
    right = judge.exact[0].float()
    assert judge.error(lambda: (right,)) <= judge.allowed == torch.finfo(torch.float32).eps
    assert judge.error(lambda: (right * 1.001,)) > judge.allowed
    broken = right.clone()
    broken[3] = torch.nan
    for bad in ((broken,), (right[:-1],), (right, right), ()):
        assert judge.error(lambda bad=bad: bad) == float("inf")


def test_an_element_that_nobody_writes_is_seen() -> None:
    judge = Judge(problem(), torch.float32)

    def forgetful() -> tuple[Tensor, ...]:
        out = torch.empty(50)
        out[:-1] = judge.exact[0][:-1]
        return (out,)

    assert judge.error(forgetful) == float("inf")


def test_plain_pytorch_sets_what_may_be_lost() -> None:
    x = torch.linspace(0.1, 1, 50)
    exact = (3 * x.double(),)
    coarse = Problem(run=lambda backend: (3 * x,), exact=lambda: exact, plain=lambda: (3 * x * 1.01,), flops=1, moved=1)
    assert Judge(coarse, torch.float32).allowed == pytest.approx(0.02, rel=1e-3)


def test_a_quantized_op_has_a_limit_of_its_own() -> None:
    judge = Judge(problem(limit=0.01), torch.float32)
    right = judge.exact[0].float()
    assert judge.allowed == 0.01
    assert judge.error(lambda: (right * 1.005,)) == pytest.approx(0.005, rel=1e-3)
    assert norm_error(right * torch.nan, judge.exact[0]) == float("inf")


def test_reset_comes_before_every_run() -> None:
    state = torch.ones(3)

    def advance(backend: str | None = None) -> tuple[Tensor, ...]:
        return (state.add_(1),)

    moving = Problem(
        run=advance,
        exact=lambda: (torch.full((3,), 2.0).double(),),
        plain=lambda: (torch.full((3,), 2.0),),
        flops=1,
        moved=1,
        reset=lambda: state.fill_(1),
    )
    judge = Judge(moving, torch.float32)
    assert [judge.error(advance) for _ in range(3)] == [0, 0, 0]


def test_of_op_runs_the_op_itself() -> None:
    x, table, row = torch.randn(5, 8), torch.randn(2, 16), torch.zeros(5, dtype=torch.int32)
    made = of_op(modulate, (x, *table.chunk(2, 1), row), {"norm": "rms"}, flops=1, moved=2)
    assert made.exact()[0].dtype == torch.float64
    assert torch.equal(made.run("reference")[0], made.plain()[0])


def test_fresh_memory_is_itself_again_afterwards() -> None:
    before = torch.empty
    with poisoned_memory():
        assert torch.empty(3).isnan().all()
        assert torch.ones(2).new_empty(3).isnan().all()
        assert torch.empty(3, dtype=torch.int32).dtype == torch.int32
    assert torch.empty is before


def test_only_partials_can_be_compiled() -> None:
    with pytest.raises(AssertionError):
        compiled(lambda: (torch.ones(1),))
