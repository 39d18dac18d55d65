"""LTX-Video's VAE, streaming, against diffusers' own with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLLTXVideo

from packdit.export.families import ltx_vae
from packdit.export.testing import LIMIT, error, randomize
from packdit.export.vae_testing import (
    check_converted_vae,
    check_published_vae,
    check_vae,
    random_latent,
    random_video,
    streaming,
    whole,
)
from packdit.runtime.models.ltx_vae import LTXVAE
from packdit.runtime.models.vae import END

SMALL: dict[str, Any] = {
    "latent_channels": 5,
    "block_out_channels": [6, 10, 14, 14],
    "decoder_block_out_channels": [6, 10, 14, 14],
    "layers_per_block": [2, 1, 1, 1, 1],
    "decoder_layers_per_block": [1, 1, 1, 2, 1],
    "patch_size": 2,
}
LATER: dict[str, Any] = {
    "decoder_block_out_channels": [8, 16, 32],
    "decoder_layers_per_block": [1, 2, 1, 2],
    "decoder_spatio_temporal_scaling": [True] * 3,
    "upsample_residual": [True] * 3,
    "upsample_factor": [2] * 3,
    "timestep_conditioning": True,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "0.9.0": {},
    "0.9.0, causal": {"decoder_causal": True},
    "0.9.1": {**LATER, "decoder_inject_noise": [False, True, True, True]},
    "0.9.5": {
        **LATER,
        "block_out_channels": [6, 12, 24, 24, 48],
        "down_block_types": ["LTXVideo095DownBlock3D"] * 4,
        "layers_per_block": [1, 2, 1, 1, 1],
        "spatio_temporal_scaling": [True] * 4,
        "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
        "decoder_inject_noise": [False] * 4,
        "spatial_compression_ratio": 16,
        "temporal_compression_ratio": 8,
    },
}


def reference(name: str) -> Any:
    model = randomize(AutoencoderKLLTXVideo(**{**SMALL, **CONFIGS[name]}), seed=len(name))
    model.latents_mean.copy_(torch.linspace(-1, 1, 5))
    model.latents_std.copy_(torch.linspace(0.5, 2, 5))
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_diffusers(name: str) -> None:
    latents = [(1, 1, 2), (5, 2, 1), (2, 2, 2)]
    check_vae(reference(name), ltx_vae, latents, videos=[(1, 16, 32), (17, 32, 16)])


@pytest.mark.parametrize("name", ["0.9.1", "0.9.5"])
def test_the_timestep_is_diffusers(name: str) -> None:
    model, latent = reference(name), random_latent(5, (3, 2, 1))
    torch.manual_seed(7)
    with torch.inference_mode():
        want = model.decode(latent[None], torch.tensor([0.05])).sample[0]
    assert error([streaming(model, ltx_vae).decode(latent, timestep=0.05, seed=7)], [want]) <= LIMIT


@pytest.mark.parametrize("name", CONFIGS)
def test_chunks_are_the_whole_clip(name: str) -> None:
    vae = streaming(reference(name), ltx_vae)
    latent, video = random_latent(5, (6, 2, 1)), random_video((17, 16, 16))
    assert torch.equal(vae.decode(latent), whole(vae.model.decoder, latent, {**vae.model.begin(), END: True}))
    assert torch.equal(vae.encode(video), whole(vae.model.encoder, video, {})[:5])


def test_frames_come_out_as_soon_as_they_are_known() -> None:
    lengths = [len(chunk) for chunk in streaming(reference("0.9.0"), ltx_vae).stream(random_latent(5, (30, 1, 1)))]
    assert sum(lengths) == 1 + 8 * 29
    first = next(i for i, length in enumerate(lengths) if length)
    assert 5 < first < 15
    assert lengths[first + 1 : -1] == [8] * (28 - first)
    causal = streaming(reference("0.9.0, causal"), ltx_vae)
    assert [len(chunk) for chunk in causal.stream(random_latent(5, (3, 1, 1)))] == [1, 8, 8]


def test_it_is_converted_and_normalized(tmp_path: Path) -> None:
    model = reference("0.9.1")
    check_converted_vae(model, ltx_vae, (2, 1, 2), tmp_path)
    vae, latent = streaming(model, ltx_vae), random_latent(5, (2, 2, 2))
    mean, std = (s[:, None, None, None] for s in (model.latents_mean, model.latents_std))
    torch.testing.assert_close(vae.normalize(latent), (latent - mean) / std)
    torch.testing.assert_close(vae.denormalize(latent), latent * std + mean)


def test_what_it_cannot_do() -> None:
    for broken, message in (
        ({"encoder_causal": False}, "encoder_causal is False; allowed: True"),
        ({"patch_size_t": 2}, "patch_size_t is 2; allowed: 1"),
        ({"down_block_types": ["LTXVideoDownBlock3D"] * 3 + ["Other"]}, "down_block_types is .*; allowed: all"),
        ({"timestep_conditioning": True}, "timestep_conditioning is True; allowed"),
    ):
        with pytest.raises(ValueError, match=message):
            LTXVAE({**SMALL, **broken})
    with pytest.raises(ValueError, match=r"this VAE takes no timestep, got 0\.05"):
        LTXVAE(SMALL).begin(timestep=0.05)


WIDE = {**LATER, "decoder_block_out_channels": [256, 512, 1024]}
PUBLISHED = {
    "0.9.0": ({}, 419_193_649),
    "0.9.1": (
        {**WIDE, "decoder_layers_per_block": [5, 6, 7, 8], "decoder_inject_noise": [False, True, True, True]},
        934_991_538,
    ),
    "0.9.5 to 0.9.8": (
        {
            **WIDE,
            "decoder_layers_per_block": [5, 5, 5, 5],
            "block_out_channels": [128, 256, 512, 1024, 2048],
            "down_block_types": ["LTXVideo095DownBlock3D"] * 4,
            "layers_per_block": [4, 6, 6, 2, 2],
            "spatio_temporal_scaling": [True] * 4,
            "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
            "decoder_inject_noise": [False] * 4,
        },
        1_246_913_522,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    check_published_vae(AutoencoderKLLTXVideo, PUBLISHED[name][0], ltx_vae, PUBLISHED[name][1])
