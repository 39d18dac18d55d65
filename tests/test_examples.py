"""The examples and the README's own lines run as they stand; the shapes world is what its detector and captions say."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ROOT / "examples" / "shapes"


def run(script: Path, *arguments: str, folder: Path) -> str:
    # make sets PYTHONSAFEPATH, under which a script does not find the files beside it.
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, str(script), *arguments], cwd=folder, env=usual, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_embed_makes_its_files(tmp_path: Path) -> None:
    printed = run(ROOT / "examples" / "embed.py", str(tmp_path), folder=tmp_path)
    assert "frame 8: (64, 64, 3), progress 100%" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "image.png", "from-image.gif"}


def test_the_lines_of_the_readme_run(tmp_path: Path) -> None:
    code = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    script = tmp_path / "readme.py"
    script.write_text(code + "assert first.shape == (64, 64, 3)\n")
    run(script, folder=tmp_path)
    assert (tmp_path / "out.mp4").stat().st_size > 0


def test_the_detector_reads_ground_truth(shapes: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    wrong = []
    for i in range(200):
        width, height, frames = shapes.world.sample_size(rng)
        clip = shapes.world.sample_clip(rng, width, height, frames, count=1 + i % 2)
        got = shapes.detector.read(shapes.world.render([clip], width, height, frames)[0].numpy())
        seen = {(thing.shape, thing.color, thing.motion) for thing in got.things}
        want = {(thing.shape, thing.color, thing.motion if frames > 1 else None) for thing in clip.things}
        if (got.background, seen) != (clip.background, want):
            wrong.append((clip, got))
    assert len(wrong) <= 2, wrong  # at least 99 %


def test_the_detector_tells_a_wrong_clip(shapes: SimpleNamespace) -> None:
    rng = np.random.default_rng(1)
    clip = shapes.world.sample_clip(rng, 64, 64, 9, (("circle", "red", "black", "right"),))
    frames = shapes.world.render([clip], 64, 64, 9)[0].numpy()
    read = shapes.detector.read
    assert read(frames[::-1]).things[0].motion == "left"
    assert read(frames[:, :, :, ::-1]).things[0].color == "blue"
    assert read(np.repeat(frames[:1], 9, 0)).things[0].motion == "still"


def test_the_detector_counts(shapes: SimpleNamespace) -> None:
    """Two objects of one colour, or one where two are asked for, are not two objects."""
    pair = (("circle", "red", "black", "right"), ("square", "blue", "black", "still"))
    clip = shapes.world.sample_clip(np.random.default_rng(1), 64, 64, 9, pair)
    both = shapes.world.render([clip], 64, 64, 9)[0].numpy()
    assert [thing.color for thing in shapes.detector.read(both).things] == ["blue", "red"]
    for things in (clip.things[:1], (clip.things[0], replace(clip.things[1], color="red"))):
        frames = shapes.world.render([replace(clip, things=things)], 64, 64, 9)[0].numpy()
        assert len(shapes.detector.read(frames).things) == 1


def test_objects_stay_inside_the_frame(shapes: SimpleNamespace) -> None:
    rng = np.random.default_rng(2)
    for i in range(60):
        width, height, frames = shapes.world.sample_size(rng)
        clip = shapes.world.sample_clip(rng, width, height, frames, count=1 + i % 2)
        pixels = shapes.world.render([clip], width, height, frames)[0].numpy()
        edge = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], 1)
        assert (edge == shapes.world.BACKGROUNDS[clip.background]).all(), clip


def test_a_tenth_of_the_combinations_is_held_out(shapes: SimpleNamespace) -> None:
    world, rng = shapes.world, np.random.default_rng(3)
    combinations = list(product(world.SHAPES, world.COLORS, world.BACKGROUNDS, world.MOTIONS))
    assert 0.07 < np.mean([world.held_out(c) for c in combinations]) < 0.13
    for i in range(300):
        clip = world.sample_clip(rng, 32, 32, 5, count=1 + i % 2)
        assert not any(map(world.held_out, clip.combinations))
        assert len({thing.color for thing in clip.things}) == len(clip.things) == 1 + i % 2


def test_any_two_motions_fit(shapes: SimpleNamespace) -> None:
    rng = np.random.default_rng(5)
    for one, other in product(shapes.world.MOTIONS, repeat=2):
        pair = (("triangle", "red", "black", one), ("triangle", "blue", "black", other))
        clip = shapes.world.sample_clip(rng, 32, 32, 17, pair)
        assert set(clip.combinations) == set(pair)
        assert clip.things[0].center[0] <= clip.things[1].center[0]


def test_behind_a_bar_an_object_is_hidden_and_comes_out(shapes: SimpleNamespace) -> None:
    rng = np.random.default_rng(6)
    for width, height in shapes.train.WIDE:
        clip = shapes.world.sample_behind(rng, width, height, 33)
        bare = replace(clip, things=())
        with_it, without = (shapes.world.render([c], width, height, 33)[0] for c in (clip, bare))
        seen = (with_it != without).flatten(1).any(1)
        assert seen[0] & seen[-1] & ~seen[14:19].all()


def test_a_full_caption_names_everything(shapes: SimpleNamespace) -> None:
    clip = shapes.world.sample_clip(np.random.default_rng(4), 64, 64, 9, (("square", "orange", "pink", "up"),))
    text = shapes.world.caption(clip, np.random.default_rng(0), full=True)
    assert text == "an orange square moves up on a pink background"
    pair = (("circle", "red", "black", "right"), ("square", "blue", "black", "still"))
    clip = shapes.world.sample_clip(np.random.default_rng(4), 64, 64, 9, pair)
    parts = ("a red circle moves right", "a blue square is still")
    first, second = parts if clip.things[0].color == "red" else parts[::-1]
    text = shapes.world.caption(clip, np.random.default_rng(0), full=True)
    assert text == f"{first} and {second} on a black background"


def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Both stages from nothing, a few steps; stopped and started again; the result is exported."""
    train, out = SHAPES / "train.py", tmp_path / "run"
    small = ("--out", str(out), "--pixels", "20000", "--groups", "2", "--tokens", "40", "--narrow", "9")
    run(train, "vae", *small, "--steps", "1", folder=tmp_path)
    run(train, "vae", *small, "--steps", "2", folder=tmp_path)
    run(train, "dit", *small, "--steps", "2", folder=tmp_path)
    (tmp_path / "again").mkdir()
    start = ("--out", str(tmp_path / "again"), "--start", str(out / "pipeline" / "vae"), "--pixels", "20000")
    run(train, "vae", *start, "--steps", "1", folder=tmp_path)
    import torch
    from safetensors.torch import load_file

    before, after = (
        load_file(folder / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors")
        for folder in (out, tmp_path / "again")
    )
    same = {name: torch.equal(before[name], after[name]) for name in before}
    assert all(same[name] == name.startswith("encoder.") for name in same if name.endswith("conv_in.weight"))
    assert torch.load(out / "vae.pt", weights_only=True)["step"] == 2
    from packdit.export import convert

    bundle = convert(out / "pipeline", tmp_path / "bundle", "fp16")
    assert bundle.family == "shapes"
