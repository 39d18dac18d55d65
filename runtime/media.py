"""Pictures and videos: reading them into frames, and writing frames to a file that is whole or not there.

Frames are uint8 ``[n, height, width, 3]``, RGB. PyAV and Pillow are imported where they are used: a machine that only
computes needs neither. What a user can get wrong is a ValueError of one line.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import av
    import PIL.Image

Frames = NDArray[np.uint8]

_SHEET_GUTTER = 2
_SHEET_COLOUR = 64
_SHEET_SIDE = 8192


def check_output(path: str | Path) -> Path:
    """The path, if frames can be written there: to be called before any work.

    ValueError for an unknown suffix, a missing library, a folder that is missing or cannot be written, a directory.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise ValueError(f"output: got {_quote(path)}, allowed are names that end in {', '.join(_WRITERS)}")
    library = "av" if suffix == ".mp4" else "PIL"
    if find_spec(library) is None:
        package = {"av": "av", "PIL": "pillow"}[library]
        raise ValueError(f"output: {suffix} needs the package {package}, which is not installed: pip install {package}")
    if os.path.isdir(path):
        raise ValueError(f"output: got {_quote(path)}, which is a directory, allowed is a file name")
    if not os.path.isdir(path.parent):
        raise ValueError(f"output: got {_quote(path)}, but its folder does not exist; allowed is an existing folder")
    try:
        _try_to_write(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a file name"
        raise ValueError(f"output: got {_quote(path)}, which cannot be written: {reason}") from error
    return path


def write_frames(path: str | Path, frames: Frames, fps: float) -> None:
    """Write frames in the format of the suffix. The file appears whole, or after a failure not at all.

    - .mp4: H.264, yuv420p, BT.709, index in front. Its sides must be even: an odd one is padded by repeating the last
      row or column.
    - .gif: 256 colours a frame, loops. Durations are whole hundredths of a second, at least two (players replace
      shorter ones): beyond 50 frames a second it plays slower.
    - .webp: animated, lossless, loops; durations in whole milliseconds.
    - .png: one frame as it is; several as a contact sheet in rows, scaled down where a side would exceed 8192 pixels.
    """
    path = check_output(path)
    part = _beside(path)
    try:
        _WRITERS[path.suffix.lower()](part, frames, fps)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_image(path: str | Path) -> Frames:
    """A picture as uint8 ``[1, height, width, 3]``, turned as its EXIF says; transparent parts on white."""
    from PIL import Image

    with _readable(path, "image"), Image.open(path) as image:
        return _pixels(image)[None]


def read_video(path: str | Path, max_frames: int | None = None) -> tuple[Frames, float]:
    """(frames uint8 ``[n, height, width, 3]``, frames a second) of a video, turned as its metadata says.

    At most `max_frames` from the start are decoded and kept in memory. GIF and WebP are read as well; theirs is the
    mean rate.
    """
    with _readable(path, "video"):
        animated = Path(path).suffix.lower() in (".gif", ".webp")
        frames, fps = (_read_animation if animated else _read_stream)(Path(path), max_frames)
    return np.stack(frames), fps


def resize(frames: Frames, width: int, height: int) -> Frames:
    """Scale frames to cover width x height and cut what is over on both sides alike; nothing is distorted."""
    from PIL import Image

    have_height, have_width = frames.shape[1:3]
    if (have_width, have_height) == (width, height):
        return frames
    scale = max(width / have_width, height / have_height)
    left = max(0.0, (have_width - width / scale) / 2)
    top = max(0.0, (have_height - height / scale) / 2)
    box = (left, top, have_width - left, have_height - top)
    size = (width, height)
    return np.stack(
        [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS, box=box)) for frame in frames]
    )


def _try_to_write(path: Path) -> None:
    """OSError or ValueError where os.replace would fail in the end: permission bits alone do not tell."""
    with suppress(FileNotFoundError):
        os.lstat(path)  # refuses a name that is too long or has a null byte
    probe = _beside(path)
    probe.touch(exist_ok=False)
    probe.unlink()


def _write_mp4(path: Path, frames: Frames, fps: float) -> None:
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    height, width = frames.shape[1:3]
    even = ((0, height % 2), (0, width % 2), (0, 0))
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        rate = Fraction(fps).limit_denominator(1001)  # 1001 holds the broadcast rates such as 24000/1001
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for frame in frames:
            padded = np.ascontiguousarray(np.pad(frame, even, mode="edge"))
            rgb = av.VideoFrame.from_ndarray(padded, format="rgb24")
            yuv = rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            container.mux(stream.encode(yuv))
        container.mux(stream.encode(None))


def _write_gif(path: Path, frames: Frames, fps: float) -> None:
    hundredths = [max(2, d) for d in _durations(len(frames), fps, 100)]
    images = [image.quantize(256) for image in _images(frames)]
    durations = [10 * d for d in hundredths]
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)


def _write_webp(path: Path, frames: Frames, fps: float) -> None:
    images = _images(frames)
    durations = _durations(len(frames), fps, 1000)
    images[0].save(
        path, format="WEBP", save_all=True, append_images=images[1:], duration=durations, loop=0, lossless=True
    )


def _write_png(path: Path, frames: Frames, fps: float) -> None:
    from PIL import Image

    image = Image.fromarray(frames[0] if len(frames) == 1 else _contact_sheet(frames))
    image.save(path, format="PNG")


_WRITERS: dict[str, Callable[[Path, Frames, float], None]] = {
    ".mp4": _write_mp4,
    ".gif": _write_gif,
    ".webp": _write_webp,
    ".png": _write_png,
}


def _contact_sheet(frames: Frames) -> Frames:
    """The frames in reading order on a grid as near to square as holds them, with a thin grey gutter between."""
    count, height, width = frames.shape[:3]
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    room = (_SHEET_SIDE + _SHEET_GUTTER) // columns - _SHEET_GUTTER
    if max(width, height) > room:
        scale = room / max(width, height)
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
    step_y, step_x = height + _SHEET_GUTTER, width + _SHEET_GUTTER
    sheet = np.full((rows * step_y - _SHEET_GUTTER, columns * step_x - _SHEET_GUTTER, 3), _SHEET_COLOUR, np.uint8)
    for i in range(count):
        y, x = i // columns * step_y, i % columns * step_x
        sheet[y : y + height, x : x + width] = resize(frames[i : i + 1], width, height)[0]
    return sheet


def _read_stream(path: Path, max_frames: int | None) -> tuple[list[Frames], float]:
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        frames: list[Frames] = []
        for frame in container.decode(stream):
            frames.append(_upright(frame))
            if len(frames) == max_frames:
                break
        rate = stream.average_rate or stream.guessed_rate
    if not frames or not rate:
        raise ValueError("it has no frames")
    return frames, float(rate)


def _upright(frame: av.VideoFrame) -> Frames:
    """RGB pixels, turned by the quarter turns that phones leave to the player."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, frame.rotation // 90).astype(np.uint8)


def _read_animation(path: Path, max_frames: int | None) -> tuple[list[Frames], float]:
    from PIL import Image

    frames: list[Frames] = []
    milliseconds = 0.0
    with Image.open(path) as image:
        for index in range(getattr(image, "n_frames", 1))[:max_frames]:
            image.seek(index)
            frames.append(_pixels(image))
            milliseconds += float(image.info.get("duration", 0))
    return frames, 1000 * len(frames) / milliseconds if milliseconds > 0 else 10.0


def _pixels(image: PIL.Image.Image) -> Frames:
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(upright.convert("RGB"))


def _images(frames: Frames) -> list[PIL.Image.Image]:
    from PIL import Image

    return [Image.fromarray(frame) for frame in frames]


def _durations(count: int, fps: float, unit: int) -> list[int]:
    """Durations in 1/unit seconds, rounded so that their running sum, not each one, keeps to the rate."""
    ends = [round(unit * i / fps) for i in range(count + 1)]
    return [after - before for before, after in pairwise(ends)]


def _beside(path: Path) -> Path:
    """A fresh hidden name in the same folder, so that os.replace stays on one file system."""
    return path.with_name(f".{secrets.token_hex(8)}.part")


@contextmanager
def _readable(path: str | Path, kind: str) -> Iterator[None]:
    """Turns what the libraries raise for a missing, foreign or damaged file into one ValueError."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{kind}: got {_quote(path)}, which does not exist") from error
    except Exception as error:  # damaged files raise a dozen unrelated types, and the libraries document none of them
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = " ".join(said.split())[:120]
        raise ValueError(f"{kind}: got {_quote(path)}, which cannot be read as one: {reason}") from error


def _quote(value: Any) -> str:
    text = repr(str(value))
    return text if len(text) <= 60 else text[:56] + "...'"
