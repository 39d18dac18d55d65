"""Frames that are given as channels beside the latents. (Frames that are given as tokens: test_sample.py.)"""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from packdit.runtime import Condition
from packdit.runtime.conditions import clip_channels, first_channels
from packdit.runtime.request import CompleteRequest

FRAMES = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), np.uint8)


def asked(*conditions: Condition) -> CompleteRequest:
    return CompleteRequest(
        width=48, height=32, frames=9, fps=8, steps=2, guidance=1, sampler="euler", conditions=conditions
    )


def pixels(frames: np.ndarray) -> Tensor:
    return torch.tensor(frames).permute(3, 0, 1, 2).float() / 127.5 - 1


def test_a_clip_given_in_part_is_gray_elsewhere(runtime: SimpleNamespace) -> None:
    channels = clip_channels(asked(Condition(FRAMES[:1]), Condition(FRAMES[1:], 6)), runtime.vae)
    assert channels.shape == (4 + 4, 3, 4, 6)
    assert channels[:4, :, 0, 0].tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 1], [1, 0, 1]]
    assert (channels[:4] == channels[:4, :, :1, :1]).all()
    video = torch.zeros(3, 9, 32, 48)
    video[:, :1], video[:, 6:9] = pixels(FRAMES[:1]), pixels(FRAMES[1:])
    assert torch.equal(channels[4:], runtime.vae.normalize(runtime.vae.encode(video)))


def test_the_first_picture_alone(runtime: SimpleNamespace) -> None:
    channels = first_channels(asked(Condition(FRAMES[:1])), (3, 4, 6), runtime.vae)
    assert torch.equal(channels[:, :1], runtime.vae.normalize(runtime.vae.encode(pixels(FRAMES[:1]))))
    assert not channels[:, 1:].any()
