"""`linear` with weights and activations in int8 (W8A8): activation(sx[t] sw[n] Σ_k X[t, k] W[n, k] + bias[n]).

W = round(weight / sw) with a scale a row of the weight (an output channel), made once; X = round(x / sx) with a scale a
token, made at each call; both scales map the largest absolute value to 127 (symmetric quantization as in LLM.int8(),
arXiv 2208.07339, section 2.1, without its outlier columns). The sum is exact in int32. A token with a value that is not
finite gives NaN.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import choose, native
from .gated_residual import Residual
from .linear import check_epilogue, epilogue, finish_reference, matrix_of, optional_residual, output_of
from .op import custom_op
from .tensors import accurate, address, check_tensor, rows

INT8_COLUMNS = 16  # outputs in a block of packed weights, kInt8Columns in csrc/int8.h
MAX_DEPTH = 2**17  # 127² times it fits int32
SMALLEST_PEAK = 1e-30  # of a token that int8 can tell from zeros, kSmallestPeak in csrc/quantize.h


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [..., K] -> int8 [..., K] and scale [...] with x ≈ int8 * scale, float32 or float64 as `accurate` says.

    A row with a value that is not finite gives zeros and the scale NaN.
    """
    wide = accurate(x)
    peak = wide.abs().amax(-1) if x.shape[-1] else wide.new_zeros(x.shape[:-1])
    usable = peak.isfinite()
    peak = peak.clamp(min=SMALLEST_PEAK)
    rounded = (wide * (127 / peak)[..., None]).round()
    return torch.where(usable[..., None], rounded, 0).to(torch.int8), torch.where(usable, peak / 127, torch.nan)


def pack_int8(weight: Tensor) -> Tensor:
    """int8 [N, K] -> uint8 [ceil(N / 16), ceil(K / 4), 16, 4], as the CPU kernels read it: block, four of the depth,
    column, depth. The values are 128 larger, because VNNI multiplies unsigned bytes with signed ones."""
    num_columns, depth = weight.shape
    padded = F.pad(weight, (0, -depth % 4, 0, -num_columns % INT8_COLUMNS))
    blocks = padded.view(padded.shape[0] // INT8_COLUMNS, INT8_COLUMNS, padded.shape[1] // 4, 4)
    return blocks.transpose(1, 2).contiguous().view(torch.uint8) ^ 128


def unpack_int8(packed: Tensor, num_columns: int, depth: int) -> Tensor:
    """The inverse of `pack_int8`."""
    weight = (packed ^ 128).view(torch.int8).transpose(1, 2)
    return weight.reshape(packed.shape[0] * INT8_COLUMNS, packed.shape[1] * 4)[:num_columns, :depth]


def linear_int8_reference(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Residual | None = None,
) -> Tensor:
    """The definition, in plain PyTorch. Arguments as in `linear_int8`."""
    if weight.dtype == torch.uint8:
        weight = unpack_int8(weight, scale.shape[0], x.shape[-1])
    values, token_scale = quantize_rows(x)
    sums = F.linear(values.double(), weight.double()).to(token_scale.dtype)  # exact in float64
    product = sums * (token_scale[..., None] * accurate(scale))
    if bias is not None:
        product = product + accurate(bias)
    return finish_reference(product, activation, residual, x.dtype)


@custom_op("linear_int8")
def _linear_int8(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    activation: str | None,
    residual: Tensor | None = None,
    gate: Tensor | None = None,
    row: Tensor | None = None,
) -> Tensor:
    matrix, scale = matrix_of(x), scale.contiguous()
    packed = weight.contiguous() if weight.dtype == torch.uint8 else pack_int8(weight)
    bias, added = None if bias is None else bias.contiguous(), optional_residual(residual, gate, row)
    out = output_of(x, scale.shape[0])
    native().linear_int8(
        *(rows(matrix), *matrix.shape, (address(packed), scale.shape[0], address(scale), address(bias))),
        *(epilogue(activation, added), address(out), torch.get_num_threads()),
    )
    return out


@torch.library.register_fake("packdit::linear_int8")
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
    return output_of(x, scale.shape[0])


def _check(x: Tensor, weight: Tensor, scale: Tensor) -> None:
    check_tensor("linear_int8: x", x, (*x.shape[:-1], None))
    depth = x.shape[-1]
    if depth > MAX_DEPTH:
        raise ValueError(f"linear_int8: x has {depth} columns; allowed: at most {MAX_DEPTH}")
    check_tensor("linear_int8: scale", scale, (None,), (torch.float32, torch.float64), x.device)
    if weight.dtype == torch.uint8:
        shape = (-(-scale.shape[0] // INT8_COLUMNS), -(-depth // 4), INT8_COLUMNS, 4)
        check_tensor("linear_int8: weight, packed", weight, shape, (torch.uint8,), x.device)
    else:
        check_tensor("linear_int8: weight", weight, (scale.shape[0], depth), (torch.int8,), x.device)


def linear_int8(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    residual: Residual | None = None,
    backend: str | None = None,
) -> Tensor:
    """`linear(x, weight * scale[:, None], bias, ...)` with x rounded to int8 a token; [..., N] in the dtype of x.

    x [..., K], K at most MAX_DEPTH; weight int8 [N, K], fastest as `pack_int8` lays it out; scale float32 [N] (both
    from `quantize_rows` of a float weight; float64 with a float64 reference); bias, activation and residual as in
    `linear`. ValueError for anything else.
    """
    _check(x, weight, scale)
    tensors = check_epilogue("linear_int8", x, scale.shape[0], bias, activation, residual)
    if choose("linear_int8", backend, x, scale, *tensors) == "reference":
        return linear_int8_reference(x, weight, scale, bias, activation, residual)
    added = () if residual is None else (residual.x, residual.gate, residual.row)
    return _linear_int8(x, weight, scale, bias, activation, *added)
