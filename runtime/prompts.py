"""A request's prompts to what the transformer is told of each of its sequences, as a bundle's `prompt` says it.

`prompt` is null (one plain CLIP encoder), or an object of

    {"kind": "class", "names": {name: label}, "null": label}        a class instead of a prompt; null: no class
    {"kind": "text", "encoders": [readings], "image": showing, "clean": ..., "text": ..., ...}     see `Plan`
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .bundle import Bundle
from .image import ImageEncoder, Showing, load_image_encoder
from .request import CompleteRequest, Request, quote
from .text import Encoded, Reading, TextEncoder, load_text_encoder

CLEANERS: dict[str, Callable[[str], str]] = {
    "nothing": lambda text: text,
    "entities": lambda text: " ".join(html.unescape(html.unescape(text)).split()),
    "lower": lambda text: text.lower().strip(),
}
"""What is done to a prompt before it is read: nothing; HTML entities and runs of spaces resolved; lower case."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Told:
    """What a sequence is told: text states [l, D], the log of how many equal states each stands for [l], and the
    model's `extras` that come from the request (labels, pooled states, guidance)."""

    text: Tensor | None = None
    bias: Tensor | None = None
    extra: dict[str, float | Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How several encoders' states become one text.

    text: rows of columns: the components whose states lie side by side, filled up with zeros to the widest, and below
    one another. pooled: the components whose pooled states lie side by side. zero_rows: how many rows the model was
    trained with, the missing ones zeros: one row that counts for all. append: [rows, width] of zeros below. as_prompt:
    the negative prompt gets as many states as the prompt has tokens. guidance: what the guidance scale is multiplied by
    before the model is told it; None: it is not told. constants: what else the model is told, of every request.
    """

    text: tuple[tuple[str, ...], ...] = (("text_encoder",),)
    pooled: tuple[str, ...] = ()
    clean: str = "nothing"
    zero_rows: int | None = None
    append: tuple[int, int] | None = None
    as_prompt: bool = False
    guidance: float | None = None
    constants: dict[str, float] = field(default_factory=dict)


class Prompts:
    """The encoders of a pipeline: of text, and where it has one, of the pictures that are given."""

    def __init__(self, encoders: dict[str, TextEncoder], plan: Plan, image: ImageEncoder | None = None) -> None:
        self.encoders, self.plan, self.image = encoders, plan, image

    def check(self, request: Request) -> None:
        """ValueError where the prompts cannot be told to the model."""

    def __call__(self, request: CompleteRequest) -> list[Told]:
        """What each sequence is told, the conditional one first; the second where `request.guided`."""
        prompts = [request.prompt, request.negative_prompt] if request.guided else [request.prompt]
        read = [self._read(prompt) for prompt in prompts]
        if self.plan.as_prompt:
            count = next(iter(read[0].values())).real
            read = [{k: _first(e, count) for k, e in encoded.items()} for encoded in read]
        told = [self._told(encoded, request.guidance) for encoded in read]
        if self.image:
            states = torch.cat([self.image(picture) for picture in given_ends(request)])
            for sequence in told:
                sequence.extra["image"] = states
        return told

    def _read(self, prompt: str) -> dict[str, Encoded]:
        text = CLEANERS[self.plan.clean](prompt)
        return {name: encoder.read(text) for name, encoder in self.encoders.items()}

    def _told(self, encoded: dict[str, Encoded], guidance: float) -> Told:
        text, bias = self._text(encoded), None
        if self.plan.zero_rows and len(text) < self.plan.zero_rows:
            bias = torch.zeros(len(text) + 1, device=text.device)
            bias[-1] = math.log(self.plan.zero_rows - len(text))
            text = torch.cat([text, text.new_zeros(1, text.shape[1])])
        extra: dict[str, float | Tensor] = dict(self.plan.constants)
        if self.plan.pooled:
            extra["pooled"] = torch.cat([_pooled(encoded[name]) for name in self.plan.pooled])
        if self.plan.guidance is not None:
            extra["guidance"] = guidance * self.plan.guidance
        return Told(text=text, bias=bias, extra=extra)

    def _text(self, encoded: dict[str, Encoded]) -> Tensor:
        blocks = [torch.cat([encoded[name].states for name in columns], 1) for columns in self.plan.text]
        if self.plan.append:
            blocks.append(blocks[0].new_zeros(self.plan.append))
        width = max(block.shape[1] for block in blocks)
        return torch.cat([torch.nn.functional.pad(block, (0, width - block.shape[1])) for block in blocks])


def given_ends(request: CompleteRequest) -> list[np.ndarray]:
    """The given first frame and, where it is given too, the last: uint8 [h, w, 3] each, as they were given."""
    ends: dict[int, np.ndarray] = {}
    for condition in request.conditions:
        for index in (0, request.frames - 1):
            if condition.start <= index < condition.start + len(condition.frames):
                ends[index] = condition.frames[index - condition.start]
    return [ends[index] for index in sorted(ends)]


class Classes:
    """A model that is told a class instead of a prompt: its name, or its number."""

    def __init__(self, names: dict[str, int], null: int) -> None:
        self.names, self.null = names, null

    def check(self, request: Request) -> None:
        """ValueError for a prompt that is neither a class's name nor its number, and for a negative prompt."""
        self._label(request.prompt)
        if request.negative_prompt:
            got = quote(request.negative_prompt)
            raise ValueError(f"this model is told a class and takes no negative prompt, got {got}")

    def __call__(self, request: CompleteRequest) -> list[Told]:
        """As `Prompts`."""
        labels = [self._label(request.prompt), self.null] if request.guided else [self._label(request.prompt)]
        return [Told(extra={"labels": float(label)}) for label in labels]

    def _label(self, prompt: str) -> int:
        text = prompt.strip()
        if not text:  # the unconditional one
            return self.null
        if text.isascii() and text.isdigit() and int(text[:9]) <= self.null:
            return int(text[:9])
        if text in self.names:
            return self.names[text]
        examples = ", ".join(list(self.names)[:3]) or "none has a name"
        raise ValueError(
            f"this model's prompt is a class: a number from 0 to {self.null - 1}, or a name ({examples}, ...), "
            f"got {quote(prompt)}"
        )


def _first(encoded: Encoded, count: int) -> Encoded:
    return Encoded(states=encoded.states[:count], pooled=encoded.pooled, real=count)


def _pooled(encoded: Encoded) -> Tensor:
    assert encoded.pooled is not None
    return encoded.pooled


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A bundle's `prompt` that is text: how each encoder reads it, what becomes of that, how pictures are shown."""

    readings: tuple[Reading, ...]
    plan: Plan
    showing: Showing | None

    @property
    def components(self) -> list[str]:
        """The names of the encoders."""
        return [part.component for part in (*self.readings, self.showing) if part]


def understand(data: dict[str, Any] | None) -> Described | Classes:
    """What a bundle's `prompt` says. ValueError where it cannot be understood."""
    data = data or {"kind": "text", "encoders": [{}]}
    try:
        if data["kind"] == "class":
            return Classes({str(k): int(v) for k, v in data["names"].items()}, int(data["null"]))
        plan = Plan(**{k: _frozen(v) for k, v in data.items() if k not in ("kind", "encoders", "image")})
        if data["kind"] != "text" or plan.clean not in CLEANERS:
            raise ValueError(f"{data['kind']}, {plan.clean}")
        return Described(
            readings=tuple(Reading(**reading) for reading in data["encoders"]),
            plan=plan,
            showing=Showing(**{k: _frozen(v) for k, v in data["image"].items()}) if data.get("image") else None,
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"the bundle's prompt cannot be understood: {quote(error)}; export it again") from error


def load_prompts(bundle: Bundle, device: torch.device, dtype: torch.dtype) -> Prompts | Classes:
    """What a bundle's `prompt` describes, with its encoders. ValueError as `understand`, and where they do not fit."""
    described = understand(bundle.description["prompt"])
    if isinstance(described, Classes):
        return described
    encoders = {r.component: load_text_encoder(bundle, device, dtype, r) for r in described.readings}
    image = load_image_encoder(bundle, device, dtype, described.showing) if described.showing else None
    return Prompts(encoders, described.plan, image)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
