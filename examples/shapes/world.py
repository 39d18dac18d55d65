"""The shapes world: coloured shapes that move, drawn exactly, with captions.

A clip is described by a `Clip` and drawn by `render`; `caption` says it in words, sometimes leaving parts out. Frames
are drawn from signed distances with one pixel of antialiasing, so a clip is right at every size and aspect ratio.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch

COLORS = {
    "red": (230, 40, 40),
    "orange": (255, 140, 0),
    "yellow": (250, 220, 30),
    "green": (40, 180, 60),
    "blue": (40, 80, 230),
    "purple": (140, 60, 200),
}
BACKGROUNDS = {"black": (0, 0, 0), "white": (255, 255, 255), "gray": (128, 128, 128), "pink": (255, 170, 190)}
SHAPES = ("circle", "square", "triangle")
REACH = {"circle": 1.0, "square": 0.886, "triangle": 1.15}  # how far a shape of radius 1 reaches from its centre
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}

SIDES = (32, 48, 64, 96)  # what training draws from; 80 and 112 are kept for testing
FRAMES = (1, 5, 9, 13, 17)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One clip. Lengths are fractions: the radius of the short side, the centre of each side, the speed of the side
    along which it moves, a frame."""

    shape: str
    color: str
    background: str
    motion: str
    radius: float
    center: tuple[float, float]  # (x, y) in the first frame
    speed: float

    @property
    def combination(self) -> tuple[str, str, str, str]:
        """What is asked for: (shape, color, background, motion)."""
        return self.shape, self.color, self.background, self.motion


def held_out(combination: tuple[str, str, str, str]) -> bool:
    """True for the tenth of the combinations that training never sees (chosen by a hash, so for ever the same)."""
    return zlib.crc32("-".join(combination).encode()) % 10 == 0


def sample_clip(
    rng: np.random.Generator, width: int, height: int, frames: int, combination: tuple[str, str, str, str] | None = None
) -> Clip:
    """Draws a clip whose object stays inside the frame all the time; without `combination`, one of training's."""
    while combination is None:
        shape, color, background, motion = (
            str(rng.choice(list(names))) for names in (SHAPES, COLORS, BACKGROUNDS, MOTIONS)
        )
        if not held_out((shape, color, background, motion)):
            combination = shape, color, background, motion
    shape, color, background, motion = combination
    radius = float(rng.uniform(0.18, 0.25))
    reach = REACH[shape] * radius * min(width, height) + 1.5  # pixels, with the softened edge
    margin = np.array([reach / width, reach / height])
    direction = np.array(MOTIONS[motion], dtype=float)
    room = float(1 - 2 * margin @ np.abs(direction)) if direction.any() else 0.0
    travel = min(float(rng.uniform(0.04, 0.06)) * (frames - 1), 0.95 * room) if direction.any() else 0.0
    low, high = margin.copy(), 1 - margin
    low, high = low + travel * (direction < 0), high - travel * (direction > 0)
    center = rng.uniform(low, high)
    speed = travel / (frames - 1) if frames > 1 else 0.0
    return Clip(
        shape=shape,
        color=color,
        background=background,
        motion=motion,
        radius=radius,
        center=(float(center[0]), float(center[1])),
        speed=speed,
    )


def caption(clip: Clip, rng: np.random.Generator, full: bool = False) -> str:
    """The clip in words. `full` names everything; otherwise parts may be left out and the wording varies."""
    say_color, say_background, say_motion = (full or rng.random() < p for p in (0.9, 0.75, 0.85))
    noun = f"{clip.color} {clip.shape}" if say_color else clip.shape
    motion = ""
    if say_motion:
        still = ("is still", "stays still", "does not move", "still")
        move = ("moves", "is moving", "goes", "moving")
        form = 0 if full else int(rng.integers(4))
        motion = f" {still[form]}" if clip.motion == "still" else f" {move[form]} {clip.motion}"
    article = "an" if noun[0] in "aeiou" else "a"
    lead = "" if not full and rng.random() < 0.15 else f"{article} "
    ground = f" on a {clip.background} background" if say_background else ""
    if ground and not full and rng.random() < 0.25:
        ground = f" on {clip.background}"
    return f"{lead}{noun}{motion}{ground}"


def distance(shape: str, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Signed distance in pixels from the outline, negative inside; y points down. A square's half side is
    0.886 radius, so its area is the circle's; a triangle is equilateral, point up, inscribed in 1.15 radius."""
    if shape == "circle":
        return torch.hypot(x, y) - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.886 * radius
    inner = 0.575 * radius
    slope = 3**0.5 / 2
    return torch.maximum(y - inner, slope * x.abs() - 0.5 * y - inner)


def render(clips: list[Clip], width: int, height: int, frames: int) -> torch.Tensor:
    """Draws clips of one size: uint8 [clips, frames, height, width, 3]."""
    ys = (torch.arange(height, dtype=torch.float32) + 0.5)[:, None]
    xs = (torch.arange(width, dtype=torch.float32) + 0.5)[None, :]
    time = torch.arange(frames, dtype=torch.float32)[:, None, None]
    out = torch.empty(len(clips), frames, height, width, 3, dtype=torch.uint8)
    for i, clip in enumerate(clips):
        dx, dy = MOTIONS[clip.motion]
        x = xs - width * (clip.center[0] + dx * clip.speed * time)
        y = ys - height * (clip.center[1] + dy * clip.speed * time)
        radius = torch.tensor(clip.radius * min(width, height))
        cover = (0.5 - distance(clip.shape, x, y, radius)).clamp_(0, 1)[..., None]
        back, fore = (torch.tensor(c, dtype=torch.float32) for c in (BACKGROUNDS[clip.background], COLORS[clip.color]))
        out[i] = (back + cover * (fore - back)).round_().to(torch.uint8)
    return out


def sample_size(
    rng: np.random.Generator, sides: tuple[int, ...] = SIDES, lengths: tuple[int, ...] = FRAMES
) -> tuple[int, int, int]:
    """Draws (width, height, frames), independently of one another."""
    return int(rng.choice(sides)), int(rng.choice(sides)), int(rng.choice(lengths))
