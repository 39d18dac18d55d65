"""Tiles cover a frame, overlap, and blend to what is there where they agree."""

from itertools import pairwise

import pytest
import torch

from packdit.runtime.tiles import Tiles, blending, spans


@pytest.mark.parametrize("side", [2, 3, 4, 8, 13])
@pytest.mark.parametrize("size", [1, 2, 5, 8, 13, 14, 100])
def test_spans_cover_and_overlap(size: int, side: int) -> None:
    found = spans(size, side)
    assert found[0].start == 0
    assert found[-1].stop == size
    assert {place.stop - place.start for place in found} == {min(size, side)}
    for before, after in pairwise(found):
        assert before.start < after.start <= before.stop - max(side // 4, 1)


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize(("size", "side"), [(5, 8), (9, 8), (14, 8), (100, 9)])
def test_weights_of_a_pixel_are_one_together(size: int, side: int, scale: int) -> None:
    places = spans(size, side)
    total = torch.zeros(size * scale)
    for place, weight in zip(places, blending(places, scale), strict=True):
        assert (weight > 0).all()
        total[place.start * scale : place.stop * scale] += weight
    torch.testing.assert_close(total, torch.ones(size * scale))


@pytest.mark.parametrize(("reads", "writes"), [(1, 2), (2, 1)])
def test_tiles_that_agree_give_the_frame(reads: int, writes: int) -> None:
    tiles = Tiles.of(7, 12, 4)
    frames, total = torch.randn(2, 3, 7 * reads, 12 * reads), None

    def scale(x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3) if writes > reads else x[:, :, ::2, ::2]

    for number, place in enumerate(tiles.places):
        part = scale(tiles.crop(place, frames, reads))
        assert part.shape == (2, 3, 4 * writes, 4 * writes)
        total = tiles.add(total, number, part.permute(1, 2, 3, 0), writes)
    assert total is not None
    torch.testing.assert_close(total, scale(frames).permute(1, 2, 3, 0))


def test_a_small_frame_is_one_tile() -> None:
    assert Tiles.of(3, 4, 8).places == [(slice(0, 3), slice(0, 4))]
    with pytest.raises(ValueError, match="a tile must have sides of at least 2 latents, got 1"):
        Tiles.of(3, 4, 1)
