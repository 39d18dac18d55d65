"""HunyuanVideo's VAE, streaming, against diffusers' own with random weights."""

from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderKLHunyuanVideo

from packdit.export.families import hunyuan_video_vae
from packdit.export.testing import randomize
from packdit.export.vae_testing import (
    check_converted_vae,
    check_published_vae,
    check_vae,
    random_latent,
    random_video,
    streaming,
)
from packdit.runtime.models.hunyuan_video_vae import HunyuanVideoVAE


def blocks(count: int) -> dict[str, Any]:
    types = {"down_block_types": "HunyuanVideoDownBlock3D", "up_block_types": "HunyuanVideoUpBlock3D"}
    return {name: [block] * count for name, block in types.items()}


SMALL = {"block_out_channels": [6, 6, 9, 9], "norm_num_groups": 3, "layers_per_block": 1, "latent_channels": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "four stages": {},
    "three stages, no attention": {
        **blocks(3),
        "block_out_channels": [6, 12, 6],
        "spatial_compression_ratio": 4,
        "layers_per_block": 2,
        "mid_block_add_attention": False,
    },
    "time alone": {**blocks(4), "spatial_compression_ratio": 4},
}


def reference(name: str) -> Any:
    return randomize(AutoencoderKLHunyuanVideo(**{**SMALL, **CONFIGS[name]}), seed=len(name))


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_diffusers(name: str) -> None:
    latents, videos = [(1, 2, 3), (4, 1, 2), (5, 2, 1), (8, 1, 1)], [(1, 16, 8), (17, 8, 16), (33, 8, 8)]
    check_vae(reference(name), hunyuan_video_vae, latents=latents, videos=videos)


@pytest.mark.parametrize("latents", range(1, 13))
def test_every_length_comes_out_whole(latents: int) -> None:
    vae = streaming(reference("three stages, no attention"), hunyuan_video_vae)
    frames = 1 + 4 * (latents - 1)
    chunks = [len(chunk) for chunk in vae.stream(random_latent(4, (latents, 1, 1)))]
    assert sum(chunks) == frames
    assert max(chunks) <= 13
    assert vae.encode(random_video((frames, 4, 4))).shape[1] == latents


def test_it_is_converted(tmp_path: Path) -> None:
    check_converted_vae(reference("four stages"), hunyuan_video_vae, (3, 2, 1), tmp_path)


def test_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="temporal_compression_ratio is 8; allowed: 4"):
        HunyuanVideoVAE({**SMALL, "temporal_compression_ratio": 8})


def test_published_size() -> None:
    check_published_vae(AutoencoderKLHunyuanVideo, {}, hunyuan_video_vae, 246_478_803)
