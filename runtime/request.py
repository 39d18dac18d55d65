"""What a user asks for. Immutable, checked when it is made, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .sampler import SAMPLERS

MAX_PROMPT = 10_000
MAX_SEED = 2**63 - 1


def quote(value: object) -> str:
    """`value` for a message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_number(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> None:
    kinds = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{name} must be {kind} from {low:g} to {high:g}, got {quote(value)}")


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """Frames that are given: uint8 [n, h, w, 3], the first of them frame `start` of the clip.

    `strength` 1 keeps them as they are. A lower one lets them change: their noise level never exceeds 1 - strength, so
    they follow the sampler from there on (a whole clip given at 0.4 is video to video). Latent frames cover groups of
    pixel frames; a group that is given in part is filled with the nearest given frame. Frames of another size are
    scaled to cover the clip and cropped at the centre.
    """

    frames: np.ndarray
    start: int = 0
    strength: float = 1.0

    def __post_init__(self) -> None:
        shape, dtype = getattr(self.frames, "shape", ()), getattr(self.frames, "dtype", type(self.frames).__name__)
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise ValueError(
                f"a condition's frames must be uint8 [n, h, w, 3] with n at least 1, got {dtype} {shape or ''}".rstrip()
            )
        _check_number("a condition's start", self.start, 0, 100_000, whole=True)
        _check_number("a condition's strength", self.strength, 0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """One video or image to make. None means the model's own default.

    width, height: pixels. frames: 1 is an image. steps: sampler intervals. guidance: classifier-free guidance scale
    (arXiv 2207.12598); 1 switches it off. strength scales the strength of every condition.
    Raises ValueError, in one line, for what no model can do; the model's own limits are checked when it is submitted.
    """

    prompt: str = ""
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    sampler: str | None = None
    conditions: tuple[Condition, ...] = ()
    strength: float = 1.0

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt"):
            text = getattr(self, name)
            if not isinstance(text, str):
                raise ValueError(f"{name} must be a string, got {quote(text)}")
            if len(text) > MAX_PROMPT:
                raise ValueError(f"{name} must have at most {MAX_PROMPT} characters, got {len(text)}: {quote(text)}")
        for name, high in (("width", 65_536), ("height", 65_536), ("frames", 100_000), ("steps", 1000)):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), 1, high, whole=True)
        _check_number("seed", self.seed, 0, MAX_SEED, whole=True)
        _check_number("strength", self.strength, 0.0, 1.0)
        if self.fps is not None:
            _check_number("fps", self.fps, 0.1, 240.0)
        if self.guidance is not None:
            _check_number("guidance", self.guidance, 0.0, 100.0)
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {quote(self.sampler)}")
        object.__setattr__(self, "conditions", tuple(self.conditions))
        for condition in self.conditions:
            if not isinstance(condition, Condition):
                raise ValueError(f"conditions must hold Condition objects, got {quote(condition)}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompleteRequest(Request):
    """A request with nothing left open, made by `Limits.complete`."""

    width: int
    height: int
    frames: int
    fps: float
    steps: int
    guidance: float
    sampler: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What sizes a model can do, and its defaults; stored in the bundle.

    Sides are multiples of `side_step` from `min_side` to `max_side`; frames are 1 + k * `frame_step`, `max_frames` at
    most; `max_tokens` bounds the tokens of one sequence.
    """

    side_step: int
    min_side: int
    max_side: int
    frame_step: int
    max_frames: int
    max_tokens: int
    width: int
    height: int
    frames: int
    fps: float
    steps: int
    guidance: float
    sampler: str
    shift: float

    def nearest_frames(self, frames: float) -> int:
        """The number of frames, 1 + k * frame_step, nearest to `frames`."""
        count = 1 + self.frame_step * round(max(0.0, frames - 1) / self.frame_step)
        highest = 1 + (self.max_frames - 1) // self.frame_step * self.frame_step
        return min(count, highest)

    def nearest_side(self, side: int) -> int:
        """The side in pixels that the model can do, nearest to `side`."""
        return min(max(round(side / self.side_step) * self.side_step, self.min_side), self.max_side)

    def tokens(self, width: int, height: int, frames: int) -> int:
        """Tokens of a sequence of this size."""
        return (width // self.side_step) * (height // self.side_step) * (1 + (frames - 1) // self.frame_step)

    def complete(self, request: Request) -> CompleteRequest:
        """The request with the model's defaults in place of None. ValueError where the model cannot do it."""
        names = ("width", "height", "frames", "fps", "steps", "guidance", "sampler")
        values = {n: getattr(self, n) if getattr(request, n) is None else getattr(request, n) for n in names}
        width, height, frames = values["width"], values["height"], values["frames"]
        near = self.nearest_side(width), self.nearest_side(height), self.nearest_frames(frames)
        if near[:2] != (width, height):
            raise ValueError(
                f"this model makes sides that are multiples of {self.side_step} from {self.min_side} to "
                f"{self.max_side}; the nearest to {width}x{height} is {near[0]}x{near[1]}"
            )
        if near[2] != frames:
            raise ValueError(
                f"this model makes 1 + {self.frame_step}k frames, {self.max_frames} at most; the nearest to "
                f"{frames} is {near[2]}"
            )
        if self.tokens(width, height, frames) > self.max_tokens:
            raise ValueError(
                f"{width}x{height} with {frames} frames is {self.tokens(width, height, frames)} tokens; "
                f"this engine takes {self.max_tokens} at most"
            )
        for condition in request.conditions:
            end = condition.start + len(condition.frames)
            if end > frames:
                raise ValueError(
                    f"a condition gives frames {condition.start} to {end - 1}, but the clip has only {frames}"
                )
        kept = {n: getattr(request, n) for n in ("prompt", "negative_prompt", "seed", "conditions", "strength")}
        return CompleteRequest(**kept, **values)
