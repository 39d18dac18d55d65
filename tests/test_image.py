"""Given pictures as CLIP sees them, against transformers' own image processor and model."""

from typing import Any

import numpy as np
import pytest
import torch

from packdit.export import encoder_testing as small
from packdit.runtime.image import ImageEncoder, Showing

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def model() -> Any:
    return small.clip_vision_encoder()


@pytest.mark.parametrize("shape", [(48, 64, 3), (70, 33, 3), (28, 28, 3), (13, 101, 3)])
def test_states_are_transformers(model: Any, shape: tuple[int, int, int]) -> None:
    from transformers import CLIPImageProcessor

    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    pixels = processor(images=picture, return_tensors="pt").pixel_values
    encoder = ImageEncoder(model, Showing(side=28, crop=(28, 28), mean=MEAN, std=STD))
    torch.testing.assert_close(encoder.pixels(picture)[None], pixels, rtol=1e-5, atol=1e-5)
    want = model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][0]
    torch.testing.assert_close(encoder(picture), want, rtol=1e-4, atol=1e-5)


def test_bits_do_not_depend_on_threads(model: Any) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    encoder, before = ImageEncoder(model, Showing(side=28, crop=(28, 28), mean=MEAN, std=STD)), torch.get_num_threads()
    states = encoder(picture)
    try:
        torch.set_num_threads(2 if before == 1 else 1)
        assert torch.equal(encoder(picture), states)
    finally:
        torch.set_num_threads(before)
