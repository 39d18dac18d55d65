import pytest
import torch

from packdit.kernels.backend import native
from packdit.kernels.testing import assert_accurate, assert_same_bits, error, instruction_set, num_threads, offsets


def test_offsets_add_up() -> None:
    assert offsets([2, 0, 3], start=1).tolist() == [1, 3, 3, 6]


def test_the_error_is_relative_to_the_output() -> None:
    exact = torch.tensor([1.0, -10.0]).double()
    assert error(torch.tensor([1.5, -10.0]), exact) == pytest.approx(0.05)
    assert error(torch.zeros(0), torch.zeros(0).double()) == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_inf_must_match(value: float) -> None:
    exact = torch.tensor([1.0, value]).double()
    assert error(torch.tensor([1.0, value]), exact) == 0
    for wrong in (1.0, torch.nan, torch.inf, -torch.inf):
        if not torch.equal(torch.tensor(wrong), torch.tensor(value)) and not (wrong != wrong and value != value):
            with pytest.raises(AssertionError, match="NaN or Inf"):
                error(torch.tensor([1.0, wrong]), exact)
    with pytest.raises(AssertionError, match="NaN or Inf where the exact result is finite"):
        error(torch.tensor([value]), torch.ones(1).double())


def test_the_budget_is_twice_what_pytorch_loses() -> None:
    exact = torch.tensor([1.0]).double()
    assert_accurate(torch.tensor([1.0019]), torch.tensor([1.001]), exact)
    with pytest.raises(AssertionError, match="allowed"):
        assert_accurate(torch.tensor([1.0021]), torch.tensor([1.001]), exact)
    assert_accurate(torch.tensor([1.0 + 2**-23]), torch.tensor([1.0]), exact)


def test_same_bits_tells_zeros_apart_and_nans_not() -> None:
    assert_same_bits(torch.tensor([torch.nan]), torch.tensor([-torch.nan]))
    with pytest.raises(AssertionError, match="1 of 1"):
        assert_same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))


def test_settings_come_back() -> None:
    threads, isa = torch.get_num_threads(), native().isa()
    with num_threads(threads + 1), instruction_set("portable"):
        assert (torch.get_num_threads(), native().isa()) == (threads + 1, "portable")
    assert (torch.get_num_threads(), native().isa()) == (threads, isa)
    with pytest.raises(ValueError, match=r"instruction set is 'mmx'; allowed on this machine: .*portable"):
        native().set_isa("mmx")
