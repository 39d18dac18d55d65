"""HunyuanVideo's transformer, packed, against diffusers' own with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import HunyuanVideoTransformer3DModel

from packdit.export.families.hunyuan_video import entries, peer
from packdit.export.testing import LIMIT, call, check_converted, check_family, check_published, error, pack, randomize
from packdit.runtime.models.hunyuan_video import HunyuanVideoTransformer
from packdit.runtime.models.transformer import timestep_features

GRIDS = [(1, 4, 4), (3, 8, 6), (2, 4, 14), (1, 2, 2), (5, 6, 4)]
SMALL = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 3,
    "attention_head_dim": 20,
    "num_layers": 2,
    "num_single_layers": 2,
    "num_refiner_layers": 2,
    "text_embed_dim": 22,
    "pooled_projection_dim": 26,
    "rope_axes_dim": (4, 8, 8),
}
CONFIGS: dict[str, dict[str, Any]] = {
    "text to video": {},
    "one head, one block of each kind": {
        "num_attention_heads": 1,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
    },
    "image to video by added channels": {
        "in_channels": 9,
        "image_condition_type": "latent_concat",
        "guidance_embeds": False,
    },
    "another patch, MLP and base": {
        "patch_size": 1,
        "patch_size_t": 1,
        "mlp_ratio": 2.5,
        "rope_theta": 100.0,
        "rope_axes_dim": (8, 6, 6),
        "out_channels": 3,
    },
}


def clips_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    clips = []
    for i, grid in enumerate(GRIDS):
        clip: dict[str, Any] = {
            "latents": torch.randn(config["in_channels"], *grid, generator=generator),
            "timesteps": [1000.0, 3.0, 511.5, 0.0, 875.25][i],
            "text": torch.randn(1 + 5 * i, config["text_embed_dim"], generator=generator),
            "pooled": torch.randn(config["pooled_projection_dim"], generator=generator),
        }
        if config.get("guidance_embeds", True):
            clip["guidance"] = [600.0, 1000.0, 35.5, 0.0, 725.0][i]
        clips.append(clip)
    return clips


@pytest.mark.parametrize("name", CONFIGS)
def test_the_packed_model_is_diffusers(name: str) -> None:
    config = {**SMALL, **CONFIGS[name]}
    reference = randomize(HunyuanVideoTransformer3DModel(**config), seed=len(name))
    check_family(reference, entries(dict(reference.config)), peer, clips_of(config))


def test_a_saved_model_converts(tmp_path: Path) -> None:
    reference = randomize(HunyuanVideoTransformer3DModel(**SMALL), seed=6)
    check_converted(reference, entries(dict(reference.config)), clips_of(SMALL)[:2], tmp_path)


def test_what_diffusers_masks_is_left_out() -> None:
    reference = randomize(HunyuanVideoTransformer3DModel(**SMALL), seed=3)
    clip = clips_of(SMALL)[2]
    rows = len(clip["text"])
    with torch.inference_mode():
        (want,) = reference(
            clip["latents"][None],
            torch.tensor([clip["timesteps"]]),
            F.pad(clip["text"], (0, 0, 0, 7), value=3.0)[None],
            (torch.arange(rows + 7) < rows).long()[None],
            clip["pooled"][None],
            torch.tensor([clip["guidance"]]),
            return_dict=False,
        )
    got = call(pack(reference, entries(dict(reference.config))), [clip])
    assert error(got, want) <= LIMIT


def test_guidance_as_the_pipeline_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers rounds angles to float32, which at thousands costs 1e-4; here its frequencies are float64."""
    config = {**SMALL, **CONFIGS["another patch, MLP and base"]}
    reference = randomize(HunyuanVideoTransformer3DModel(**config), seed=4)
    packed = pack(reference, entries(dict(reference.config)))
    clips = [
        {**clip, "guidance": 1000.0 * scale} for clip, scale in zip(clips_of(config), (6, 1, 3.5, 0, 7.25), strict=True)
    ]
    for time in (reference.time_text_embed.time_proj, reference.context_embedder.time_text_embed.time_proj):
        monkeypatch.setattr(time, "forward", lambda t: timestep_features(t, 256).float())
    with torch.inference_mode():
        want = [peer(reference, **clip) for clip in clips]
    assert error(call(packed, clips), want) <= LIMIT


PUBLISHED = {
    "text to video": ({}, 12_821_012_544),
    "image to video": (
        {"in_channels": 33, "image_condition_type": "latent_concat", "guidance_embeds": False},
        12_810_991_680,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name: str) -> None:
    config, count = PUBLISHED[name]
    check_published(HunyuanVideoTransformer3DModel, config, entries, count)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"qk_norm": "layer_norm"}, "qk_norm must be rms_norm, got 'layer_norm'"),
        (
            {"image_condition_type": "token_replace"},
            "image_condition_type must be latent_concat or null, got 'token_replace'",
        ),
        ({"rope_axes_dim": (4, 8, 6)}, r"rope_axes_dim must be even and add up to 20, got \[4, 8, 6\]"),
        ({"rope_axes_dim": (3, 9, 8)}, r"rope_axes_dim must be even and add up to 20, got \[3, 9, 8\]"),
    ],
)
def test_what_the_packed_model_cannot_do_is_refused(change: dict[str, Any], said: str) -> None:
    config = {**HunyuanVideoTransformer3DModel(**{**SMALL, "num_layers": 1}).config, **change}
    with pytest.raises(ValueError, match=said):
        HunyuanVideoTransformer(config)
