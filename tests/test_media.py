"""Files: what is written is read again, nothing half-written stays, and a bad path is one sentence."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from packdit.runtime.media import check_output, read_image, read_video, write_frames

av = pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")

Frames = NDArray[np.uint8]
BLUE, RED = (40, 80, 230), (230, 40, 40)


def clip(count: int = 9, height: int = 64, width: int = 96) -> Frames:
    """A red disc that crosses a blue ground."""
    frames = np.full((count, height, width, 3), BLUE, np.uint8)
    y, x = np.mgrid[:height, :width]
    for i, frame in enumerate(frames):
        frame[(y - height / 2) ** 2 + (x - width * (i + 1) / (count + 1)) ** 2 < (height / 4) ** 2] = RED
    return frames


def error(got: Frames, want: Frames) -> float:
    return float(np.abs(got.astype(int) - want).mean())


@pytest.mark.parametrize(
    ("count", "height", "width", "fps"),
    [(17, 64, 96, 8.0), (5, 33, 47, 24000 / 1001), (1, 33, 47, 29.97), (3, 64, 64, 0.5), (2, 1, 1, 120.0)],
)
def test_mp4_round_trip(tmp_path: Path, count: int, height: int, width: int, fps: float) -> None:
    frames = clip(count, height, width)
    path = tmp_path / "clip.mp4"
    write_frames(path, frames, fps)
    got, rate = read_video(path)
    assert got.shape == (count, height + height % 2, width + width % 2, 3)
    assert rate == pytest.approx(fps, rel=1e-12)
    # Chroma at half resolution blurs the disc's edge; away from it a colour is off by rounding alone.
    assert error(got[:, :height, :width], frames) < 5
    assert np.abs(got[:, 0, 0].astype(int) - BLUE).max() <= 3


def test_mp4_plays_everywhere_and_from_the_start_of_a_download(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_frames(path, clip(), 24)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)  # BT.709
        assert [frame.time for frame in container.decode(stream)] == pytest.approx(np.arange(9) / 24)
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("colour", [BLUE, RED, (250, 220, 30), (40, 180, 60), (0, 0, 0), (255, 255, 255)])
def test_mp4_keeps_colours(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    write_frames(tmp_path / "flat.mp4", np.full((2, 32, 32, 3), colour, np.uint8), 8)
    assert np.abs(read_video(tmp_path / "flat.mp4")[0].astype(int) - colour).max() <= 3


def test_odd_sides_repeat_the_last_row_and_column(tmp_path: Path) -> None:
    frames = np.full((1, 33, 47, 3), 255, np.uint8)
    write_frames(tmp_path / "odd.mp4", frames, 8)
    assert read_video(tmp_path / "odd.mp4")[0].min() >= 250


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_are_exact_loop_and_keep_the_rate(tmp_path: Path, suffix: str) -> None:
    frames = clip(24)
    write_frames(tmp_path / f"clip{suffix}", frames, 24)
    got, rate = read_video(tmp_path / f"clip{suffix}")
    assert np.array_equal(got, frames)
    assert rate == pytest.approx(24, rel=1e-9)
    with Image.open(tmp_path / f"clip{suffix}") as image:
        assert image.info["loop"] == 0
    write_frames(tmp_path / f"one{suffix}", frames[:1], 24)
    assert np.array_equal(read_video(tmp_path / f"one{suffix}")[0], frames[:1])


def test_webp_is_lossless_and_gif_has_256_colours(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)
    write_frames(tmp_path / "noise.webp", noise, 8)
    write_frames(tmp_path / "noise.gif", noise, 8)
    assert np.array_equal(read_video(tmp_path / "noise.webp")[0], noise)
    assert error(read_video(tmp_path / "noise.gif")[0], noise) < 20


def test_png_is_the_frame_or_a_contact_sheet(tmp_path: Path) -> None:
    frames = clip(5, 20, 30)
    write_frames(tmp_path / "one.png", frames[:1], 8)
    assert np.array_equal(read_image(tmp_path / "one.png"), frames[:1])
    write_frames(tmp_path / "all.PNG", frames, 8)
    sheet = read_image(tmp_path / "all.PNG")[0]
    assert sheet.shape == (20 * 2 + 2, 30 * 3 + 4, 3)
    for i, frame in enumerate(frames):
        y, x = i // 3 * 22, i % 3 * 32
        assert np.array_equal(sheet[y : y + 20, x : x + 30], frame)
    assert (sheet[20:22] == 64).all()
    assert (sheet[22:, 64:] == 64).all()


def test_a_large_contact_sheet_is_scaled_down(tmp_path: Path) -> None:
    write_frames(tmp_path / "wide.png", np.zeros((3, 8, 6000, 3), np.uint8), 8)
    with Image.open(tmp_path / "wide.png") as image:
        assert image.size == (8192, 12)


def test_frames_need_not_be_contiguous(tmp_path: Path) -> None:
    frames = np.ascontiguousarray(clip().transpose(3, 0, 2, 1)).transpose(1, 3, 2, 0)
    for suffix in (".mp4", ".gif", ".webp", ".png"):
        write_frames(tmp_path / f"clip{suffix}", frames, 8)
    assert np.array_equal(read_video(tmp_path / "clip.webp")[0], frames)


def test_a_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_frames(tmp_path / "clip.gif", clip(), 8)
    assert (tmp_path / "clip.gif").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
def test_a_failure_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, raised: type[BaseException]
) -> None:
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(b"what was there before")
    pad, calls = np.pad, 0

    def pad_fails_late(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise raised("in the encoder")
        return pad(*args, **options)  # type: ignore[call-overload]

    def save_fails_late(image: object, target: Path, **options: object) -> None:
        target.write_bytes(b"half a picture")
        raise raised("in the encoder")

    monkeypatch.setattr(np, "pad", pad_fails_late)
    monkeypatch.setattr(Image.Image, "save", save_fails_late)
    with pytest.raises(raised, match="in the encoder"):
        write_frames(path, clip(), 8)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == b"what was there before"


def one_sentence(caught: pytest.ExceptionInfo[ValueError]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) <= 300
    return message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.avi", "'x.avi', allowed are names that end in .mp4, .gif, .webp, .png"),
        ("mp4", "allowed are names"),
        ("", "allowed are names"),
        ("a\nb", "'a\\nb'"),
        ("q" * 200 + ".tar", "qqq...'"),
        ("missing/x.mp4", "its folder does not exist"),
        ("file/x.mp4", "its folder does not exist"),
        ("folder.mp4", "is a directory"),
        ("k" * 300 + ".mp4", "name too long"),
        ("nul\0.mp4", "not a file name"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder.mp4").mkdir()
    with pytest.raises(ValueError, match="output: got ") as caught:
        check_output(name)
    assert words in one_sentence(caught)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.mp4"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to any folder")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ValueError, match="cannot be written: Permission denied"):
            check_output(tmp_path / "x.mp4")
    finally:
        tmp_path.chmod(0o700)


def test_a_file_system_that_takes_no_files_is_refused() -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("needs /proc")
    with pytest.raises(ValueError, match="cannot be written"):
        check_output("/proc/x.mp4")


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packdit.runtime.media.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package av, which is not installed"):
        check_output(tmp_path / "x.mp4")
    with pytest.raises(ValueError, match="needs the package pillow"):
        check_output(tmp_path / "x.gif")


def test_check_output_leaves_nothing_and_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"old")
    assert check_output(str(tmp_path / "x.mp4")) == tmp_path / "x.mp4"
    assert os.listdir(tmp_path) == ["x.mp4"]
    assert (tmp_path / "x.mp4").read_bytes() == b"old"


def test_pictures_of_every_kind(tmp_path: Path) -> None:
    corner = np.zeros((4, 6, 3), np.uint8)
    corner[0, 0] = 200
    exif = Image.Exif()
    exif[274] = 6  # to be turned a quarter clockwise
    Image.fromarray(corner).save(tmp_path / "turned.png", exif=exif)
    turned = read_image(tmp_path / "turned.png")
    assert turned.shape == (1, 6, 4, 3)
    assert (turned[0, 0, 3] == 200).all()

    clear = np.zeros((4, 6, 4), np.uint8)
    clear[0, 0] = (10, 20, 30, 255)
    Image.fromarray(clear).save(tmp_path / "clear.png")
    on_white = read_image(tmp_path / "clear.png")[0]
    assert on_white[0, 0].tolist() == [10, 20, 30]
    assert (on_white[1:] == 255).all()

    Image.fromarray(np.full((4, 6), 0x80FF, np.uint16)).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png") == 0x80).all()
    Image.new("L", (6, 4), 77).save(tmp_path / "gray.jpg")
    assert (read_image(tmp_path / "gray.jpg") == 77).all()


def test_a_video_is_turned_as_its_metadata_says(tmp_path: Path) -> None:
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:8, :8] = 255
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(90)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    got = read_video(tmp_path / "turned.mp4")[0]
    assert got.shape == (1, 64, 32, 3)
    assert error(got[0], np.rot90(frame).astype(np.uint8)) < 3


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_reading_stops_at_max_frames(tmp_path: Path, suffix: str) -> None:
    write_frames(tmp_path / f"clip{suffix}", clip(), 10)
    whole, rate = read_video(tmp_path / f"clip{suffix}")
    some, same_rate = read_video(tmp_path / f"clip{suffix}", max_frames=4)
    assert np.array_equal(some, whole[:4])
    assert same_rate == rate == 10


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp", ".png"])
def test_unreadable_files_are_one_sentence(tmp_path: Path, suffix: str) -> None:
    read = read_image if suffix == ".png" else read_video
    path = tmp_path / f"clip{suffix}"
    with pytest.raises(ValueError, match="which does not exist") as caught:
        read(path)
    one_sentence(caught)
    for content in (b"", b"no picture at all" * 20):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="which cannot be read as one: ") as caught:
            read(path)
        one_sentence(caught)
    write_frames(path, clip(), 8)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(ValueError, match="which cannot be read as one: ") as caught:
        read(path)
    one_sentence(caught)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match="which cannot be read as one: Is a directory") as caught:
        read(path)
    one_sentence(caught)
