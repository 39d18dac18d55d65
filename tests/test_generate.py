"""packdit generate: every mistake is one sentence and leaves nothing behind; what is made is what was asked for."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("av")
pytest.importorskip("PIL.Image")
from typer.testing import CliRunner

from packdit.runtime.bundle import digest
from packdit.runtime.cli import app
from packdit.runtime.engine import Engine
from packdit.runtime.generate import Options, Task, frame_index, named_after, numbered, plan_tasks, split_image
from packdit.runtime.media import read_image, read_video, write_frames
from packdit.runtime.video import Video

PACKDIT = Path(sys.executable).with_name("packdit")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, empty."""
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder with a picture, a video of 7 frames, and a file that is neither."""
    place = tmp_path / "media"
    place.mkdir()
    frames = np.zeros((7, 48, 64, 3), np.uint8)
    frames[:, :, :, 0] = 30 * np.arange(7)[:, None, None]
    write_frames(place / "video.webp", frames, 8)
    write_frames(place / "picture.png", frames[3:4], 8)
    shutil.copy(place / "picture.png", place / "at@2")
    (place / "neither.png").write_text("no picture")
    return place


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["generate", *map(str, arguments)])


def planned(model: Path, *prompts: str, **given: Any) -> list[Task]:
    empty = dict.fromkeys(Options.__dataclass_fields__)
    fixed = {"prompts": list(prompts) or ["a"], "model": str(model), "negative": "", "seed": 0, "backend": "auto"}
    return plan_tasks(Options(**{**empty, **fixed, **given}))[0]


MISTAKES = [
    (["--size", "0x64"], "width must be"),
    (["--size", "-16x64"], "such as 96x64, got '-16x64'"),
    (["--size", "96"], "such as 96x64, got '96'"),
    (["--size", "99999999999999999999x64"], "such as 96x64"),
    (["--size", "65x64"], "the nearest to 65x64 is 64x64"),
    (["--size", "4096x64"], "the nearest to 4096x64 is 256x64"),
    (["--size", "256x256", "--frames", "257"], "tokens"),
    (["--frames", "0"], "frames must be"),
    (["--frames", "-3"], "frames must be"),
    (["--frames", "2"], "the nearest to 2 is 1"),
    (["--frames", "1000000"], "frames must be"),
    (["--seconds", "0"], "seconds must be"),
    (["--seconds", "nan"], "seconds must be"),
    (["--seconds", "inf"], "seconds must be"),
    (["--seconds", "1000"], "257 frames at most"),
    (["--seconds", "1", "--frames", "9"], "not both"),
    (["--fps", "0"], "fps must be"),
    (["--fps", "nan"], "fps must be"),
    (["--steps", "0"], "steps must be"),
    (["--guidance", "nan"], "guidance must be"),
    (["--guidance", "-1"], "guidance must be"),
    (["--seed", "-1"], "seed must be"),
    (["--sampler", "magic"], "sampler must be one of euler"),
    (["--strength", "0.5"], "neither is given"),
    (["--backend", "abacus"], "'abacus' cannot be used"),
    (["--negative", "x" * 10_001], "at most 10000 characters"),
    (["x" * 10_001], "at most 10000 characters"),
    (["--model", "nowhere"], "no bundle at 'nowhere'"),
    (["--out", "a.avi"], "names that end in .mp4"),
    (["--out", "missing/a.mp4"], "folder does not exist"),
    (["--out", "."], "allowed are names"),
    (["--out", "/proc/a.mp4"], "cannot be written"),
    (["--image", "MEDIA/missing.png"], "does not exist"),
    (["--image", "MEDIA/neither.png"], "cannot be read"),
    (["--image", "MEDIA/picture.png@17"], "allowed are 0 to 16"),
    (["--image", "MEDIA/picture.png@-18"], "allowed are 0 to 16"),
    (["--image", "MEDIA/picture.png", "--strength", "1.5"], "strength must be"),
    (["--video", "MEDIA/missing.mp4"], "does not exist"),
    (["--video", "MEDIA"], "is no file"),
    (["--video", "MEDIA/neither.png"], "cannot be read"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[" ".join(a)[:40] for a, _ in MISTAKES])
def test_a_mistake_is_one_sentence_before_any_work(
    arguments: list[str], words: str, bundle_dir: Path, media: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packdit.runtime.engine.load_transformer", None)  # work would be a TypeError
    before = sorted(media.iterdir())
    given = [argument.replace("MEDIA", str(media)) for argument in arguments]
    result = call("a red circle", *(() if "--model" in given else ("--model", bundle_dir)), *given)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"Error: [^\n]{10,300}\n", result.stderr)
    assert words in result.stderr
    assert list(folder.iterdir()) == []
    assert sorted(media.iterdir()) == before


def rewrite(bundle: Path, **changes: Any) -> None:
    description = {**json.loads((bundle / "bundle.json").read_text()), **changes}
    description["digest"] = digest(description)
    (bundle / "bundle.json").write_text(json.dumps(description))


def truncate(bundle: Path) -> None:
    os.truncate(bundle / "transformer.safetensors", 1000)


def alter(bundle: Path) -> None:
    data = bytearray((bundle / "transformer.safetensors").read_bytes())
    data[-1] ^= 1
    (bundle / "transformer.safetensors").write_bytes(data)


def climb(bundle: Path) -> None:
    files = json.loads((bundle / "bundle.json").read_text())["files"]
    rewrite(bundle, files={**files, "../vae.safetensors": files["vae.safetensors"]})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, "truncated"),
        (alter, "was altered"),
        (lambda bundle: rewrite(bundle, format=99), "has format 99"),
        (climb, "outside of itself"),
        (lambda bundle: (bundle / "bundle.json").write_text("{"), "cannot be read"),
        (lambda bundle: (bundle / "vae.safetensors").unlink(), "lacks its file"),
    ],
    ids=["truncated", "altered", "newer", "climbs out", "no JSON", "incomplete"],
)
def test_a_damaged_bundle(
    damage: Callable[[Path], None], words: str, bundle_dir: Path, tmp_path: Path, folder: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle_dir, copy)
    damage(copy)
    result = call("a", "--model", copy)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"Error: [^\n]{10,300}\n", result.stderr)
    assert words in result.stderr
    assert list(folder.iterdir()) == []


def test_several_prompts_have_files_and_seeds_of_their_own(bundle_dir: Path, folder: Path) -> None:
    tasks = planned(bundle_dir, "a", "b", "a", seed=7, out="x.y.gif", negative="n", guidance=2.0, sampler="heun")
    assert [task.path for task in tasks] == [Path("x.y-1.gif"), Path("x.y-2.gif"), Path("x.y-3.gif")]
    assert [(t.request.prompt, t.request.seed) for t in tasks] == [("a", 7), ("b", 8), ("a", 9)]
    assert {(t.request.negative_prompt, t.request.guidance, t.request.sampler) for t in tasks} == {("n", 2.0, "heun")}
    assert numbered("x.png", 1) == [Path("x.png")]
    (folder / "x-2.png").mkdir()
    with pytest.raises(ValueError, match=r"x-2\.png"):
        planned(bundle_dir, "a", "b", out="x.png")


def test_a_duration_is_the_nearest_that_the_model_can_do(bundle_dir: Path, folder: Path) -> None:
    for seconds, fps, frames in ((2.0, None, 17), (0.01, None, 1), (1.4, None, 13), (1.0, 24.0, 25), (32.3, 8.0, 257)):
        assert planned(bundle_dir, seconds=seconds, fps=fps)[0].request.frames == frames
    assert planned(bundle_dir, size="96x64", frames=9)[0].request.width == 96


def test_a_new_file_is_named_after_the_prompt(bundle_dir: Path, folder: Path) -> None:
    def names(*prompts: str, frames: int = 17) -> list[str]:
        return [
            str(path) for path in named_after([task.request for task in planned(bundle_dir, *prompts, frames=frames)])
        ]

    assert names("A red circle, moves right!") == ["a-red-circle-moves-right.mp4"]
    assert names("../../etc/ü", frames=1) == ["etc-ü.png"]
    assert names("", "...", "") == ["untitled.mp4", "untitled-2.mp4", "untitled-3.mp4"]
    assert len(names("x" * 10_000)[0]) == 64
    (folder / "a.mp4").touch()
    assert names("a", "a") == ["a-2.mp4", "a-3.mp4"]


def test_a_picture_goes_where_it_is_meant(bundle_dir: Path, folder: Path, media: Path) -> None:
    picture = str(media / "picture.png")
    given = [picture, f"{picture}@4", f"{picture}@-1", f"{picture}@last", f"{picture}@-17", str(media / "at@2")]
    request = planned(bundle_dir, image=given, strength=0.5)[0].request
    assert [condition.start for condition in request.conditions] == [0, 4, 16, 16, 0, 0]
    assert request.strength == 0.5
    assert all((c.frames == read_image(picture)).all() for c in request.conditions)
    assert split_image("a@b.png") == ("a@b.png", "0")
    assert split_image("a@b.png@12") == ("a@b.png", "12")
    with pytest.raises(ValueError, match="allowed are 0 to 0"):
        frame_index("1", 1, "a.png@1")


def test_a_video_gives_its_first_frames(bundle_dir: Path, folder: Path, media: Path) -> None:
    frames, _ = read_video(media / "video.webp")
    for asked, given in ((17, 7), (5, 5)):
        (condition,) = planned(bundle_dir, video=str(media / "video.webp"), frames=asked)[0].request.conditions
        assert condition.start == 0
        assert (condition.frames == frames[:given]).all()


def test_files_appear_as_asked(bundle_dir: Path, folder: Path, media: Path) -> None:
    result = call(
        *("a red circle", "a blue square", "--model", bundle_dir, "--size", "64x48", "--frames", "5", "--steps", "2"),
        *("--image", f"{media / 'picture.png'}@last", "--out", "clip.mp4", "--fps", "12"),
    )
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [re.sub(r"[\d.]+ s$", "T s", line) for line in sorted(lines)] == [
        f"clip-{i}.mp4: 64x48, 5 frames at 12 a second, made in T s" for i in (1, 2)
    ]
    assert re.fullmatch(r"Done in [\d.]+ s: 2 files, 2 packed steps\.\n", result.stderr)
    assert sorted(path.name for path in folder.iterdir()) == ["clip-1.mp4", "clip-2.mp4"]
    clips = [read_video(folder / f"clip-{i}.mp4") for i in (1, 2)]
    assert all((frames.shape, fps) == ((5, 48, 64, 3), 12) for frames, fps in clips)
    assert (clips[0][0] != clips[1][0]).any()


def test_a_clip_that_is_given_whole_needs_no_steps(bundle_dir: Path, folder: Path, media: Path) -> None:
    result = call("a", "--model", bundle_dir, "--video", media / "video.webp", "--frames", "5", "--out", "a.webp")
    assert result.exit_code == 0
    assert "1 file, 0 packed steps" in result.stderr


def test_a_prompt_that_is_cut_is_a_warning(bundle_dir: Path, folder: Path) -> None:
    result = call("red " * 50, "--model", bundle_dir, "--frames", "1", "--steps", "1", "--out", "a.png")
    assert result.exit_code == 0
    assert re.match(r"Warning: the prompt [^\n]* are cut\nDone in ", result.stderr)


def test_a_failure_of_ours_keeps_its_traceback(bundle_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a bug, not a mistake")

    monkeypatch.setattr(Engine, "step", fail)
    result = call("a", "--model", bundle_dir, "--frames", "1")
    assert result.exit_code == 1
    assert isinstance(result.exception, RuntimeError)
    assert str(result.exception.__cause__) == "a bug, not a mistake"
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_one_sentence(bundle_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Video, "save", fail)
    result = call("a", "--model", bundle_dir, "--frames", "1", "--steps", "1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: 'a.png' could not be written: No space left on device\n"


def test_an_interrupt_leaves_nothing(bundle_dir: Path, folder: Path) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    arguments = ["generate", "a", "b", "--model", bundle_dir, "--frames", "257", "--size", "64x64", "--steps", "500"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children ignore it
    process = subprocess.Popen([PACKDIT, *arguments], stderr=theirs, stdout=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    os.close(theirs)
    seen = b""
    while not re.search(rb"steps [1-9]", seen):
        seen += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while chunk := os.read(ours, 4096):
            seen += chunk
    except OSError:  # how a terminal says that the other side is gone
        pass
    assert process.communicate()[0] == b""
    os.close(ours)
    assert process.returncode == 130
    assert seen.decode().rstrip().endswith("Interrupted.")
    assert b"Traceback" not in seen
    assert list(folder.iterdir()) == []
