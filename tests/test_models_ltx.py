"""LTX-Video's transformer, packed, against diffusers' own with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LTXVideoTransformer3DModel

from packdit.export.families.ltx import entries, peer
from packdit.export.testing import call, check_converted, check_family, check_published, pack, randomize
from packdit.runtime.models.ltx import LTXTransformer

GRIDS = [(1, 2, 2), (3, 4, 3), (2, 2, 7), (1, 1, 1), (5, 3, 2)]
SMALL = {
    "num_attention_heads": 3,
    "attention_head_dim": 20,
    "cross_attention_dim": 60,
    "in_channels": 5,
    "out_channels": 5,
    "caption_channels": 22,
    "num_layers": 3,
}
CONFIGS = {
    "6 divides the width": {},
    "one block, one head, two still pairs": {
        "num_layers": 1,
        "num_attention_heads": 1,
        "attention_head_dim": 34,
        "cross_attention_dim": 34,
    },
    "one still pair": {"num_attention_heads": 5, "attention_head_dim": 10, "cross_attention_dim": 50, "num_layers": 2},
    "other channels and eps": {"out_channels": 3, "norm_eps": 1e-2, "num_layers": 2},
}


def clips_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    return [
        {
            "latents": torch.randn(config["in_channels"], *grid, generator=generator),
            "timesteps": [1000.0, 3.0, 511.5, 0.0, 875.25][i],
            "text": torch.randn(3 + 5 * i, config["caption_channels"], generator=generator),
            "latent_seconds": 8 / (25, 24, 30, 8, 12.5)[i],
            "latent_pixels": 32,
        }
        for i, grid in enumerate(GRIDS)
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_packed_model_is_diffusers(name: str) -> None:
    config = {**SMALL, **CONFIGS[name]}
    reference = randomize(LTXVideoTransformer3DModel(**config), seed=len(name))
    check_family(reference, entries(dict(reference.config)), peer, clips_of(config))


def test_a_saved_model_converts(tmp_path: Path) -> None:
    reference = randomize(LTXVideoTransformer3DModel(**SMALL), seed=6)
    check_converted(reference, entries(dict(reference.config)), clips_of(SMALL)[:2], tmp_path)


def test_tokens_of_different_timesteps() -> None:
    """As where the first frame is given."""
    reference = randomize(LTXVideoTransformer3DModel(**SMALL), seed=1)
    clips = clips_of(SMALL)
    for clip, grid in zip(clips, GRIDS, strict=True):
        per_token = torch.full(grid, float(clip["timesteps"]))
        per_token[0] = 0
        per_token[-1, 0, 0] = 123.5
        clip["timesteps"] = per_token.flatten()
    check_family(reference, entries(dict(reference.config)), peer, clips)


def test_frames_per_second_and_the_size_of_a_latent_matter() -> None:
    reference = randomize(LTXVideoTransformer3DModel(**SMALL), seed=2)
    packed = pack(reference, entries(dict(reference.config)))
    clip = clips_of(SMALL)[1]
    others = [clip, {**clip, "latent_seconds": 1.0}, {**clip, "latent_pixels": 8}]
    first, *rest = call(packed, others)
    assert all((other - first).abs().max() > 1e-2 for other in rest)


LARGE = {"num_layers": 48, "attention_head_dim": 128, "cross_attention_dim": 4096}
PUBLISHED = {"2B": ({}, 1_923_385_472), "13B": (LARGE, 13_042_569_344)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name: str) -> None:
    config, count = PUBLISHED[name]
    check_published(LTXVideoTransformer3DModel, config, entries, count)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"qk_norm": "layer_norm"}, "qk_norm must be 'rms_norm_across_heads', got 'layer_norm'"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine must be False, got True"),
        ({"patch_size": 2}, "patch_size must be 1, got 2"),
        ({"cross_attention_dim": 64}, "cross_attention_dim must be the width 60, got 64"),
    ],
)
def test_what_no_checkpoint_has_is_refused(change: dict[str, Any], said: str) -> None:
    config = {**LTXVideoTransformer3DModel(**{**SMALL, "num_layers": 1}).config, **change}
    with pytest.raises(ValueError, match=said):
        LTXTransformer(config)
