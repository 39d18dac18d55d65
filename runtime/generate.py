"""What `packdit generate` does: checks everything that was asked for, makes it in one packed run, writes the files."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .bundle import Bundle
from .errors import Failure
from .media import check_output, read_image, read_video
from .progress import Progress, say
from .request import CompleteRequest, Condition, Limits, Request, quote

if TYPE_CHECKING:
    from .job import Job

LAST = "last"
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command, as they were typed. None: not given."""

    prompts: list[str]
    model: str
    size: str | None
    frames: int | None
    seconds: float | None
    fps: float | None
    steps: int | None
    guidance: float | None
    negative: str
    seed: int
    sampler: str | None
    image: list[str] | None
    video: str | None
    strength: float | None
    backend: str
    out: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request, possible as it stands, and the file that it becomes."""

    request: CompleteRequest
    path: Path


def run(options: Options) -> None:
    """Makes and writes everything. ValueError for a user's mistake, before any work."""
    started = time.monotonic()
    tasks, bundle = plan_tasks(options)
    with Progress([task.request for task in tasks]) as progress:
        from .engine import Engine  # here torch is loaded

        with Engine.load(bundle, backend=options.backend) as engine:
            jobs = engine.submit_all([task.request for task in tasks])
            _write_all(jobs, [task.path for task in tasks], progress)
            steps = engine.stats()["steps"]
    files = "1 file" if len(tasks) == 1 else f"{len(tasks)} files"
    say(f"Done in {time.monotonic() - started:.1f} s: {files}, {steps} packed steps.", sys.stderr)


def plan_tasks(options: Options) -> tuple[list[Task], Bundle]:
    """Checks in the order of what it costs: what was typed, the files, the bundle, and what its model can do."""
    requests = typed_requests(options)
    outputs = [check_output(path) for path in numbered(options.out, len(requests))] if options.out else []
    pictures = [
        (image, read_image(path), frame) for image in options.image or () for path, frame in [split_image(image)]
    ]
    if options.video and not Path(options.video).is_file():
        raise ValueError(f"video: got {quote(options.video)}, which does not exist or is no file")
    bundle = Bundle.open(options.model)
    limits = bundle.limits
    if options.seconds is not None:
        frames = frames_of(options.seconds, options.fps or limits.fps, limits)
        requests = [replace(request, frames=frames) for request in requests]
    _, _, count = limits.size(requests[0])  # all are of one
    conditions = []
    if options.video:
        conditions.append(Condition(read_video(options.video, max_frames=count)[0]))
    conditions += [Condition(pixels, frame_index(frame, count, image)) for image, pixels, frame in pictures]
    complete = [limits.complete(replace(request, conditions=tuple(conditions))) for request in requests]
    paths = outputs or named_after(complete)
    return [Task(request=request, path=path) for request, path in zip(complete, paths, strict=True)], bundle


def typed_requests(options: Options) -> list[Request]:
    """A request a prompt, without what needs files or the model."""
    if options.frames is not None and options.seconds is not None:
        raise ValueError("give --frames or --seconds, not both")
    if options.seconds is not None and not 0 < options.seconds <= 100_000:
        raise ValueError(f"seconds must be a number above 0, 100000 at most, got {options.seconds}")
    if options.strength is not None and not (options.image or options.video):
        raise ValueError("--strength says how closely to keep --image or --video, and neither is given")
    width, height = parse_size(options.size) if options.size is not None else (None, None)
    return [
        Request(
            prompt=prompt,
            negative_prompt=options.negative,
            width=width,
            height=height,
            frames=options.frames,
            fps=options.fps,
            steps=options.steps,
            guidance=options.guidance,
            seed=options.seed + i,
            sampler=options.sampler,
            strength=1.0 if options.strength is None else options.strength,
        )
        for i, prompt in enumerate(options.prompts)
    ]


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "96x64"."""
    match = re.fullmatch(r"\s*(\d{1,9})\s*[xX×]\s*(\d{1,9})\s*", text)
    if not match:
        raise ValueError(f"size must be the width and height in pixels, such as 96x64, got {quote(text)}")
    return int(match[1]), int(match[2])


def split_image(text: str) -> tuple[str, str]:
    """The file and the frame of FILE[@FRAME]; a file whose own name ends in @FRAME is taken whole."""
    path, mark, frame = text.rpartition("@")
    if not mark or not re.fullmatch(rf"-?\d{{1,9}}|{LAST}", frame) or Path(text).is_file():
        return text, "0"
    return path, frame


def frame_index(frame: str, frames: int, image: str) -> int:
    """The frame that is meant: negative ones and "last" count from the end."""
    index = frames - 1 if frame == LAST else int(frame)
    if not -frames <= index < frames:
        raise ValueError(
            f"image {quote(image)} names frame {frame} of {frames}: allowed are 0 to {frames - 1}, "
            f"and from the end -{frames} to -1 or {LAST}"
        )
    return index % frames


def frames_of(seconds: float, fps: float, limits: Limits) -> int:
    """The number of frames that the model can do, nearest to this duration."""
    frames, most = seconds * fps, limits.nearest_frames(limits.max_frames)
    if frames > most + limits.frame_step:
        raise ValueError(
            f"this model makes {most} frames at most, which is {most / fps:.4g} s at {fps:g} frames a second; "
            f"got {seconds:g} s"
        )
    return limits.nearest_frames(frames)


def numbered(out: str, count: int) -> list[Path]:
    """`out`, or for several files out-1, out-2 ... with its suffix."""
    path = Path(out)
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{i}{path.suffix}") for i in range(1, count + 1)]


def named_after(requests: Iterable[CompleteRequest]) -> list[Path]:
    """Names of new files in the current directory: a-red-circle.mp4, or .png for one frame; nothing is replaced."""
    paths: list[Path] = []
    for request in requests:
        words = re.sub(r"[\W_]+", "-", request.prompt.lower())[:60].strip("-")
        stem, suffix = words or "untitled", ".png" if request.frames == 1 else ".mp4"
        path, number = Path(stem + suffix), 1
        while path in paths or path.exists():
            number += 1
            path = Path(f"{stem}-{number}{suffix}")
        paths.append(check_output(path))
    return paths


def _write_all(jobs: Sequence[Job], paths: Sequence[Path], progress: Progress) -> None:
    """Writes each file as soon as its job is finished, and says so on stdout."""
    started = time.monotonic()
    waiting = dict(zip(jobs, paths, strict=True))
    while waiting:
        progress.show(jobs, len(jobs) - len(waiting))
        next(iter(waiting)).wait(POLL_SECONDS)
        for job in [job for job in waiting if job.finished]:
            progress.show(jobs, len(jobs) - len(waiting))
            path = waiting[job]
            _write(job, path)
            del waiting[job]
            request = job.request
            length = "1 frame" if request.frames == 1 else f"{request.frames} frames at {request.fps:g} a second"
            say(
                f"{path}: {request.width}x{request.height}, {length}, made in {time.monotonic() - started:.1f} s",
                sys.stdout,
            )
    progress.show(jobs, len(jobs))


def _write(job: Job, path: Path) -> None:
    if job.error is not None:  # not the user's mistake: those were found before
        raise RuntimeError(f"{path} could not be made") from job.error
    video = job.result()
    try:
        video.save(path)
    except OSError as error:
        raise Failure(f"{quote(str(path))} could not be written: {error.strerror or error}") from error
