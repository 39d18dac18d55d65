"""What VAEs do to frames [t, h, w, c] without weights. Results have the same bits with any number of threads."""

from __future__ import annotations

from torch import Tensor

Triple = tuple[int, int, int]


def unfold(x: Tensor, sides: Triple) -> Tensor:
    """[t, h, w, c] -> [t/a, h/b, w/d, a*b*d*c] for sides (a, b, d), features in the order (t, y, x, c)."""
    (a, b, d), (t, h, w, c) = sides, x.shape
    x = x.reshape(t // a, a, h // b, b, w // d, d, c).permute(0, 2, 4, 1, 3, 5, 6)
    return x.reshape(t // a, h // b, w // d, a * b * d * c)


def fold(x: Tensor, sides: Triple) -> Tensor:
    """The inverse of `unfold`."""
    (a, b, d), (t, h, w, c) = sides, x.shape
    c //= a * b * d
    return x.reshape(t, h, w, a, b, d, c).permute(0, 3, 1, 4, 2, 5, 6).reshape(t * a, h * b, w * d, c)


def unfold_by_channel(x: Tensor, sides: Triple) -> Tensor:
    """As `unfold`, features in the order (c, t, y, x)."""
    return unfold(x, sides).unflatten(-1, (-1, x.shape[-1])).transpose(-1, -2).flatten(-2)


def enlarge(x: Tensor, sides: Triple) -> Tensor:
    """Every pixel of [t, h, w, c] as a block of `sides` equal ones (nearest-neighbour interpolation)."""
    (a, b, d), (t, h, w, c) = sides, x.shape
    return x[:, None, :, None, :, None].expand(t, a, h, b, w, d, c).reshape(t * a, h * b, w * d, c)


def mean_of_groups(x: Tensor, channels: int) -> Tensor:
    """The means of consecutive groups of channels, [..., c] -> [..., channels], added one after another."""
    first, *others = x.unflatten(-1, (channels, -1)).unbind(-1)
    for other in others:
        first = first + other
    return first / (1 + len(others))
