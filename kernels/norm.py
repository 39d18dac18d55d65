"""Normalization over the last dimension, the one definition that all references use.

layer: (x - mean(x)) / sqrt(var(x) + eps), with the biased variance (LayerNorm, arXiv 1607.06450, without affine);
rms: x / sqrt(mean(x²) + eps) (RMSNorm, arXiv 1910.07467, without weight); none: x.
"""

import torch
from torch import Tensor

NORMS = ("layer", "rms", "none")  # in the order of enum Norm in csrc/kernels.h


def normalize(x: Tensor, norm: str, eps: float) -> Tensor:
    """x [..., D] normalized over D, in the dtype of x. norm is one of NORMS."""
    if norm == "layer":
        x = x - x.mean(-1, keepdim=True)
    if norm == "none":
        return x
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
