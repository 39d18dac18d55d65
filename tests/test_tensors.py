import pytest
import torch

from packdit.kernels.tensors import INT32, accurate, check_choice, check_offsets, check_tensor, readable


def test_references_compute_in_float32_except_for_float64() -> None:
    assert accurate(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert accurate(torch.ones(1, dtype=torch.float64)).dtype == torch.float64


def test_values_on_a_gpu_or_without_data_are_not_read() -> None:
    assert readable(torch.ones(1))
    assert not readable(torch.ones(1, device="meta"))


def test_a_choice_says_what_is_allowed() -> None:
    check_choice("op: norm", "rms", ("layer", "rms"))
    with pytest.raises(ValueError, match=r"^op: norm is 'batch'; allowed: layer, rms$"):
        check_choice("op: norm", "batch", ("layer", "rms"))


@pytest.mark.parametrize("x", [torch.zeros(2, 4), torch.zeros(3, 3), torch.zeros(2), torch.zeros(2, 3).double()])
def test_a_tensor_says_what_was_got_and_what_is_allowed(x: torch.Tensor) -> None:
    check_tensor("op: x", torch.zeros(2, 3), (None, 3), (torch.float32,))
    with pytest.raises(ValueError, match=r"^op: x is float\d\d \[[\d, ]+\] on cpu; allowed: float32 \[2, 3\] on cpu$"):
        check_tensor("op: x", x, (2, 3), (torch.float32,), torch.device("cpu"))


def test_a_tensor_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2\] on meta; allowed: int32 \[any\] on cpu$"):
        check_tensor("op: x", torch.zeros(2, dtype=torch.int32, device="meta"), (None,), INT32, torch.device("cpu"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 5, 3], r"cu\[2\] is 3; allowed: 5 to 8"),
        ([0, 9], r"cu\[1\] is 9; allowed: 0 to 8"),
        ([-1, 3], r"cu\[0\] is -1; allowed: 0 to 8"),
        ([], r"cu is empty; allowed: one entry more than there are segments"),
    ],
)
def test_offsets_never_decrease_and_stay_inside(values: list[int], message: str) -> None:
    check_offsets("cu", torch.tensor([2, 2, 8]).int(), 8)
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_offsets("cu", torch.tensor(values).int(), 8)
