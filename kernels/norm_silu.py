"""RMS norm over the channels, a weight, then SiLU, in one pass: the VAE's norm and activation.

Sources: RMSNorm, arXiv 1910.07467; SiLU, arXiv 1702.03118. The norm is per position, because a norm over frames would
let a frame see its future and could not stream.
"""

import torch.nn.functional as F
from torch import Tensor

from .backend import choose
from .norm import normalize
from .tensors import accurate, check_choice, check_tensor

NORMS = ("rms", "none")


def norm_silu_reference(x: Tensor, weight: Tensor | None, norm: str, activation: bool, eps: float) -> Tensor:
    """The definition, in plain PyTorch; differentiable. Arguments as in `norm_silu`."""
    wide = normalize(accurate(x), norm, eps)
    if weight is not None:
        wide = wide * accurate(weight)
    return (F.silu(wide) if activation else wide).to(x.dtype)


def norm_silu(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    norm: str = "rms",
    activation: bool = True,
    eps: float = 1e-6,
    backend: str | None = None,
) -> Tensor:
    """silu(norm(x) * weight), or without the silu where activation is false; the shape and dtype of x.

    x [..., C], normalized over C; weight [C]; norm "rms" or "none". ValueError for anything else.
    """
    check_choice("norm_silu: norm", norm, NORMS)
    check_tensor("norm_silu: x", x, (*x.shape[:-1], None))
    if weight is not None:
        check_tensor("norm_silu: weight", weight, (x.shape[-1],), device=x.device)
    choose("norm_silu", backend, x, *(() if weight is None else (weight,)))
    return norm_silu_reference(x, weight, norm, activation, eps)
