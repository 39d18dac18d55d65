import torch

from packdit.kernels.fp8 import finite_peak, quantize_rows, scales_of, to_e4m3


def test_rounding_to_e4m3() -> None:
    x = torch.tensor([500.0, -1000, torch.inf, torch.nan, 2**-9, 0, 17, 19])
    assert to_e4m3(x).float().nan_to_num(nan=7).tolist() == [448, -448, 7, 7, 2**-9, 0, 16, 20]
    values, scale = quantize_rows(torch.tensor([[1.0, -3.5], [0, 0], [torch.inf, 2]]))
    assert scale[0] == 3.5 / 448
    assert (values.float() * scale[:, None]).nan_to_num(nan=7).tolist() == [[1, -3.5], [0, 0], [7, 2]]


def test_scales_come_from_what_is_finite() -> None:
    assert finite_peak(torch.tensor([-3.0, torch.nan, -torch.inf, 0])).tolist() == [3, 0, 0, 0]
    scale, factor = scales_of(torch.tensor([448.0, 896]))
    assert scale.tolist() == [1, 2]
    assert factor.tolist() == [1, 0.5]
    assert scales_of(torch.zeros(1))[0] > 0
    assert quantize_rows(torch.zeros(2, 0))[1].shape == (2,)
