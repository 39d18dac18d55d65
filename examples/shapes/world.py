"""The shapes world: coloured shapes that move, drawn exactly, with captions.

A clip is described by a `Clip` and drawn by `render`; `caption` says it in words, sometimes leaving parts out. Frames
are drawn from signed distances with one pixel of antialiasing, so a clip is right at every size and aspect ratio.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

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
BAR = (90, 60, 40)
SHAPES = ("circle", "square", "triangle")
REACH = {"circle": 1.0, "square": 0.886, "triangle": 1.15}  # how far a shape of radius 1 reaches from its centre
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}

SIDES = (32, 48, 64, 96)  # what training draws from; 80 and 112 are kept for testing
FRAMES = (1, 5, 9, 13, 17)


Combination = tuple[str, str, str, str]
"""What is asked for of an object: (shape, color, background, motion)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One object. Lengths are fractions: the radius of the short side, the centre of each side, the speed of the side
    along which it moves, a frame."""

    shape: str
    color: str
    motion: str
    radius: float
    center: tuple[float, float]  # (x, y) in the first frame
    speed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One clip: objects of different colours that never touch, from left to right as they are in the first frame, and
    perhaps a bar in front of them."""

    background: str
    things: tuple[Thing, ...]
    bar: tuple[float, float] | None = None  # from where to where across the width

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """What is asked for, an object."""
        return tuple((thing.shape, thing.color, self.background, thing.motion) for thing in self.things)


def held_out(combination: Combination) -> bool:
    """True for the tenth of the combinations that training never sees (chosen by a hash, so for ever the same)."""
    return zlib.crc32("-".join(combination).encode()) % 10 == 0


def draw_combination(rng: np.random.Generator, beside: Combination | None = None) -> Combination:
    """One of training's combinations; `beside` another object: on its background, in another colour."""
    while True:
        shape, color, background, motion = (
            str(rng.choice(list(names))) for names in (SHAPES, COLORS, BACKGROUNDS, MOTIONS)
        )
        if beside is not None:
            background = beside[2]
        if not held_out((shape, color, background, motion)) and (beside is None or color != beside[1]):
            return shape, color, background, motion


def sample_clip(
    rng: np.random.Generator,
    width: int,
    height: int,
    frames: int,
    combinations: tuple[Combination, ...] | None = None,
    count: int = 1,
) -> Clip:
    """Draws a clip whose objects stay inside the frame and apart all the time; without `combinations`, `count` of
    training's."""
    if combinations is None:
        combinations = (draw_combination(rng),)
        for _ in range(count - 1):
            combinations = *combinations, draw_combination(rng, combinations[-1])
    if len(combinations) == 1:
        thing = _sample_thing(rng, width, height, frames, combinations[0], (0.18, 0.25), 0.95)
        return Clip(background=combinations[0][2], things=(thing,))
    while True:  # two that go all the way would always meet in a small frame
        things = tuple(
            _sample_thing(rng, width, height, frames, each, (0.15, 0.2), rng.uniform(0.4, 0.95))
            for each in combinations
        )
        if _apart(*things, width, height, frames):
            things = tuple(sorted(things, key=lambda thing: thing.center[0]))
            return Clip(background=combinations[0][2], things=things)


def sample_behind(rng: np.random.Generator, width: int, height: int, frames: int, count: int = 1) -> Clip:
    """Draws a clip whose first object passes behind a bar that hides all of it, and comes out again."""
    while True:
        clip = sample_clip(rng, width, height, frames, count=count)
        thing = clip.things[0]
        if thing.motion in ("left", "right"):
            reach = 1.25 * thing.radius * min(width, height) / width
            ends = sorted((thing.center[0], thing.center[0] + thing.speed * (frames - 1) * MOTIONS[thing.motion][0]))
            half = reach * float(rng.uniform(1.1, 1.5))
            bar = (sum(ends) / 2 - half, sum(ends) / 2 + half)
            if ends[1] - ends[0] > 2 * half + reach:  # at both ends most of it is in the open
                return replace(clip, bar=bar)


def _sample_thing(
    rng: np.random.Generator,
    width: int,
    height: int,
    frames: int,
    combination: Combination,
    sizes: tuple[float, float],
    most: float,
) -> Thing:
    """Draws an object that stays inside the frame and takes at most this share of the way across."""
    shape, color, _, motion = combination
    radius = float(rng.uniform(*sizes))
    reach = REACH[shape] * radius * min(width, height) + 1.5  # pixels, with the softened edge
    margin = np.array([reach / width, reach / height])
    direction = np.array(MOTIONS[motion], dtype=float)
    room = float(1 - 2 * margin @ np.abs(direction)) if direction.any() else 0.0
    travel = min(float(rng.uniform(0.04, 0.06)) * (frames - 1), most * room) if direction.any() else 0.0
    low, high = margin + travel * (direction < 0), 1 - margin - travel * (direction > 0)
    center = rng.uniform(low, high)
    speed = travel / (frames - 1) if frames > 1 else 0.0
    return Thing(
        shape=shape,
        color=color,
        motion=motion,
        radius=radius,
        center=(float(center[0]), float(center[1])),
        speed=speed,
    )


def _apart(one: Thing, other: Thing, width: int, height: int, frames: int) -> bool:
    """Whether there are always at least two pixels between two objects (a corner may come a little nearer)."""
    sides, time = np.array([width, height]), np.arange(frames)[:, None]
    places = [
        (np.array(thing.center) + time * thing.speed * np.array(MOTIONS[thing.motion])) * sides
        for thing in (one, other)
    ]
    nearest = float(np.linalg.norm(places[0] - places[1], axis=1).min())
    return nearest >= 1.1 * (one.radius + other.radius) * min(width, height) + 2


def caption(clip: Clip, rng: np.random.Generator, full: bool = False) -> str:
    """The clip in words. `full` names everything; otherwise parts may be left out and the wording varies."""
    say_color, say_background, say_motion = (full or rng.random() < p for p in (0.9, 0.75, 0.85))
    parts = [_describe(thing, rng, full, say_color, say_motion) for thing in clip.things]
    ground = f" on a {clip.background} background" if say_background else ""
    if ground and not full and rng.random() < 0.25:
        ground = f" on {clip.background}"
    return " and ".join(parts) + ground


def _describe(thing: Thing, rng: np.random.Generator, full: bool, say_color: bool, say_motion: bool) -> str:
    noun = f"{thing.color} {thing.shape}" if say_color else thing.shape
    motion = ""
    if say_motion:
        still = ("is still", "stays still", "does not move", "still")
        move = ("moves", "is moving", "goes", "moving")
        form = 0 if full else int(rng.integers(4))
        motion = f" {still[form]}" if thing.motion == "still" else f" {move[form]} {thing.motion}"
    article = "an" if noun[0] in "aeiou" else "a"
    lead = "" if not full and rng.random() < 0.15 else f"{article} "
    return f"{lead}{noun}{motion}"


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
        picture = torch.tensor(BACKGROUNDS[clip.background], dtype=torch.float32).expand(frames, height, width, 3)
        for thing in clip.things:
            dx, dy = MOTIONS[thing.motion]
            x = xs - width * (thing.center[0] + dx * thing.speed * time)
            y = ys - height * (thing.center[1] + dy * thing.speed * time)
            radius = torch.tensor(thing.radius * min(width, height))
            cover = (0.5 - distance(thing.shape, x, y, radius)).clamp_(0, 1)[..., None]
            picture = picture + cover * (torch.tensor(COLORS[thing.color], dtype=torch.float32) - picture)
        if clip.bar is not None:
            left, right = (share * width for share in clip.bar)
            cover = (torch.minimum(xs - left, right - xs) + 0.5).clamp(0, 1)[..., None]
            picture = picture + cover * (torch.tensor(BAR, dtype=torch.float32) - picture)
        out[i] = picture.round().to(torch.uint8)
    return out


def sample_size(
    rng: np.random.Generator, sides: tuple[int, ...] = SIDES, lengths: tuple[int, ...] = FRAMES
) -> tuple[int, int, int]:
    """Draws (width, height, frames), independently of one another."""
    return int(rng.choice(sides)), int(rng.choice(sides)), int(rng.choice(lengths))
