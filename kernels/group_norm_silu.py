"""GroupNorm, then SiLU: the norm of image VAEs, and of video VAEs whose norms span the frames of a chunk.

out = silu((x - mean) / sqrt(var + eps) * weight + bias), with one mean and one (biased) variance for each group of
consecutive channels over all positions of a clip. Sources: GroupNorm, arXiv 1803.08494; SiLU, arXiv 1702.03118.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import choose, native
from .norm import normalize
from .op import custom_op
from .tensors import accurate, address, check_tensor


def group_norm_silu_reference(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, activation: bool, eps: float
) -> Tensor:
    """The definition, in plain PyTorch; differentiable. Arguments as in `group_norm_silu`."""
    grouped = accurate(x).unflatten(2, (groups, -1)).transpose(1, 2)
    normed = normalize(grouped.flatten(2), "layer", eps).view(grouped.shape).transpose(1, 2).flatten(2)
    wide = normed * accurate(weight) + accurate(bias)
    return (F.silu(wide) if activation else wide).to(x.dtype)


@custom_op("group_norm_silu")
def _group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, activation: bool, eps: float) -> Tensor:
    x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
    out = torch.empty_like(x)
    native().group_norm_silu(
        *(address(x), tuple(x.shape), groups, address(weight), address(bias), activation, eps, address(out)),
        torch.get_num_threads(),
    )
    return out


@torch.library.register_fake("packdit::group_norm_silu")
def _(x: Tensor, weight: Tensor, bias: Tensor, groups: int, activation: bool, eps: float) -> Tensor:
    return x.new_empty(x.shape)


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    *,
    activation: bool = True,
    eps: float = 1e-6,
    backend: str | None = None,
) -> Tensor:
    """silu(group norm(x) * weight + bias), or without the silu where activation is false; the shape and dtype of x.

    x [N, P, C]: each of N clips is normalized by itself, over its P positions and the channels of a group; weight and
    bias [C], C a multiple of groups. ValueError for anything else.
    """
    check_tensor("group_norm_silu: x", x, (None, None, None))
    for name, vector in (("weight", weight), ("bias", bias)):
        check_tensor(f"group_norm_silu: {name}", vector, (x.shape[2],), device=x.device)
    if groups < 1 or x.shape[2] % groups or 0 in x.shape:
        raise ValueError(f"group_norm_silu: x is {list(x.shape)} in {groups} groups; allowed: equal groups, not empty")
    if choose("group_norm_silu", backend, x, weight, bias) == "reference":
        return group_norm_silu_reference(x, weight, bias, groups, activation, eps)
    return _group_norm_silu(x, weight, bias, groups, activation, eps)
