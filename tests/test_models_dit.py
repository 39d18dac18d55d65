"""DiT's transformer, packed, against diffusers' own with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel

from packdit.export.families.dit import entries, peer
from packdit.export.testing import (
    LIMIT,
    call,
    check_converted,
    check_family,
    check_published,
    error,
    pack,
    randomize,
)
from packdit.kernels import patchify, unpatchify
from packdit.runtime.models.dit import DiTTransformer

SIDES = (2, 5, 4, 1, 7)  # of the squares of tokens that diffusers takes
SMALL = {
    "num_attention_heads": 3,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 3,
    "sample_size": 10,
    "num_embeds_ada_norm": 20,
}
CONFIGS = {
    "learned variance": {},
    "one block, one head": {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 20},
    "channels as they come in": {"out_channels": None, "in_channels": 3, "num_layers": 2},
    "another patch": {"patch_size": 4, "sample_size": 16, "norm_eps": 1e-2, "num_layers": 2},
}


def clips_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    patch = config.get("patch_size", 2)
    return [
        {
            "latents": torch.randn(config["in_channels"], 1, side * patch, side * patch, generator=generator),
            "timesteps": [999.0, 3.0, 511.0, 0.0, 875.0][i],
            "labels": [0.0, 20.0, 7.0, 20.0, 19.0][i],
        }
        for i, side in enumerate(SIDES)
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_packed_model_is_diffusers(name: str) -> None:
    config = {**SMALL, **CONFIGS[name]}
    reference = randomize(DiTTransformer2DModel(**config), seed=len(name))
    check_family(reference, entries(dict(reference.config)), peer, clips_of(config))


def test_a_saved_model_converts(tmp_path: Path) -> None:
    reference = randomize(DiTTransformer2DModel(**SMALL), seed=6)
    check_converted(reference, entries(dict(reference.config)), clips_of(SMALL)[:2], tmp_path)


def test_an_image_that_is_no_square() -> None:
    """diffusers lays 2 x 8 tokens out as 4 x 4, but computes them as what they are."""
    reference = randomize(DiTTransformer2DModel(**SMALL), seed=1)
    latents = torch.randn(4, 1, 4, 16, generator=torch.Generator().manual_seed(2))
    clip = {"latents": latents, "timesteps": 321.0, "labels": 4.0}
    tokens = patchify([peer(reference, **clip).contiguous()], (1, 2, 2))
    want = unpatchify(tokens, [(1, 4, 16)], (1, 2, 2))
    assert error(call(pack(reference, entries(dict(reference.config))), [clip]), want) <= LIMIT


def test_published_configuration() -> None:
    """DiT-XL/2: 675 million with one embedding of timesteps and labels; diffusers has one a block, of 28 blocks."""
    embedding = 1001 * 1152 + 257 * 1152 + 1153 * 1152
    check_published(DiTTransformer2DModel, {"out_channels": 8}, entries, 674_834_720 + 27 * embedding)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine must be False, got True"),
        ({"activation_fn": "geglu"}, "activation_fn must be 'gelu-approximate', got 'geglu'"),
        ({"attention_bias": False}, "attention_bias must be True, got False"),
        ({"norm_type": "ada_norm"}, "norm_type must be 'ada_norm_zero', got 'ada_norm'"),
    ],
)
def test_what_no_checkpoint_has_is_refused(change: dict[str, Any], said: str) -> None:
    config = {**DiTTransformer2DModel(**{**SMALL, "num_layers": 1}).config, **change}
    with pytest.raises(ValueError, match=said):
        DiTTransformer(config)


@pytest.mark.parametrize("label", [-1.0, 21.0, 2.5, float("nan")])
def test_labels_that_are_no_class_are_refused(label: float) -> None:
    packed = pack(reference := DiTTransformer2DModel(**SMALL), entries(dict(reference.config)))
    with pytest.raises(ValueError, match="labels must be whole numbers from 0 to 20, got"):
        call(packed, [{**clips_of(SMALL)[0], "labels": label}])


def test_videos_are_refused() -> None:
    packed = pack(reference := DiTTransformer2DModel(**SMALL), entries(dict(reference.config)))
    with pytest.raises(ValueError, match="latents must have one frame, got 2"):
        call(packed, [{"latents": torch.zeros(4, 2, 4, 4), "timesteps": 1.0, "labels": 1.0}])
