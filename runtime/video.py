"""The result of a request."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .media import write_frames


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """Frames uint8 ``[n, height, width, 3]``, RGB, n >= 1 (an image is one frame), shown at fps frames a second.

    ValueError for frames of another shape or type, and for an fps that is not between 0.01 and 1000.
    """

    frames: NDArray[np.uint8]
    fps: float

    def __post_init__(self) -> None:
        shape, dtype = self.frames.shape, self.frames.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise ValueError(f"frames: got {dtype} {list(shape)}, allowed is uint8 [n, height, width, 3], not empty")
        if not (math.isfinite(self.fps) and 0.01 <= self.fps <= 1000):
            raise ValueError(f"fps: got {self.fps}, allowed is 0.01 to 1000")

    def save(self, path: str | Path) -> None:
        """Write .mp4, .gif, .webp or .png (see `media.write_frames`); ValueError if that cannot be done there."""
        write_frames(path, self.frames, self.fps)
