"""A norm over the channels, a weight and a bias, then SiLU, in one pass: the VAE's norm and activation.

Sources: RMSNorm, arXiv 1910.07467; LayerNorm, arXiv 1607.06450; SiLU, arXiv 1702.03118. The norm is per position,
because a norm over frames would let a frame see its future and could not stream.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import choose, native
from .norm import NORMS, normalize
from .op import custom_op
from .tensors import accurate, address, check_choice, check_tensor


def norm_silu_reference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: str, activation: bool, eps: float
) -> Tensor:
    """The definition, in plain PyTorch; differentiable. Arguments as in `norm_silu`."""
    wide = normalize(accurate(x), norm, eps)
    if weight is not None:
        wide = wide * accurate(weight)
    if bias is not None:
        wide = wide + accurate(bias)
    return (F.silu(wide) if activation else wide).to(x.dtype)


@custom_op("norm_silu")
def _norm_silu(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: str, activation: bool, eps: float
) -> Tensor:
    x, width = x.contiguous(), x.shape[-1]
    weight, bias = _dense(weight), _dense(bias)
    out = torch.empty_like(x)
    native().norm_silu(
        *(address(x), address(weight), address(bias), x.numel() // max(width, 1), width, NORMS.index(norm)),
        *(activation, eps, address(out), torch.get_num_threads()),
    )
    return out


def _dense(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


@custom_op("norm_silu_triton", device_types="default")
def _norm_silu_triton(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: str, activation: bool, eps: float
) -> Tensor:
    from .triton_rows import launch_norm_silu  # triton is optional

    return launch_norm_silu(x.contiguous(), _dense(weight), _dense(bias), norm, activation, eps)


@torch.library.register_fake("packdit::norm_silu_triton")
@torch.library.register_fake("packdit::norm_silu")
def _(x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: str, activation: bool, eps: float) -> Tensor:
    return x.new_empty(x.shape)


def norm_silu(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    norm: str = "rms",
    activation: bool = True,
    eps: float = 1e-6,
    backend: str | None = None,
) -> Tensor:
    """silu(norm(x) * weight + bias), or without the silu where activation is false; the shape and dtype of x.

    x [..., C], normalized over C; weight and bias [C]; norm "layer", "rms" or "none". ValueError for anything else.
    """
    check_choice("norm_silu: norm", norm, NORMS)
    check_tensor("norm_silu: x", x, (*x.shape[:-1], None))
    tensors = [x]
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None:
            check_tensor(f"norm_silu: {name}", vector, (x.shape[-1],), device=x.device)
            tensors.append(vector)
    chosen = choose("norm_silu", backend, *tensors)
    if chosen == "reference":
        return norm_silu_reference(x, weight, bias, norm, activation, eps)
    kernel = _norm_silu_triton if chosen == "triton" else _norm_silu
    return kernel(x, weight, bias, norm, activation, eps)
