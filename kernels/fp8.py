"""Rounding to e4m3, the eight-bit floats of arXiv 2209.05433, with scales: what the references of fp8 ops share.

A scale maps the largest finite absolute value of its group to 448, e4m3's own largest. What is not finite becomes NaN,
the only such value that e4m3 has; it does not count for the scale.
"""

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
SMALLEST_PEAK = 1e-12  # of a group that e4m3 can tell from zeros: products of two scales stay above float32's least


def finite_peak(x: Tensor) -> Tensor:
    """|x| where it is finite, else 0."""
    return torch.where(x.isfinite(), x.abs(), 0)


def scales_of(peak: Tensor) -> tuple[Tensor, Tensor]:
    """The scales of groups whose largest finite absolute values are peak, and the factors that undo them."""
    peak = peak.clamp(min=SMALLEST_PEAK)
    return peak / LARGEST, torch.full_like(peak, LARGEST) / peak  # of a number by a tensor PyTorch rounds twice


def to_e4m3(x: Tensor) -> Tensor:
    """x rounded to nearest, ties to even; beyond 448 it stays there."""
    return torch.where(x.isfinite(), x.clamp(-LARGEST, LARGEST), torch.nan).to(E4M3)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., K] -> e4m3 [..., K] and scale [...] with x ≈ e4m3 * scale; x and scale of one dtype."""
    peak = finite_peak(x).amax(-1) if x.shape[-1] else x.new_zeros(x.shape[:-1])
    scale, factor = scales_of(peak)
    return to_e4m3(x * factor[..., None]), scale
