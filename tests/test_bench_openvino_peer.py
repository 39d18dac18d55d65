import warnings

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("openvino")

from packdit.bench.openvino_peer import OneClip, converted


def one(model: nn.Module, *, latents: Tensor, timesteps: float) -> Tensor:
    out: Tensor = model(latents) * timesteps
    return out


def test_numbers_are_constants_and_equal_clips_share_a_network() -> None:
    model = nn.Linear(4, 4)
    clips = [{"latents": torch.randn(n, 4), "timesteps": t} for n, t in ((2, 1.0), (3, 1.0), (2, 1.0), (2, 2.0))]
    assert OneClip(model, one, clips[0]).numbers == {"timesteps": 1.0}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the packages that it imports
        run = converted(model, one, clips)
        for got, clip in zip(run(), clips, strict=True):
            assert torch.allclose(got, one(model, **clip), atol=1e-5)
            assert got.shape == clip["latents"].shape
