"""Latte's transformer, packed, against diffusers' own with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LatteTransformer3DModel

from packdit.export.families.latte import entries
from packdit.export.peer import call_transformer
from packdit.export.testing import check_converted, check_family, check_published, randomize
from packdit.runtime.models.latte import LatteTransformer

GRIDS = [(1, 4, 4), (3, 8, 12), (3, 4, 20), (1, 4, 8), (3, 12, 4)]
BLOCKS = {
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 8,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "num_embeds_ada_norm": 1000,
}
SMALL = {
    **BLOCKS,
    "num_attention_heads": 3,
    "attention_head_dim": 12,
    "cross_attention_dim": 36,
    "caption_channels": 22,
    "num_layers": 2,
    "sample_size": 8,
    "video_length": 3,
}
CONFIGS = {
    "learned variance": {},
    "one pair of blocks": {"num_layers": 1, "num_attention_heads": 1, "cross_attention_dim": 12, "out_channels": 4},
    "another patch": {"patch_size": 4, "num_layers": 1, "norm_eps": 1e-2},
    "finer places": {"sample_size": 128},
}


def clips_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    return [
        {
            "latents": torch.randn(config["in_channels"], *grid, generator=generator),
            "timesteps": [999.0, 3.0, 511.0, 0.0, 875.0][i],
            "text": torch.randn(1 + 5 * i, config["caption_channels"], generator=generator),
        }
        for i, grid in enumerate(GRIDS)
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_packed_model_is_diffusers(name: str) -> None:
    config = {**SMALL, **CONFIGS[name]}
    reference = randomize(LatteTransformer3DModel(**config), seed=len(name))
    check_family(reference, entries(dict(reference.config)), call_transformer, clips_of(config))


def test_a_saved_model_converts(tmp_path: Path) -> None:
    reference = randomize(LatteTransformer3DModel(**SMALL), seed=6)
    check_converted(reference, entries(dict(reference.config)), clips_of(SMALL)[:2], tmp_path)


def test_published_configuration() -> None:
    """Latte-1."""
    config = {
        **BLOCKS,
        "attention_head_dim": 72,
        "cross_attention_dim": 1152,
        "caption_channels": 4096,
        "num_layers": 28,
    }
    check_published(LatteTransformer3DModel, config, entries, 1_057_246_880)


def test_tokens_of_a_place_lie_together() -> None:
    model = LatteTransformer({**SMALL, "num_layers": 1})
    made = {name: table.tolist() for name, table in model.indices([(2, 1, 3), (1, 2, 1)], [1, 1]).items()}
    assert made == {
        "space_offsets": [0, 3, 6, 8],
        "time_offsets": [0, 2, 4, 6, 7, 8],
        "by_place": [0, 3, 1, 4, 2, 5, 6, 7],
        "by_frame": [0, 2, 4, 1, 3, 5, 6, 7],
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"norm_type": "layer_norm"}, "norm_type must be 'ada_norm_single', got 'layer_norm'"),
        ({"cross_attention_dim": 24}, "cross_attention_dim must be the width 36, got 24"),
    ],
)
def test_what_no_checkpoint_has_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LatteTransformer({**SMALL, **change})
