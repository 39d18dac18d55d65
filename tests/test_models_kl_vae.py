"""The VAE of image models against diffusers' own with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from packdit.export.families import kl_vae
from packdit.export.testing import randomize
from packdit.export.vae_testing import check_converted_vae, check_published_vae, check_vae, random_latent, streaming
from packdit.runtime.models.kl_vae import ImageVAE


def blocks(count: int) -> dict[str, Any]:
    return {"down_block_types": ["DownEncoderBlock2D"] * count, "up_block_types": ["UpDecoderBlock2D"] * count}


SMALL = {**blocks(3), "block_out_channels": [6, 12, 18], "norm_num_groups": 3, "layers_per_block": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "Stable Diffusion": {},
    "SD3": {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 5, "shift_factor": 0.06},
    "no attention": {
        "mid_block_add_attention": False,
        **blocks(2),
        "block_out_channels": [9, 9],
        "layers_per_block": 1,
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_diffusers(name: str) -> None:
    reference = randomize(AutoencoderKL(**{**SMALL, **CONFIGS[name]}), seed=len(name))
    check_vae(reference, kl_vae, latents=[(1, 3, 5), (3, 4, 2)], videos=[(1, 12, 8), (2, 8, 20)])


def test_it_is_converted(tmp_path: Path) -> None:
    check_converted_vae(randomize(AutoencoderKL(**SMALL), seed=1), kl_vae, (2, 3, 2), tmp_path)


def test_scaling() -> None:
    config = {**SMALL, "scaling_factor": 1.5305, "shift_factor": 0.0609}
    vae = streaming(randomize(AutoencoderKL(**config), seed=0), kl_vae)
    latent = random_latent(4, (1, 2, 2))
    torch.testing.assert_close(vae.normalize(latent), (latent - 0.0609) * 1.5305)
    torch.testing.assert_close(vae.denormalize(latent), latent / 1.5305 + 0.0609)
    statistics = {"latents_mean": [1.0, 2, 3, 4], "latents_std": [0.5, 1, 2, 4]}
    mean, std = ImageVAE(config).normalization({**config, **statistics})
    assert mean.tolist() == [1, 2, 3, 4]
    torch.testing.assert_close(std, torch.tensor([0.5, 1, 2, 4]) / 1.5305)
    with pytest.raises(ValueError, match="scaling_factor must be a number, got None"):
        ImageVAE(config).normalization({})


def test_what_it_cannot_do() -> None:
    for broken, message in (
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 3}, "down_block_types is .*allowed: DownEncoderBlock2D for"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 2}, "up_block_types is .*; allowed: UpDecoderBlock2D for each"),
        ({"act_fn": "relu"}, "act_fn is 'relu'; allowed: silu"),
    ):
        with pytest.raises(ValueError, match=message):
            ImageVAE({**SMALL, **broken})


WIDE = {**blocks(4), "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
PUBLISHED = {
    "Stable Diffusion, DiT, Latte": (WIDE, 83_653_863),
    "SD3, Flux": ({**WIDE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}, 83_819_683),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    check_published_vae(AutoencoderKL, PUBLISHED[name][0], kl_vae, PUBLISHED[name][1])
