"""Every case at the scale of tests: packdit's op on each backend, and each peer, is accurate."""

import inspect

import pytest
import torch

from packdit import kernels
from packdit.bench.bars import BARS
from packdit.bench.measure import backends_on, refuses
from packdit.bench.problem import Judge
from packdit.bench.registry import cases
from packdit.bench.shapes import PACKS, SCALES

CPU = torch.device("cpu")
OPS = {case.op for case in cases("tiny")}


@pytest.mark.parametrize("op", sorted(OPS))
def test_everybody_computes_the_same(op: str) -> None:
    for case in cases("tiny", {op}):
        problem = case.build(CPU)
        judge = Judge(problem, case.dtype)
        ran = 0
        for backend in backends_on(CPU):
            if not refuses(lambda b=backend, p=problem: p.run(b)):
                ran += 1
                loss = judge.error(lambda b=backend, p=problem: p.run(b))
                assert loss <= judge.allowed, (case.shape, backend)
        assert ran
        for name, peer in problem.peers.items():
            assert judge.error(peer) <= judge.allowed, (case.shape, name)
        assert problem.moved > 0


def test_every_op_is_measured() -> None:
    functions = {name: getattr(kernels, name) for name in dir(kernels) if inspect.isfunction(getattr(kernels, name))}
    assert {name for name, op in functions.items() if "backend" in inspect.signature(op).parameters} <= OPS


def test_names_are_unique_at_every_scale() -> None:
    for scale in SCALES:
        names = [(case.op, case.shape) for case in cases(scale)]
        assert len(set(names)) == len(names), scale


def test_an_unknown_op_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is no op 'softmax'; known are varlen_attention, "):
        cases("tiny", {"softmax"})


def test_bars_name_cases_that_are_measured() -> None:
    for bar in BARS:
        scale = {"cpu": "cpu", "cuda": "gpu"}[bar.device]
        assert (bar.op, bar.shape, bar.dtype) in {(case.op, case.shape, case.dtype) for case in cases(scale)}, bar


def test_the_mix_gives_each_length_as_many_tokens() -> None:
    mix = PACKS["gpu"]["mix"]
    assert {length * mix.count(length) for length in set(mix)} == {16384}
