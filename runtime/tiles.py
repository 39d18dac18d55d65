"""Clips in overlapping tiles that are blended: for a VAE whose memory whole frames would exceed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

OVERLAP = 4  # neighbours share at least one part in so many of a tile's side


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Where the tiles of a latent lie, in latents: spans of rows and of columns, each of one length."""

    height: int
    width: int
    rows: tuple[slice, ...]
    columns: tuple[slice, ...]

    @classmethod
    def of(cls, height: int, width: int, side: int) -> Tiles:
        """Tiles of at most side x side latents over a latent of this size. ValueError for a side below 2."""
        if side < 2:
            raise ValueError(f"a tile must have sides of at least 2 latents, got {side}")
        return cls(height=height, width=width, rows=spans(height, side), columns=spans(width, side))

    @property
    def places(self) -> list[tuple[slice, slice]]:
        return list(product(self.rows, self.columns))

    def crop(self, place: tuple[slice, slice], frames: Tensor, scale: int) -> Tensor:
        """The frames [c, t, h, w], a latent of which is `scale` pixels, at a place."""
        return frames[..., _scaled(place[0], scale), _scaled(place[1], scale)]

    def add(self, total: Tensor | None, number: int, part: Tensor, scale: int) -> Tensor:
        """Adds its share of what was made at place `number`, [t, h, w, c], to the total [t, h', w', c] in float32.

        total None: nothing so far. A latent is `scale` pixels of both. After all places it is what they blend to.
        """
        if total is None:
            total = torch.zeros(len(part), self.height * scale, self.width * scale, part.shape[3])
        y, x = divmod(number, len(self.columns))
        row, column = self.rows[y], self.columns[x]
        down, across = blending(self.rows, scale)[y], blending(self.columns, scale)[x]
        share = part.float() * down[:, None, None] * across[:, None]
        total[:, _scaled(row, scale), _scaled(column, scale)] += share
        return total


def spans(size: int, side: int) -> tuple[slice, ...]:
    """Evenly spaced spans of `side`, or one of `size` where that is less, which cover 0 to `size`."""
    if size <= side:
        return (slice(0, size),)
    shared = max(side // OVERLAP, 1)
    count = -(-(size - shared) // (side - shared))
    starts = [round(i * (size - side) / (count - 1)) for i in range(count)]
    return tuple(slice(start, start + side) for start in starts)


def blending(places: tuple[slice, ...], scale: int) -> list[Tensor]:
    """The weight of each pixel of each span, float32: rising and falling in a line where spans overlap, 1 in all."""
    size = places[-1].stop * scale
    weights = torch.zeros(len(places), size, dtype=torch.float64)
    for i, place in enumerate(places):
        start, stop = place.start * scale, place.stop * scale
        pixel = torch.arange(start, stop, dtype=torch.float64) + 0.5
        weight = torch.ones_like(pixel)
        if i > 0:
            weight = weight.minimum((pixel - start) / (places[i - 1].stop * scale - start))
        if i < len(places) - 1:
            weight = weight.minimum((stop - pixel) / (stop - places[i + 1].start * scale))
        weights[i, start:stop] = weight
    weights /= weights.sum(0)
    return [weights[i, p.start * scale : p.stop * scale].float() for i, p in enumerate(places)]


def _scaled(place: slice, scale: int) -> slice:
    return slice(place.start * scale, place.stop * scale)
