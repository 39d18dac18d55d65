"""Reads colour, background, shape and motion off frames, with no learned part.

The background is the median of the border, the object what differs from it; each shape is drawn at the object's centre
with the object's area, and the one that covers best is the shape; motion is the way of the centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from world import BACKGROUNDS, COLORS, MOTIONS, SHAPES, distance

AREA = {"circle": np.pi, "square": (2 * 0.886) ** 2, "triangle": 3 * 3**0.5 * 0.575**2}  # of radius 1
STILL = 0.06  # a centre that moves less than this share of the side stands still; training's slowest moves 0.16


@dataclass(frozen=True, slots=True)
class Reading:
    """What a clip shows. Motion is None for a single frame."""

    shape: str
    color: str
    background: str
    motion: str | None


def nearest(color: np.ndarray, names: dict[str, tuple[int, int, int]]) -> str:
    """The name of the colour nearest to an RGB value."""
    return min(names, key=lambda name: float(np.sum((np.array(names[name]) - color) ** 2)))


def coverage(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How much of each pixel the object covers [n, h, w] in 0..1, the object's colour and the background's [3]."""
    pixels = frames.astype(np.float64)
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], 1).reshape(-1, 3)
    back = np.median(border, 0)
    apart = np.sqrt(((pixels - back) ** 2).sum(-1))
    inside = apart > 0.75 * np.quantile(apart, 0.995)
    fore = np.median(pixels[inside], 0) if inside.any() else back
    span = fore - back
    return np.clip((pixels - back) @ span / max(float(span @ span), 1.0), 0, 1), fore, back


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
    cover, fore, back = coverage(frames)
    places = centers(cover)
    motion = read_motion(places, frames.shape[2], frames.shape[1]) if len(frames) > 1 else None
    return Reading(read_shape(cover, places), nearest(fore, COLORS), nearest(back, BACKGROUNDS), motion)
