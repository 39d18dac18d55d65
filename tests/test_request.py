"""Requests, conditions and limits: what is legal, and one short sentence for everything that is not."""

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest

from packdit.runtime import Condition, Request
from packdit.runtime.request import MAX_SEED, Limits

LIMITS: dict[str, Any] = {
    "side_step": 16,
    "min_side": 32,
    "max_side": 256,
    "frame_step": 4,
    "max_frames": 257,
    "max_tokens": 4096,
    "width": 64,
    "height": 64,
    "frames": 17,
    "fps": 8.0,
    "steps": 16,
    "guidance": 4.0,
    "sampler": "euler",
    "shift": 2.0,
}
LONG = "prompt " * 2000
CLIP = np.zeros((2, 8, 8, 3), np.uint8)


def frames(n: int, h: int = 8, w: int = 8) -> np.ndarray:
    return np.zeros((n, h, w, 3), np.uint8)


def refusal(make: Any, *args: Any, **fields: Any) -> str:
    """The message of the ValueError, which is one line of at most 300 characters."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the caller looks at the message
        make(*args, **fields)
    message = str(caught.value)
    assert len(message) <= 300, message
    assert len(message.splitlines()) == 1, message
    return message


HUGE = pytest.param(10**5000, id="huge")  # Python refuses to write it out


@pytest.mark.parametrize("value", [0, -1, 2.0, "64", True, math.nan, 10**6, HUGE, np.float32(8), np.zeros((9, 9))])
@pytest.mark.parametrize(("field", "most"), [("width", 65536), ("height", 65536), ("frames", 100000), ("steps", 1000)])
def test_sizes_that_no_model_can_do(field: str, most: int, value: Any) -> None:
    assert refusal(Request, **{field: value}).startswith(f"{field} must be a whole number from 1 to {most}, got ")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, 1e9, HUGE, "8", False, 1j, np.float32("nan")])
@pytest.mark.parametrize(
    ("field", "allowed"), [("guidance", "0 to 100"), ("fps", "0.1 to 240"), ("strength", "0 to 1")]
)
def test_numbers_that_no_model_can_do(field: str, allowed: str, value: Any) -> None:
    assert f"{field} must be a number from {allowed}, got " in refusal(Request, **{field: value})


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 0.5, None])
def test_seeds(seed: Any) -> None:
    assert f"from 0 to {MAX_SEED}, got {seed}" in refusal(Request, seed=seed)


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LONG, "at most 10000 characters, got 14000: 'prompt prompt"),
        ("x" * 10_001, "at most 10000 characters, got 10001"),
        (None, "must be a string, got None"),
        (b"red", "must be a string, got b'red'"),
        ("red \ud800 circle", "got a lone surrogate: 'red \\ud800 circle'"),
    ],
)
def test_prompts(field: str, text: Any, said: str) -> None:
    message = refusal(Request, **{field: text})
    assert message.startswith(f"{field} must ")
    assert said in message


@pytest.mark.parametrize("sampler", ["ddim", "", 3, ["euler"], "s" * 1000, "two\nlines"])
def test_samplers(sampler: Any) -> None:
    assert "sampler must be one of euler, heun, dpmpp_2m, unipc, default, got " in refusal(Request, sampler=sampler)


@pytest.mark.parametrize("conditions", [None, 5, "frames", [CLIP], (Condition(CLIP), None), Condition(CLIP)])
def test_conditions_are_a_list_of_conditions(conditions: Any) -> None:
    assert "conditions must be a list of Condition objects, got " in refusal(Request, conditions=conditions)


@pytest.mark.parametrize(
    "given",
    [
        None,
        [[1, 2]],
        "picture.png",
        CLIP.astype(np.float32),
        CLIP[0],
        frames(0),
        frames(1, 0),
        CLIP[..., :1],
        np.zeros((1,) * 60, np.uint8),
        np.zeros(3, [("x" * 400, "u1")]),
    ],
)
def test_frames_of_a_condition(given: Any) -> None:
    assert "a condition's frames must be uint8 [n, h, w, 3]" in refusal(Condition, given)


@pytest.mark.parametrize("start", [-1, 0.0, None, 10**6])
def test_starts_of_a_condition(start: Any) -> None:
    assert f"a condition's start must be a whole number from 0 to 100000, got {start}" in refusal(
        Condition, CLIP, start
    )


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan, "1", None])
def test_strengths_of_a_condition(strength: Any) -> None:
    message = refusal(Condition, CLIP, strength=strength)
    assert message.startswith("a condition's strength must be a number from 0 to 1, got ")


def test_messages_quote_at_most_60_characters() -> None:
    quoted = refusal(Request, sampler="s" * 1000).rpartition("got ")[2]
    assert quoted == "'" + "s" * 56 + "..."


def test_an_unknown_field_is_a_type_error() -> None:
    fields: dict[str, Any] = {"promt": "a red circle"}
    with pytest.raises(TypeError, match="promt"):
        Request(**fields)


def test_the_empty_prompt_and_the_extremes_are_legal() -> None:
    Request()
    Request(prompt="x" * 10_000, seed=MAX_SEED, guidance=0, strength=0, fps=0.1, width=1, frames=1, steps=1000)
    Request(prompt="赤い円 🔴\nand a second line")


def test_requests_cannot_be_changed() -> None:
    given = CLIP.copy()
    request = Request(prompt="a red circle", conditions=[Condition(given)])  # type: ignore[arg-type]  # a list will do
    with pytest.raises(FrozenInstanceError):
        request.prompt = "a blue square"  # type: ignore[misc]
    given[:] = 255
    (condition,) = request.conditions
    assert not condition.frames.any()
    with pytest.raises(ValueError, match="read-only"):
        condition.frames[:] = 255


def test_numbers_become_pythons_own() -> None:
    request = Request(
        width=np.int8(64),
        seed=np.uint8(250),
        fps=8,
        guidance=np.float32(2),
        conditions=(Condition(CLIP, np.uint8(255)),),
    )
    numbers = (request.width, request.seed, request.fps, request.guidance, request.conditions[0].start)
    assert numbers == (64, 250, 8.0, 2.0, 255)
    assert [type(n) for n in numbers] == [int, int, float, float, int]
    assert refusal(Limits(**LIMITS).complete, replace(request, width=64, frames=17)).endswith(
        "a condition gives frames 255 to 256, but the clip has only 17"
    )


def test_defaults_fill_what_is_left_open() -> None:
    request = Limits(**LIMITS).complete(Request(prompt="a red circle", width=96, seed=7, guidance=1))
    assert (request.width, request.height, request.frames, request.steps) == (96, 64, 17, 16)
    assert (request.fps, request.guidance, request.sampler) == (8.0, 1.0, "euler")
    assert (request.prompt, request.seed) == ("a red circle", 7)


@pytest.mark.parametrize(
    ("width", "height", "nearest"),
    [(50, 64, "48x64"), (1, 1, "32x32"), (64, 65, "64x64"), (300, 250, "256x256"), (65536, 64, "256x64")],
)
def test_the_nearest_sides_are_named(width: int, height: int, nearest: str) -> None:
    message = refusal(Limits(**LIMITS).complete, Request(width=width, height=height))
    assert f"multiples of 16 from 32 to 256; the nearest to {width}x{height} is {nearest}" in message


@pytest.mark.parametrize(("count", "nearest"), [(2, 1), (4, 5), (16, 17), (258, 257), (100_000, 257)])
def test_the_nearest_number_of_frames_is_named(count: int, nearest: int) -> None:
    message = refusal(Limits(**LIMITS).complete, Request(frames=count))
    assert message == f"this model makes 1 + 4k frames, 257 at most; the nearest to {count} is {nearest}"


def test_too_many_tokens_are_refused_and_the_longest_clip_is_named() -> None:
    limits = Limits(**LIMITS)
    message = refusal(limits.complete, Request(width=256, height=128, frames=257))
    assert "256x128 with 257 frames is 8320 tokens; this model takes 4096 at most" in message
    assert "the nearest that it can do at 256x128 is 125 frames" in message
    assert limits.complete(Request(width=256, height=128, frames=125)).frames == 125
    assert limits.tokens(256, 128, 125) == 4096
    refusal(limits.complete, Request(width=256, height=128, frames=129))


def test_nearest_sizes_can_be_done() -> None:
    limits = Limits(**{**LIMITS, "max_tokens": 10**6})
    for size in range(1, 400, 7):
        side, count = limits.nearest_side(size), limits.nearest_frames(size)
        limits.complete(Request(width=side, height=side, frames=count))


def test_a_condition_must_lie_within_the_clip() -> None:
    limits = Limits(**LIMITS)
    limits.complete(Request(frames=17, conditions=(Condition(frames(2), 15),)))
    message = refusal(limits.complete, Request(frames=17, conditions=(Condition(frames(2), 16),)))
    assert message == "a condition gives frames 16 to 17, but the clip has only 17"


@pytest.mark.parametrize(
    "change",
    [
        {"side_step": 0},
        {"side_step": 16.0},
        {"frame_step": None},
        {"max_frames": "257"},
        {"min_side": 40},
        {"min_side": 512},
        {"max_side": 250},
        {"max_tokens": 255},
        {"shift": math.nan},
        {"shift": 0},
        {"fps": 0.0},
        {"sampler": "ddim"},
        {"width": 65},
        {"frames": 2},
        {"steps": 1001},
    ],
)
def test_limits_that_contradict_themselves(change: dict[str, Any]) -> None:
    refusal(Limits, **{**LIMITS, **change})


def test_only_these_sizes() -> None:
    limits = Limits(**{**LIMITS, "sizes": [[64, 64], [96, 64]]})
    assert limits.complete(Request(width=96, height=64)).width == 96
    assert refusal(limits.complete, Request(width=64, height=96)) == "this model makes only 64x64, 96x64, got 64x96"
    refusal(Limits, **{**LIMITS, "sizes": [[96, 96]]})


def test_frames_that_fill_up_a_token() -> None:
    limits = Limits(**{**LIMITS, "frame_patch": 2})
    assert [limits.tokens(64, 64, count) for count in (1, 5, 9, 13)] == [16, 16, 32, 32]
    assert "the nearest that it can do at 256x128 is 253 frames" in refusal(
        Limits(**{**LIMITS, "frame_patch": 2, "max_frames": 513}).complete, Request(width=256, height=128, frames=513)
    )


def test_guidance_kinds() -> None:
    free, embedded, none = (
        Limits(**{**LIMITS, "guidance_kind": kind, "guidance": 1.0}) for kind in ("free", "embedded", "none")
    )
    assert [limits.complete(Request(guidance=1)).guided for limits in (free, embedded, none)] == [False] * 3
    assert [limits.complete(Request(guidance=6)).guided for limits in (free, embedded)] == [True, False]
    assert refusal(none.complete, Request(guidance=6)).endswith("only 1 is allowed, got 6")
    for limits in (embedded, none):
        assert "takes no negative prompt, got 'red'" in refusal(limits.complete, Request(negative_prompt="red"))
    refusal(Limits, **{**LIMITS, "guidance_kind": "some"})


def test_kinds_of_conditions() -> None:
    whole, channels, first = (Limits(**{**LIMITS, "conditions": kind}) for kind in ("whole", "channels", "first"))
    clip, picture, last = Condition(frames(5)), Condition(frames(1)), Condition(frames(1), 4)
    whole.complete(Request(frames=5, conditions=[clip], strength=0.5))
    assert "from a whole clip only, frames 0 to 4" in refusal(whole.complete, Request(frames=5, conditions=[picture]))
    channels.complete(Request(frames=5, conditions=[picture, last]))
    first.complete(Request(frames=5, conditions=[picture]))
    for limits in (channels, first):
        assert refusal(limits.complete, Request(frames=5)).endswith("give one for frame 0")
        message = refusal(limits.complete, Request(frames=5, conditions=[picture], strength=0.5))
        assert message.endswith("at strength 1, got 0.5")
    assert "takes frame 0 alone" in refusal(first.complete, Request(frames=5, conditions=[picture, last]))
    refusal(Limits, **{**LIMITS, "conditions": "all"})


def test_the_default_sampler() -> None:
    assert Limits(**LIMITS).complete(Request(sampler="default")).sampler == LIMITS["sampler"]
    published = Limits(**{**LIMITS, "sampler": "default"})
    assert published.complete(Request()).sampler == "default"
    assert published.complete(Request(sampler="unipc")).sampler == "unipc"
