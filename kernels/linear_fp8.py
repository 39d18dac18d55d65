"""`linear` with weights and activations in e4m3: activation(sx[t] sw[n] Σ_k X[t, k] W[n, k] + bias[n]).

W is the weight with a scale a row (an output channel), made once, X is x with a scale a token, made at each call, both
by `quantize_rows` of fp8.py, where the rounding is defined. A token with a value that is not finite gives NaN.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import choose
from .fp8 import E4M3, quantize_rows
from .gated_residual import Residual
from .linear import check_epilogue, finish_reference, matrix_of, optional_residual, output_of
from .op import custom_op
from .tensors import accurate, check_tensor


def linear_fp8_reference(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Residual | None = None,
) -> Tensor:
    """The definition, in plain PyTorch. Arguments as in `linear_fp8`."""
    values, token_scale = quantize_rows(accurate(x))
    dtype = token_scale.dtype
    product = F.linear(values.to(dtype), weight.to(dtype)) * (token_scale[..., None] * scale.to(dtype))
    if bias is not None:
        product = product + accurate(bias)
    return finish_reference(product, activation, residual, x.dtype)


@custom_op("linear_fp8_triton", device_types="default")
def _linear_fp8_triton(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    row: Tensor | None = None,
) -> Tensor:
    from .triton_fp8 import check_arch, launch_round_rows  # triton is optional
    from .triton_linear import launch_linear

    check_arch("linear_fp8")
    values, token_scale = launch_round_rows(matrix_of(x))
    bias, added = None if bias is None else bias.contiguous(), optional_residual(residual, gate, row)
    scales = token_scale, scale.contiguous()
    return launch_linear(values, weight.contiguous(), bias, activation, added, scales, x.dtype).view(
        *x.shape[:-1], weight.shape[0]
    )


@torch.library.register_fake("packdit::linear_fp8_triton")
def _(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    row: Tensor | None = None,
) -> Tensor:
    return output_of(x, weight.shape[0])


def linear_fp8(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    residual: Residual | None = None,
    backend: str | None = None,
) -> Tensor:
    """`linear(x, weight * scale[:, None], bias, ...)` with x rounded to e4m3 a token; [..., N] in the dtype of x.

    x [..., K]; weight float8_e4m3fn [N, K] and scale float32 [N], from `quantize_rows` of a float weight (float64 with
    a float64 reference); bias, activation and residual as in `linear`. Triton needs a GPU of capability 8.9 or more.
    ValueError for anything else.
    """
    check_tensor("linear_fp8: x", x, (*x.shape[:-1], None))
    check_tensor("linear_fp8: weight", weight, (None, x.shape[-1]), (E4M3,), x.device)
    check_tensor("linear_fp8: scale", scale, (weight.shape[0],), (torch.float32, torch.float64), x.device)
    tensors = check_epilogue("linear_fp8", x, weight.shape[0], bias, activation, residual)
    if choose("linear_fp8", backend, x, scale, *tensors) == "reference":
        return linear_fp8_reference(x, weight, scale, bias, activation, residual)
    added = () if residual is None else (residual.x, residual.gate, residual.row)
    return _linear_fp8_triton(x, weight, scale, bias, activation, *added)
