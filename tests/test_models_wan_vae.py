"""Wan's VAE, streaming, against diffusers' own with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan

from packdit.export.families import wan_vae
from packdit.export.testing import randomize
from packdit.export.vae_testing import (
    check_converted_vae,
    check_published_vae,
    check_vae,
    random_latent,
    random_video,
    streaming,
    whole,
)
from packdit.runtime.models.wan_vae import WanVAE
from packdit.runtime.vae import StreamingVAE

SMALL = {"base_dim": 6, "z_dim": 3, "latents_mean": [0.1, -0.2, 0.3], "latents_std": [1.0, 0.5, 2.0]}
RESIDUAL = {
    "base_dim": 6,
    "decoder_base_dim": 10,
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "temperal_downsample": [False, True, True],
}
CONFIGS: dict[str, dict[str, Any]] = {
    "2.1": {},
    "2.1, frames first": {"temperal_downsample": [True, True, False], "num_res_blocks": 1, "dim_mult": [1, 3, 3, 2]},
    "2.2": RESIDUAL,
    "2.2, one block": {**RESIDUAL, "num_res_blocks": 1, "temperal_downsample": [True, True, False]},
}


def reference(name: str) -> Any:
    return randomize(AutoencoderKLWan(**{**SMALL, **CONFIGS[name]}), seed=len(name))


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_diffusers(name: str) -> None:
    side = 16 if "2.2" in name else 8
    videos = [(1, 2 * side, side), (9, side, 2 * side)]
    check_vae(reference(name), wan_vae, latents=[(1, 2, 3), (4, 3, 2)], videos=videos)


def test_it_is_converted(tmp_path: Path) -> None:
    check_converted_vae(reference("2.2"), wan_vae, (2, 2, 3), tmp_path)


@pytest.fixture(scope="module", params=["2.1", "2.2"])
def vae(request: pytest.FixtureRequest) -> StreamingVAE:
    return streaming(reference(request.param), wan_vae)


def test_chunks_are_the_whole_clip(vae: StreamingVAE) -> None:
    latent, video = random_latent(3, (4, 2, 3)), random_video((13, 32, 16))
    assert torch.equal(vae.decode(latent), whole(vae.model.decoder, latent, {}))
    assert torch.equal(vae.encode(video), whole(vae.model.encoder, video, {})[:3])


def test_sizes_and_normalization(vae: StreamingVAE) -> None:
    assert [len(chunk) for chunk in vae.stream(random_latent(3, (3, 2, 2)))] == [1, 4, 4]
    latent = random_latent(3, (2, 2, 2))
    mean, std = (torch.tensor(SMALL[name])[:, None, None, None] for name in ("latents_mean", "latents_std"))
    torch.testing.assert_close(vae.normalize(latent), (latent - mean) / std)
    torch.testing.assert_close(vae.denormalize(vae.normalize(latent)), latent)


def test_attention_scales_are_refused() -> None:
    with pytest.raises(ValueError, match=r"attn_scales is \[1.0\]; allowed: none"):
        WanVAE({**SMALL, "attn_scales": [1.0]})


PUBLISHED = {
    "2.1": ({}, 126_892_531),
    "2.2": (
        {
            "base_dim": 160,
            "decoder_base_dim": 256,
            "z_dim": 48,
            "is_residual": True,
            "patch_size": 2,
            "in_channels": 12,
            "out_channels": 12,
            "scale_factor_spatial": 16,
            "latents_mean": [0.0] * 48,
            "latents_std": [1.0] * 48,
        },
        704_688_668,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    check_published_vae(AutoencoderKLWan, PUBLISHED[name][0], wan_vae, PUBLISHED[name][1])
