"""CogVideoX's VAE, streaming, against diffusers' own with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from packdit.export.families import cogvideox_vae
from packdit.export.testing import randomize
from packdit.export.vae_testing import (
    check_converted_vae,
    check_published_vae,
    check_vae,
    random_latent,
    random_video,
    streaming,
)
from packdit.runtime.models.cogvideox_vae import CogVideoXVAE


def blocks(count: int) -> dict[str, Any]:
    types = {"down_block_types": "CogVideoXDownBlock3D", "up_block_types": "CogVideoXUpBlock3D"}
    return {name: [block] * count for name, block in types.items()}


SMALL = {"block_out_channels": [6, 9, 9, 12], "norm_num_groups": 3, "layers_per_block": 1, "latent_channels": 5}
CONFIGS: dict[str, dict[str, Any]] = {
    "four stages": {},
    "three stages": {**blocks(3), "block_out_channels": [6, 12, 6], "layers_per_block": 2, "norm_eps": 1e-3},
    "two frames of one": {**blocks(3), "block_out_channels": [6, 6, 9], "temporal_compression_ratio": 2},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_diffusers(name: str) -> None:
    reference = randomize(AutoencoderKLCogVideoX(**{**SMALL, **CONFIGS[name]}), seed=len(name))
    videos = [(1, 16, 8), (5, 8, 16), (17, 8, 8)]
    check_vae(reference, cogvideox_vae, latents=[(1, 2, 3), (2, 2, 1), (5, 1, 2), (6, 2, 1)], videos=videos)


def test_chunks_are_of_two_latents() -> None:
    vae = streaming(randomize(AutoencoderKLCogVideoX(**SMALL), seed=0), cogvideox_vae)
    assert [len(chunk) for chunk in vae.stream(random_latent(5, (5, 1, 1)))] == [9, 8]
    assert [len(chunk) for chunk in vae.stream(random_latent(5, (1, 1, 1)))] == [1]
    assert vae.encode(random_video((9, 8, 8))).shape == (5, 3, 1, 1)
    assert vae.latent_grid(16, 8, 49) == (13, 1, 2)


def test_it_is_converted(tmp_path: Path) -> None:
    check_converted_vae(randomize(AutoencoderKLCogVideoX(**SMALL), seed=1), cogvideox_vae, (3, 2, 1), tmp_path)


@pytest.mark.parametrize("inverts", [False, True])
def test_scaling(inverts: bool) -> None:
    model = randomize(AutoencoderKLCogVideoX(**SMALL, scaling_factor=0.7, invert_scale_latents=inverts), seed=0)
    vae, latent = streaming(model, cogvideox_vae), random_latent(5, (1, 2, 2))
    torch.testing.assert_close(vae.normalize(latent), latent / 0.7 if inverts else latent * 0.7)
    torch.testing.assert_close(vae.denormalize(latent), latent / 0.7)


def test_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="use_quant_conv is True; allowed: False"):
        CogVideoXVAE({**SMALL, "use_quant_conv": True})
    with pytest.raises(ValueError, match=r"up_block_types is .*; allowed: CogVideoXUpBlock3D for each"):
        CogVideoXVAE({**SMALL, "up_block_types": ["UpDecoderBlock2D"] * 4})


def test_published_size() -> None:
    check_published_vae(AutoencoderKLCogVideoX, {}, cogvideox_vae, 215_583_907)
