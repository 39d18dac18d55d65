"""The model that ships does what prompts say, within its size."""

from types import SimpleNamespace

from packdit.runtime import Engine, Request
from packdit.runtime.bundle import SHIPPED, Bundle

PROMPTS = [  # prompt, its objects as (shape, color, motion), background, width, height, frames
    ("a red circle moves right on a black background", [("circle", "red", "right")], "black", 96, 64, 17),
    ("a blue square is still on a white background", [("square", "blue", "still")], "white", 64, 64, 9),
    ("a green triangle moves down on a gray background", [("triangle", "green", "down")], "gray", 48, 64, 13),
    ("a yellow circle moves left on a pink background", [("circle", "yellow", "left")], "pink", 64, 48, 9),
    ("a purple square moves up on a white background", [("square", "purple", "up")], "white", 64, 64, 17),
    ("an orange triangle on a black background", [("triangle", "orange", None)], "black", 64, 64, 1),
]


def test_it_draws_what_the_prompts_say(shapes: SimpleNamespace) -> None:
    requests = [
        Request(prompt=prompt, width=width, height=height, frames=frames, seed=i)
        for i, (prompt, _, _, width, height, frames) in enumerate(PROMPTS)
    ]
    with Engine.load("shapes") as engine:
        readings = [shapes.detector.read(video.frames) for video in engine.generate(requests)]
        assert engine.stats()["steps"] == engine.limits.steps
    for (prompt, things, background, *_), got in zip(PROMPTS, readings, strict=True):
        seen = [(thing.shape, thing.color, thing.motion) for thing in got.things]
        assert (got.background, seen) == (background, things), prompt


def test_it_is_small_and_verified() -> None:
    bundle = Bundle.open("shapes")
    assert bundle.description["dtype"] == "fp16"
    assert bundle.description["verified"]
    assert sum(path.stat().st_size for path in (SHIPPED / "shapes").rglob("*") if path.is_file()) <= 12_000_000
