"""A given picture to an image encoder's states: transformers' own CLIP, one picture at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .bundle import Bundle
from .text import load_encoder
from .threads import one_thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """How a pipeline shows a picture to its encoder, as a bundle's `prompt` says it.

    Scaled so that the shorter side has `side` pixels, cropped to `crop` (width, height) at the centre, normalized with
    `mean` and `std`. layer: the index of the hidden states that are taken.
    """

    component: str = "image_encoder"
    side: int
    crop: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layer: int = -2


class ImageEncoder:
    """Encodes one picture at a time and on one thread, so that its bits depend on the picture alone."""

    def __init__(self, model: torch.nn.Module, showing: Showing) -> None:
        self.model, self.showing = model, showing

    def __call__(self, picture: np.ndarray) -> Tensor:
        """uint8 [h, w, 3] -> states [n, D]."""
        parameter = next(self.model.parameters())
        pixels = self.pixels(picture).to(parameter.device, parameter.dtype)
        with torch.inference_mode(), one_thread():
            states: Tensor = self.model(pixel_values=pixels[None], output_hidden_states=True).hidden_states
            return states[self.showing.layer][0].clone()

    def pixels(self, picture: np.ndarray) -> Tensor:
        """The picture as the encoder takes it, float32 [3, height, width]."""
        height, width = picture.shape[:2]
        side, (crop_width, crop_height) = self.showing.side, self.showing.crop
        scaled = [int(side * a / min(width, height)) for a in (width, height)]
        image = Image.fromarray(picture).resize((scaled[0], scaled[1]), Image.Resampling.BICUBIC)
        left, top = (scaled[0] - crop_width) // 2, (scaled[1] - crop_height) // 2
        values = np.asarray(image.crop((left, top, left + crop_width, top + crop_height)), dtype=np.float32) / 255
        normal = (values - np.array(self.showing.mean, np.float32)) / np.array(self.showing.std, np.float32)
        return torch.from_numpy(normal).permute(2, 0, 1).contiguous()


def load_image_encoder(bundle: Bundle, device: torch.device, dtype: torch.dtype, showing: Showing) -> ImageEncoder:
    """The encoder of a bundle that `showing` names."""
    name = showing.component
    weights = {k: v.to(device, dtype) for k, v in bundle.weights(name).items()}
    model, _ = load_encoder(bundle.class_name(name), bundle.config(name), weights, "image encoder")
    return ImageEncoder(model, showing)
