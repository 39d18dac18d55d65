"""Flux's transformer, packed, against diffusers' own with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel

from packdit.export.families.flux import entries, peer
from packdit.export.testing import check_converted, check_family, check_published, randomize
from packdit.runtime.models.flux import FluxTransformer

GRIDS = [(1, 4, 4), (1, 8, 6), (1, 4, 14), (1, 2, 2), (1, 16, 18)]
SMALL = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": 22,
    "pooled_projection_dim": 26,
    "axes_dims_rope": (4, 4, 8),
}
CONFIGS: dict[str, dict[str, Any]] = {
    "schnell": {},
    "dev": {"guidance_embeds": True},
    "one block each": {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 1},
    "given channels": {"in_channels": 32, "out_channels": 16, "guidance_embeds": True, "num_single_layers": 1},
}


def clips_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    clips = []
    for i, grid in enumerate(GRIDS):
        clip: dict[str, Any] = {
            "latents": torch.randn(config["in_channels"] // 4, *grid, generator=generator),
            "timesteps": [1.0, 0.003, 0.5115, 0.0, 0.87525][i],
            "text": torch.randn(3 + 5 * i, config["joint_attention_dim"], generator=generator),
            "pooled": torch.randn(config["pooled_projection_dim"], generator=generator),
        }
        if config.get("guidance_embeds"):
            # Of 30, diffusers' angles, which are float32, are by themselves too coarse for the limit.
            clip["guidance"] = [3.5, 1.0, 0.0, 7.25, 2.0][i]
        clips.append(clip)
    return clips


@pytest.mark.parametrize("name", CONFIGS)
def test_the_packed_model_is_diffusers(name: str) -> None:
    config = {**SMALL, **CONFIGS[name]}
    reference = randomize(FluxTransformer2DModel(**config), seed=len(name))
    check_family(reference, entries(dict(reference.config)), peer, clips_of(config))


def test_a_saved_model_converts(tmp_path: Path) -> None:
    config = {**SMALL, **CONFIGS["dev"]}
    reference = randomize(FluxTransformer2DModel(**config), seed=6)
    check_converted(reference, entries(dict(reference.config)), clips_of(config)[:2], tmp_path)


@pytest.mark.parametrize(("guided", "count"), [(True, 11_901_408_320), (False, 11_891_178_560)], ids=["dev", "schnell"])
def test_published_configurations(guided: bool, count: int) -> None:
    check_published(FluxTransformer2DModel, {"guidance_embeds": guided}, entries, count)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patch_size": 2}, "patch_size must be 1, as the pipeline makes patches of its own, got 2"),
        ({"in_channels": 18}, r"in_channels and out_channels must be multiples of 4, got \(18, 18\)"),
        ({"axes_dims_rope": (4, 4, 6)}, r"axes_dims_rope must be three even numbers of the sum 16, got \[4, 4, 6\]"),
    ],
)
def test_what_no_checkpoint_has_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FluxTransformer({**SMALL, **change})
