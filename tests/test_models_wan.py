"""Wan's transformer, packed, against diffusers' own with random weights."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel

from packdit.export.families.wan import entries, peer
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
from packdit.runtime.models.wan import WanTransformer
from packdit.runtime.pack import make_pack

GRIDS = [(1, 4, 4), (3, 8, 6), (2, 4, 14), (1, 2, 2), (5, 6, 4)]
SMALL = {
    "num_attention_heads": 3,
    "attention_head_dim": 20,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 22,
    "freq_dim": 24,
    "ffn_dim": 70,
    "num_layers": 3,
}
IMAGE = {"in_channels": 9, "image_dim": 26, "added_kv_proj_dim": 60}
CONFIGS = {
    "2.1 T2V": {},
    "one block, one head": {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 34},
    "2.1 I2V": IMAGE,
    "2.1 FLF2V": {**IMAGE, "pos_embed_seq_len": 10, "num_layers": 2},
    "2.2 A14B I2V": {"in_channels": 9},
    "2.2 5B": {"in_channels": 7, "out_channels": 7, "num_attention_heads": 2},
    "no norm before cross-attention": {"cross_attn_norm": False, "num_layers": 2},
    "another patch": {"patch_size": (1, 1, 2), "out_channels": 3, "eps": 1e-3},
}


def clips_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    clips = []
    for i, grid in enumerate(GRIDS):
        image = config.get("image_dim")
        clip: dict[str, Any] = {
            "latents": torch.randn(config["in_channels"], *grid, generator=generator),
            "timesteps": [1000.0, 3.0, 511.5, 0.0, 875.25][i],
            # diffusers takes the last 512 rows of a joined sequence for the text
            "text": torch.randn(512 if image else 3 + 5 * i, config["text_dim"], generator=generator),
        }
        if image:
            clip["image"] = torch.randn(config.get("pos_embed_seq_len") or 3 + i, image, generator=generator)
        clips.append(clip)
    return clips


@pytest.mark.parametrize("name", CONFIGS)
def test_the_packed_model_is_diffusers(name: str) -> None:
    config = {**SMALL, **CONFIGS[name]}
    reference = randomize(WanTransformer3DModel(**config), seed=len(name))
    check_family(reference, entries(dict(reference.config)), peer, clips_of(config))


@pytest.mark.parametrize("name", ["2.1 T2V", "2.1 FLF2V"])
def test_a_saved_model_converts(name: str, tmp_path: Path) -> None:
    config = {**SMALL, **CONFIGS[name]}
    reference = randomize(WanTransformer3DModel(**config), seed=6)
    check_converted(reference, entries(dict(reference.config)), clips_of(config)[:2], tmp_path)


def test_tokens_of_different_timesteps() -> None:
    """As 2.2 5B has them, where the first frame is given."""
    config = {**SMALL, **CONFIGS["2.2 5B"]}
    reference = randomize(WanTransformer3DModel(**config), seed=1)
    clips = clips_of(config)
    generator = torch.Generator().manual_seed(2)
    for clip, (t, y, x) in zip(clips, GRIDS, strict=True):
        per_token = torch.full((t, y // 2, x // 2), float(clip["timesteps"]))
        per_token[0] = 0
        per_token[-1, 0, 0] = 1000 * torch.rand((), generator=generator)
        clip["timesteps"] = per_token.flatten()
    check_family(reference, entries(dict(reference.config)), peer, clips)


def test_one_zero_row_stands_for_all_that_the_pipeline_pads_with() -> None:
    reference = randomize(WanTransformer3DModel(**SMALL), seed=3)
    packed = pack(reference, entries(dict(reference.config)))
    clip = clips_of(SMALL)[2]
    rows, grid = len(clip["text"]), packed.token_grid(GRIDS[2])
    text = F.pad(clip["text"], (0, 0, 0, 512 - rows))
    want = peer(reference, latents=clip["latents"], timesteps=clip["timesteps"], text=text)
    segment = packed.segment(grid, clip["timesteps"], F.pad(clip["text"], (0, 0, 0, 1)), {})
    bias = torch.zeros(rows + 1)
    bias[-1] = math.log(512 - rows)
    pack_of_one = make_pack(packed.model, [replace(segment, text_bias=bias)], packed.device)
    tokens = packed.run(patchify([clip["latents"]], (1, 2, 2)), pack_of_one)
    assert error(unpatchify(tokens, [GRIDS[2]], (1, 2, 2)), [want]) <= LIMIT


LARGE_IMAGE = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
PUBLISHED = {
    "2.1 T2V 1.3B": ({"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, 1_418_996_800),
    "2.1 T2V 14B": ({}, 14_288_491_584),
    "2.1 I2V 14B": (LARGE_IMAGE, 16_394_878_784),
    "2.1 FLF2V 14B": ({**LARGE_IMAGE, "pos_embed_seq_len": 514}, 16_395_536_704),
    "2.2 I2V A14B": ({"in_channels": 36}, 14_288_901_184),
    "2.2 5B": (
        {"in_channels": 48, "out_channels": 48, "num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30},
        4_999_787_712,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name: str) -> None:
    config, count = PUBLISHED[name]
    check_published(WanTransformer3DModel, config, entries, count)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"qk_norm": "layer_norm"}, "qk_norm must be rms_norm_across_heads, got 'layer_norm'"),
        ({"added_kv_proj_dim": 60}, "added_kv_proj_dim must be the width 60 with image_dim and null without, got 60"),
        ({"image_dim": 26}, "added_kv_proj_dim must be the width 60 with image_dim and null without, got None"),
    ],
)
def test_what_no_checkpoint_has_is_refused(change: dict[str, Any], said: str) -> None:
    config = {**WanTransformer3DModel(**{**SMALL, "num_layers": 1}).config, **change}
    with pytest.raises(ValueError, match=said):
        WanTransformer(config)


def test_images_of_another_number_of_rows_are_refused() -> None:
    config = {**SMALL, **CONFIGS["2.1 FLF2V"]}
    reference = randomize(WanTransformer3DModel(**config), seed=4)
    (clip, *_) = clips_of(config)
    with pytest.raises(ValueError, match=r"image must be \[10, 26\], got \[5, 26\]"):
        call(pack(reference, entries(dict(reference.config))), [{**clip, "image": clip["image"][:5]}])
