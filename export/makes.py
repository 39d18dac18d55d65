"""What the entries of many families are made with: pairs of weight and bias, and the shapes that the runtime wants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .entry import Entry, Make


def linear(target: str, *sources: str) -> list[Entry]:
    """Weight and bias of a linear layer, of several sources one below the other."""
    return [Entry(f"{target}.{part}", tuple(f"{source}.{part}" for source in sources)) for part in ("weight", "bias")]


def layer_norm(target: str, source: str) -> list[Entry]:
    """Scale and shift of the runtime's LayerNorm, of a checkpoint's weight and bias."""
    return [Entry(f"{target}.scale", (f"{source}.weight",), less_one), Entry(f"{target}.shift", (f"{source}.bias",))]


def less_one(tensors: Sequence[Tensor]) -> Tensor:
    """A norm's weight w -> the scale of `modulate`, which multiplies by 1 + scale."""
    return tensors[0] - 1


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """Equal shapes [...] -> [n, ...]."""
    return torch.stack(tuple(tensors))


def first(tensors: Sequence[Tensor]) -> Tensor:
    """[1, ...] -> [...]."""
    return tensors[0][0]


def matrix(tensors: Sequence[Tensor]) -> Tensor:
    """The weight [out, C, ...] of a convolution whose steps are its kernel's sides -> [out, C * ...], the matrix that
    `patchify`'s features take."""
    return tensors[0].flatten(1)


def channels_first(volume: int) -> Make:
    """Rows in the order (pt, ph, pw, c), as many heads of diffusers have them -> (c, pt, ph, pw), as `unpatchify`.

    volume: pt * ph * pw.
    """

    def make(tensors: Sequence[Tensor]) -> Tensor:
        return tensors[0].unflatten(0, (volume, -1)).transpose(0, 1).flatten(0, 1)

    return make
