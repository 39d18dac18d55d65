"""Stable Diffusion 3's transformer, packed, against diffusers' own with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel

from packdit.export.families.sd3 import entries, peer
from packdit.export.testing import call, check_converted, check_family, check_published, pack, randomize
from packdit.runtime.models.sd3 import SD3Transformer

GRIDS = [(1, 4, 4), (1, 8, 6), (1, 4, 14), (1, 2, 2), (1, 16, 18)]
SMALL = {
    "sample_size": 16,
    "num_layers": 3,
    "attention_head_dim": 12,
    "num_attention_heads": 3,
    "in_channels": 4,
    "out_channels": 4,
    "caption_projection_dim": 36,
    "joint_attention_dim": 22,
    "pooled_projection_dim": 26,
    "pos_embed_max_size": 9,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "3 medium": {},
    "3.5 large": {"qk_norm": "rms_norm"},
    "3.5 medium": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
    "dual without norms, to the end": {"dual_attention_layers": (1, 2)},
    "one block": {"num_layers": 1, "pos_embed_max_size": 12},
    "another patch": {"patch_size": 1, "out_channels": 3, "pos_embed_max_size": 18, "num_layers": 2},
}


def clips_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    return [
        {
            "latents": torch.randn(config["in_channels"], *grid, generator=generator),
            "timesteps": [1000.0, 3.0, 511.5, 0.0, 875.25][i],
            "text": torch.randn(3 + 5 * i, config["joint_attention_dim"], generator=generator),
            "pooled": torch.randn(config["pooled_projection_dim"], generator=generator),
        }
        for i, grid in enumerate(GRIDS)
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_packed_model_is_diffusers(name: str) -> None:
    config = {**SMALL, **CONFIGS[name]}
    reference = randomize(SD3Transformer2DModel(**config), seed=len(name))
    check_family(reference, entries(dict(reference.config)), peer, clips_of(config))


def test_a_saved_model_converts(tmp_path: Path) -> None:
    config = {**SMALL, **CONFIGS["3.5 medium"]}
    reference = randomize(SD3Transformer2DModel(**config), seed=6)
    check_converted(reference, entries(dict(reference.config)), clips_of(config)[:2], tmp_path)


MEDIUM = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
LARGE = {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"}
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {  # the positions are no parameters of diffusers' class
    "3 medium": ({**MEDIUM, "pos_embed_max_size": 192}, 2_028_328_000 + 192**2 * 1536),
    "3.5 medium": (
        {**MEDIUM, "pos_embed_max_size": 384, "qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13))},
        2_243_171_520 + 384**2 * 1536,
    ),
    "3.5 large": ({**LARGE, "pos_embed_max_size": 192}, 8_056_627_520 + 192**2 * 2432),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name: str) -> None:
    config, count = PUBLISHED[name]
    check_published(SD3Transformer2DModel, config, entries, count)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"qk_norm": "layer_norm"}, "qk_norm must be rms_norm or null, got 'layer_norm'"),
        ({"caption_projection_dim": 30}, "caption_projection_dim must be the width 36, got 30"),
    ],
)
def test_what_no_checkpoint_has_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SD3Transformer({**SMALL, "patch_size": 2, **change})


@pytest.mark.parametrize("grid", [(2, 4, 4), (1, 20, 4), (1, 4, 20)])
def test_grids_without_positions_are_refused(grid: tuple[int, int, int]) -> None:
    reference = randomize(SD3Transformer2DModel(**SMALL), seed=4)
    clip = {**clips_of(SMALL)[0], "latents": torch.zeros(4, *grid)}
    with pytest.raises(ValueError, match="images of at most 9 tokens a side, got"):
        call(pack(reference, entries(dict(reference.config))), [clip])
