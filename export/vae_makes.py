"""What the entries of VAEs are made with: convolutions with channels last, vectors without sides of 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .entry import Entry, Make, rows


def convolution(tensors: Sequence[Tensor]) -> Tensor:
    """[out, in, (kt,) kh, kw] -> [out, kt, kh, kw, in], the order of `causal_conv3d`."""
    weight = tensors[0] if tensors[0].ndim == 5 else tensors[0].unsqueeze(2)
    return weight.permute(0, 2, 3, 4, 1)


def vector(tensors: Sequence[Tensor]) -> Tensor:
    """[n, 1, ...] -> [n]."""
    return tensors[0].flatten()


def matrices(tensors: Sequence[Tensor]) -> Tensor:
    """Linear layers, or convolutions of one pixel, one below the other: [n, in, (1, 1)] each -> [sum of n, in]."""
    return torch.cat([t.flatten(1) for t in tensors])


def axes(sides: Sequence[int], order: Sequence[int]) -> Make:
    """Rows in a checkpoint's order (c, *sides) -> that of `order`, which names axes of it."""

    def make(tensors: Sequence[Tensor]) -> Tensor:
        apart = tensors[0].unflatten(0, (-1, *sides))
        rest = range(len(order), apart.ndim)
        return apart.permute(*order, *rest).flatten(0, len(sides))

    return make


def inputs(reorder: Make) -> Make:
    """A convolution whose input channels are reordered."""
    return lambda tensors: reorder([convolution(tensors).movedim(-1, 0)]).movedim(0, -1)


def outputs(reorder: Make) -> Make:
    """A convolution whose output channels are reordered."""
    return lambda tensors: reorder([convolution(tensors)])


def conv(target: str, source: str, weight: Make = convolution, bias: Make = rows) -> list[Entry]:
    """Weight and bias of a convolution."""
    parts = (("weight", weight), ("bias", bias))
    return [Entry(f"{target}.{part}", (f"{source}.{part}",), make) for part, make in parts]


def pixel_conv(target: str, *sources: str) -> list[Entry]:
    """Weight and bias of linear layers, or of convolutions of one pixel, one below the other."""
    weight = Entry(f"{target}.weight", tuple(f"{source}.weight" for source in sources), matrices)
    return [weight, Entry(f"{target}.bias", tuple(f"{source}.bias" for source in sources))]


def affine(target: str, source: str) -> list[Entry]:
    """Weight and bias of a norm."""
    return [Entry(f"{target}.{part}", (f"{source}.{part}",)) for part in ("weight", "bias")]


def collect(parts: Iterable[Iterable[Entry]]) -> list[Entry]:
    """All entries of several lists."""
    return [entry for part in parts for entry in part]
