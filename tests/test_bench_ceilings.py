import pytest
import torch

from packdit.bench.ceilings import Ceilings, measure, name
from packdit.kernels.backend import native
from packdit.kernels.testing import instruction_set

CPU = torch.device("cpu")


def test_what_is_measured_is_positive() -> None:
    found = measure(CPU, [torch.float32], scale=2**-10)
    assert found.copy > 0
    assert found.peak > 0
    assert found.gemm["float32"] > 0
    assert found.operations("float32") == found.peak


def test_every_instruction_set_has_a_peak() -> None:
    for isa in native().isas():
        with instruction_set(isa):
            assert native().fma_peak(1) > 1e8, isa


def test_the_floor_is_the_larger_of_two_times() -> None:
    found = Ceilings(copy=1e9, gemm={"bfloat16": 1e12})
    assert found.floor(1e12, 1e6, "bfloat16") == (1.0, "operations")
    assert found.floor(0, 2e9, "bfloat16") == (2.0, "bytes")
    assert found.describe() == "copy 1.0 GB/s, bfloat16 product 1 TFLOP/s"
    with pytest.raises(KeyError):
        found.operations("float32")


def test_names() -> None:
    assert name(torch.float16) == "float16"
