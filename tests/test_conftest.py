"""Fresh memory in these tests is poison, however it is asked for, and a custom op that allocates still passes."""

import pytest
import torch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64])
def test_floats_start_as_nan(dtype: torch.dtype) -> None:
    x = torch.zeros(2, 3, dtype=dtype)
    fresh = [
        torch.empty(4, dtype=dtype),
        torch.empty_like(x),
        torch.empty_strided((2,), (1,), dtype=dtype),
        x.new_empty(4),
        x.new_empty_strided((2,), (1,)),
    ]
    wide = torch.complex64 if dtype.is_complex else torch.float32
    assert all(tensor.to(wide).isnan().all() for tensor in fresh)


def test_integers_start_as_their_largest_value() -> None:
    assert (torch.empty(3, dtype=torch.int32) == 2**31 - 1).all()
    assert (torch.empty(3, dtype=torch.uint8) == 255).all()
    assert torch.empty(3, dtype=torch.bool).all()


def test_other_uses_are_unharmed() -> None:
    assert torch.empty(2, requires_grad=True).requires_grad
    assert torch.empty(2, device="meta").shape == (2,)
    assert torch.nn.Linear(3, 4)(torch.zeros(2, 3)).isfinite().all()
