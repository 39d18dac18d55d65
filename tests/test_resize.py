"""Scaling pictures to a size: they cover it, and nothing is distorted."""

import numpy as np
import pytest

from packdit.runtime.media import resize

pytest.importorskip("PIL.Image")

BLUE = (40, 80, 230)


def test_resize_covers_and_cuts_alike_on_both_sides() -> None:
    frames = np.zeros((2, 40, 80, 3), np.uint8)
    frames[:, :, 20:60] = 200
    assert resize(frames, 80, 40) is frames
    assert (resize(frames, 40, 40) == 200).all()
    tall = resize(frames, 30, 90)
    assert tall.shape == (2, 90, 30, 3)
    assert (tall == 200).all()
    wide = resize(frames, 160, 40)
    assert np.array_equal(wide, wide[:, :, ::-1])
    assert (wide[:, :, 50:110] == 200).all()
    assert not wide[:, :, :30].any()


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (47, 33), (1000, 3), (3, 1000)])
def test_resize_to_any_size_keeps_a_flat_picture_flat(size: tuple[int, int]) -> None:
    flat = np.full((1, 37, 53, 3), BLUE, np.uint8)
    got = resize(flat, *size)
    assert got.shape == (1, size[1], size[0], 3)
    assert (got == BLUE).all()
