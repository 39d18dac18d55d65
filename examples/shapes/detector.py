"""Reads backgrounds and objects (colour, shape, motion) off frames, with no learned part.

The background is the median of the border, an object what differs from it in one of the colours. Where there are two,
each pixel belongs to the object whose outline is nearer. Each shape is drawn at the object's centre with the object's
area, and the one that covers best is the shape; motion is the way of the centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from world import BACKGROUNDS, COLORS, MOTIONS, SHAPES, distance

AREA = {"circle": np.pi, "square": (2 * 0.886) ** 2, "triangle": 3 * 3**0.5 * 0.575**2}  # of radius 1
STILL = 0.06  # a centre that moves less than this share of the side stands still; training's slowest moves 0.16


STRONG = 0.7  # a pixel that an object covers by more than this tells its colour
SECOND = 0.25  # a second object has at least this share of the first one's such pixels


@dataclass(frozen=True, slots=True)
class Seen:
    """An object. Motion is None in a single frame."""

    shape: str
    color: str
    motion: str | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a clip shows: one object, or two in the order of their colours' names."""

    background: str
    things: tuple[Seen, ...]


def nearest(color: np.ndarray, names: dict[str, tuple[int, int, int]]) -> str:
    """The name of the colour nearest to an RGB value."""
    return min(names, key=lambda name: float(np.sum((np.array(names[name]) - color) ** 2)))


def border(pixels: np.ndarray) -> np.ndarray:
    """The background's colour [3]: the median of the frames' borders."""
    edges = [pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]]
    return np.median(np.concatenate(edges, 1).reshape(-1, 3), 0)


def find(pixels: np.ndarray, back: np.ndarray) -> list[np.ndarray]:
    """Where each object covers pixels well, bool [n, h, w]: the most frequent colour's, and perhaps one other's.

    A covered pixel is on the line from the background's colour to the object's.
    """
    shares, errors = [], []
    for color in COLORS.values():
        span = np.array(color) - back
        share = np.clip((pixels - back) @ span / max(float(span @ span), 1.0), 0, 1)
        shares.append(share)
        errors.append(((pixels - back - share[..., None] * span) ** 2).sum(-1))
    best = np.argmin(errors, 0)
    masks = [(best == i) & (share > STRONG) for i, share in enumerate(shares)]
    first, second = sorted(masks, key=np.count_nonzero, reverse=True)[:2]
    return [first, second] if np.count_nonzero(second) >= max(1, SECOND * np.count_nonzero(first)) else [first]


def coverage(pixels: np.ndarray, back: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of each pixel the only object covers [n, h, w] in 0..1, and its colour [3]."""
    apart = np.sqrt(((pixels - back) ** 2).sum(-1))
    inside = apart > 0.75 * np.quantile(apart, 0.995)
    fore = np.median(pixels[inside], 0) if inside.any() else back
    return covered(pixels, back, fore), fore


def covered(pixels: np.ndarray, back: np.ndarray, fore: np.ndarray) -> np.ndarray:
    """The share of `fore` in each pixel, the rest being `back`."""
    span = fore - back
    return np.clip((pixels - back) @ span / max(float(span @ span), 1.0), 0, 1)


def divide(pixels: np.ndarray, back: np.ndarray, masks: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """`coverage` of each of several objects, told apart by which outline is nearer."""
    ys, xs = np.arange(pixels.shape[1])[:, None] + 0.5, np.arange(pixels.shape[2]) + 0.5
    outside = []
    for mask in masks:
        radius = np.sqrt(mask.sum((1, 2)) / np.pi)[:, None, None]
        x, y = (c[:, None, None] for c in centers(mask.astype(float)).T)
        outside.append(np.hypot(xs - x, ys - y) - radius)
    owner = np.argmin(outside, 0)
    fores = [np.median(pixels[mask], 0) for mask in masks]
    return [(covered(pixels, back, fore) * (owner == i), fore) for i, fore in enumerate(fores)]


def centers(cover: np.ndarray) -> np.ndarray:
    """The object's centre (x, y) in pixels, a frame [n, 2]; faint pixels do not count."""
    weight = np.where(cover > 0.3, cover, 0) + 1e-9
    ys, xs = (np.arange(n) + 0.5 for n in cover.shape[1:])
    total = weight.sum((1, 2))
    return np.stack([(weight.sum(1) @ xs) / total, (weight.sum(2) @ ys) / total], 1)


def read_shape(cover: np.ndarray, places: np.ndarray) -> str:
    """The shape whose drawing of the same area at the same place differs least, over all frames."""
    height, width = cover.shape[1:]
    ys, xs = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None, :] + 0.5
    errors = dict.fromkeys(SHAPES, 0.0)
    for alpha, (x, y) in zip(cover, places, strict=True):
        area = float(np.where(alpha > 0.3, alpha, 0).sum())
        for shape in SHAPES:
            radius = torch.tensor((area / AREA[shape]) ** 0.5)
            drawn = (0.5 - distance(shape, xs - x, ys - y, radius)).clamp(0, 1).numpy()
            errors[shape] += float(np.abs(drawn - alpha).sum())
    return min(errors, key=lambda shape: errors[shape])


def read_motion(places: np.ndarray, width: int, height: int) -> str:
    """The direction of the way from the first centres to the last, or "still"."""
    way = (places[-1] - places[0]) / (width, height)
    if np.abs(way).max() < STILL:
        return "still"
    axis = int(np.abs(way).argmax())
    step = [0, 0]
    step[axis] = int(np.sign(way[axis]))
    return next(name for name, direction in MOTIONS.items() if direction == tuple(step))


def read(frames: np.ndarray) -> Reading:
    """What uint8 frames [n, h, w, 3] show."""
    pixels = frames.astype(np.float64)
    back = border(pixels)
    masks, things = find(pixels, back), []
    for cover, fore in [coverage(pixels, back)] if len(masks) == 1 else divide(pixels, back, masks):
        places = centers(cover)
        motion = read_motion(places, frames.shape[2], frames.shape[1]) if len(frames) > 1 else None
        things.append(Seen(read_shape(cover, places), nearest(fore, COLORS), motion))
    return Reading(nearest(back, BACKGROUNDS), tuple(sorted(things, key=lambda thing: thing.color)))
