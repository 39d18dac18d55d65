"""What a user asks for. Immutable, checked when it is made, free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .sampler import DEFAULT, SAMPLERS

MAX_PROMPT = 10_000
MAX_SEED = 2**63 - 1
MAX_SIDE = 65_536
MAX_FRAMES = 100_000
MAX_STEPS = 1000

GUIDANCE_KINDS = ("free", "embedded", "none")
"""Classifier-free (a second sequence), told to the network as a number, or none at all."""

CONDITION_KINDS = ("frames", "whole", "channels", "first")
"""What frames can be given: any, as tokens of a lower noise level; a whole clip, which starts at a lower noise level;
any, but at least the first, as channels beside the latents; or the first frame alone, likewise."""


def quote(value: object) -> str:
    """`value` for a message: on one line, cut to 60 characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python refuses to write out integers of thousands of digits
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _number(name: str, value: Any, low: float, high: float) -> float:
    """`value` as a plain Python float. ValueError where it is no number from low to high."""
    kinds = (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low} to {high}, got {quote(value)}")
    return float(value)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` as a plain Python int, which cannot overflow. ValueError where it is no whole number from low to high."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {quote(value)}")
    return int(value)


def _check_text(name: str, text: Any) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a string, got {quote(text)}")
    if len(text) > MAX_PROMPT:
        raise ValueError(f"{name} must have at most {MAX_PROMPT} characters, got {len(text)}: {quote(text)}")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"{name} must be text that UTF-8 can hold, got a lone surrogate: {quote(text)}")


def _check_sampler(name: str, sampler: Any) -> None:
    if not isinstance(sampler, str) or sampler not in (*SAMPLERS, DEFAULT):
        raise ValueError(f"{name} must be one of {', '.join([*SAMPLERS, DEFAULT])}, got {quote(sampler)}")


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """Frames that are given: uint8 [n, h, w, 3], the first of them frame `start` of the clip.

    `strength` 1 keeps them as they are. A lower one lets them change: their noise level never exceeds 1 - strength, so
    they follow the sampler from there on (a whole clip given at 0.4 is video to video). Latent frames cover groups of
    pixel frames; a group that is given in part is filled with the nearest given frame. Frames of another size are
    scaled to cover the clip and cropped at the centre. The frames are copied, so nothing changes them later.
    """

    frames: np.ndarray
    start: int = 0
    strength: float = 1.0

    def __post_init__(self) -> None:
        shape: tuple[int, ...] = getattr(self.frames, "shape", ())
        dtype = getattr(self.frames, "dtype", type(self.frames).__name__)
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            got = quote(tuple(shape)) if shape else quote(self.frames)
            raise ValueError(
                f"a condition's frames must be uint8 [n, h, w, 3] with n at least 1, got {str(dtype)[:60]} {got}"
            )
        frames = np.array(self.frames)
        frames.flags.writeable = False
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "start", _whole("a condition's start", self.start, 0, MAX_FRAMES))
        object.__setattr__(self, "strength", _number("a condition's strength", self.strength, 0, 1))


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
    conditions: Sequence[Condition] = ()  # kept as a tuple
    strength: float = 1.0

    def __post_init__(self) -> None:
        _check_text("prompt", self.prompt)
        _check_text("negative_prompt", self.negative_prompt)
        for name, high in (("width", MAX_SIDE), ("height", MAX_SIDE), ("frames", MAX_FRAMES), ("steps", MAX_STEPS)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _whole(name, getattr(self, name), 1, high))
        for name, low, most in (("fps", 0.1, 240), ("guidance", 0, 100)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _number(name, getattr(self, name), low, most))
        object.__setattr__(self, "seed", _whole("seed", self.seed, 0, MAX_SEED))
        object.__setattr__(self, "strength", _number("strength", self.strength, 0, 1))
        if self.sampler is not None:
            _check_sampler("sampler", self.sampler)
        if not isinstance(self.conditions, (list, tuple)) or any(not isinstance(c, Condition) for c in self.conditions):
            raise ValueError(f"conditions must be a list of Condition objects, got {quote(self.conditions)}")
        object.__setattr__(self, "conditions", tuple(self.conditions))


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
    guided: bool = False  # by a second sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What sizes a model can do, and its defaults; stored in the bundle.

    Sides are multiples of `side_step` from `min_side` to `max_side`, or only the (width, height) of `sizes`; frames are
    1 + k * `frame_step`, `max_frames` at most; `frame_patch` latent frames make a token, and what is missing to a whole
    one is added. `max_tokens` bounds the tokens of one sequence and is enough for an image of any size. `shift` is for
    models without a schedule of their own. ValueError for limits that contradict themselves or the defaults.
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
    shift: float = 1.0
    frame_patch: int = 1
    sizes: tuple[tuple[int, int], ...] = ()
    guidance_kind: str = "free"
    conditions: str = "frames"

    def __post_init__(self) -> None:
        for field in fields(self):
            value, name = getattr(self, field.name), f"limits: {field.name}"
            if field.type == "int":
                _whole(name, value, 1, 2**31 - 1)
            elif field.type == "float":
                object.__setattr__(self, field.name, _number(name, value, 0, 1000))
        _number("limits: shift", self.shift, 0.01, 100)
        _check_sampler("limits: sampler", self.sampler)
        for name, kinds in (("guidance_kind", GUIDANCE_KINDS), ("conditions", CONDITION_KINDS)):
            if getattr(self, name) not in kinds:
                raise ValueError(f"limits: {name} must be one of {', '.join(kinds)}, got {quote(getattr(self, name))}")
        object.__setattr__(self, "sizes", tuple((int(width), int(height)) for width, height in self.sizes))
        if self.min_side > self.max_side or self.min_side % self.side_step or self.max_side % self.side_step:
            raise ValueError(
                f"limits: sides from {self.min_side} to {self.max_side} are no multiples of {self.side_step}"
            )
        _whole("limits: max_tokens", self.max_tokens, self.tokens(self.max_side, self.max_side, 1), 2**31 - 1)
        defaults = ("width", "height", "frames", "fps", "steps", "guidance", "sampler")
        Request(**{name: getattr(self, name) for name in defaults})
        self._check_size(self.width, self.height, self.frames)
        self._check_guidance(self.guidance, "")

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
        latents = 1 + (frames - 1) // self.frame_step
        return (width // self.side_step) * (height // self.side_step) * -(-latents // self.frame_patch)

    def complete(self, request: Request) -> CompleteRequest:
        """The request with the model's defaults in place of None. ValueError where the model cannot do it."""
        width, height, frames = self.size(request)
        values = {n: self._chosen(request, n) for n in ("fps", "steps", "guidance", "sampler")}
        if values["sampler"] == DEFAULT:
            values["sampler"] = self.sampler
        self._check_guidance(values["guidance"], request.negative_prompt)
        self._check_conditions(request, frames)
        kept = {n: getattr(request, n) for n in ("prompt", "negative_prompt", "seed", "conditions", "strength")}
        guided = self.guidance_kind == "free" and values["guidance"] != 1
        return CompleteRequest(**kept, **values, width=width, height=height, frames=frames, guided=guided)

    def size(self, request: Request) -> tuple[int, int, int]:
        """The request's width, height and number of frames. ValueError where the model cannot do them."""
        width, height, frames = (self._chosen(request, name) for name in ("width", "height", "frames"))
        self._check_size(width, height, frames)
        return width, height, frames

    def _chosen(self, request: Request, name: str) -> Any:
        """The request's value, or the model's default."""
        return getattr(self, name) if getattr(request, name) is None else getattr(request, name)

    def _check_size(self, width: int, height: int, frames: int) -> None:
        if self.sizes and (width, height) not in self.sizes:
            known = ", ".join(f"{w}x{h}" for w, h in self.sizes[:5])
            raise ValueError(f"this model makes only {known}, got {width}x{height}")
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
            groups = self.max_tokens // self.tokens(width, height, 1) * self.frame_patch
            raise ValueError(
                f"{width}x{height} with {frames} frames is {self.tokens(width, height, frames)} tokens; this model "
                f"takes {self.max_tokens} at most; the nearest that it can do at {width}x{height} is "
                f"{1 + (groups - 1) * self.frame_step} frames"
            )

    def _check_guidance(self, guidance: float, negative_prompt: str) -> None:
        if self.guidance_kind == "none" and guidance != 1:
            raise ValueError(f"this model was trained to need no guidance: only 1 is allowed, got {guidance:g}")
        if self.guidance_kind != "free" and negative_prompt:
            raise ValueError(f"this model's guidance takes no negative prompt, got {quote(negative_prompt)}")

    def _check_conditions(self, request: Request, frames: int) -> None:
        beside = self.conditions in ("channels", "first")
        for condition in request.conditions:
            start, end = condition.start, condition.start + len(condition.frames)
            if end > frames:
                raise ValueError(f"a condition gives frames {start} to {end - 1}, but the clip has only {frames}")
            if self.conditions == "whole" and (start, end) != (0, frames):
                raise ValueError(
                    f"this model can start from a whole clip only, frames 0 to {frames - 1}; "
                    f"a condition gives {start} to {end - 1}"
                )
            if self.conditions == "first" and (start, end) != (0, 1):
                raise ValueError(f"this model takes frame 0 alone; a condition gives frames {start} to {end - 1}")
            if beside and condition.strength * request.strength != 1:
                raise ValueError(
                    f"this model takes frames as they are, at strength 1, got {condition.strength * request.strength:g}"
                )
        if beside and all(condition.start for condition in request.conditions):
            raise ValueError("this model continues a picture: give one for frame 0")
