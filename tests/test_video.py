"""Video: what it takes, and that saving picks the format by suffix."""

import math
from pathlib import Path

import numpy as np
import pytest

from packdit.runtime.media import read_video
from packdit.runtime.video import Video


def test_save_picks_the_format_by_suffix(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3), np.uint8)
    Video(frames, 8).save(tmp_path / "x.webp")
    got, fps = read_video(tmp_path / "x.webp")
    assert np.array_equal(got, frames)
    assert fps == 8
    Video(frames, 8).save(str(tmp_path / "x.mp4"))
    assert (tmp_path / "x.mp4").read_bytes()[4:8] == b"ftyp"
    with pytest.raises(ValueError, match=r"allowed are names that end in \.mp4"):
        Video(frames, 8).save(tmp_path / "x.mov")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((0, 8, 8, 3), np.uint8), ((8, 8, 3), np.uint8), ((1, 8, 8, 4), np.uint8), ((1, 8, 8, 3), np.float32)],
)
def test_other_frames_are_refused(shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(ValueError, match="frames: got "):
        Video(np.zeros(shape, dtype), 8)


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf, 1e6])
def test_other_rates_are_refused(fps: float) -> None:
    with pytest.raises(ValueError, match="fps: got "):
        Video(np.zeros((1, 8, 8, 3), np.uint8), fps)
