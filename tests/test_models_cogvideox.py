"""CogVideoX's transformer, packed, against diffusers' own with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel

from packdit.export.families.cogvideox import entries, peer
from packdit.export.testing import call, check_converted, check_family, check_published, pack, randomize
from packdit.runtime.models.cogvideox import CogVideoXTransformer

GRIDS = [(1, 2, 2), (3, 4, 3), (2, 2, 7), (1, 1, 1), (4, 3, 2)]  # of tokens
TIMESTEPS = (999.0, 3.0, 511.0, 0.0, 875.0)
SMALL = {
    "num_attention_heads": 3,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 20,
    "text_embed_dim": 22,
    "num_layers": 3,
    "sample_width": 10,
    "sample_height": 6,
    "sample_frames": 9,
    "max_text_seq_length": 9,
}
ROTARY = {"use_rotary_positional_embeddings": True}
NEWER = {**ROTARY, "patch_size_t": 2, "patch_bias": False, "sample_height": 20, "sample_width": 20}
CONFIGS: dict[str, dict[str, Any]] = {
    "2B": {},
    "2B, one block, other scales": {
        "num_layers": 1,
        "num_attention_heads": 1,
        "attention_head_dim": 48,
        "temporal_interpolation_scale": 0.5,
        "norm_eps": 1e-3,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    },
    "5B": ROTARY,
    "5B I2V": {**ROTARY, "in_channels": 8, "use_learned_positional_embeddings": True},
    "no biases": {**ROTARY, "attention_bias": False, "patch_bias": False, "num_attention_heads": 2},
    "1.5": NEWER,
    "1.5 I2V": {**NEWER, "in_channels": 8, "ofs_embed_dim": 20},
}


def model(config: dict[str, Any], seed: int) -> Any:
    reference = randomize(CogVideoXTransformer3DModel(**config), seed)
    if config.get("use_learned_positional_embeddings"):  # a buffer
        reference.patch_embed.pos_embedding.normal_(generator=torch.Generator().manual_seed(seed))
    return reference


def clips_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(5)
    learned = config.get("use_learned_positional_embeddings", False)
    is_free = "use_rotary_positional_embeddings" in config and not learned
    clips = []
    for i, (t, y, x) in enumerate(GRIDS):
        if learned:  # frames of the trained size, in other numbers than the trained ones, too
            y, x = config["sample_height"] // 2, config["sample_width"] // 2
        sides = t * (config.get("patch_size_t") or 1), 2 * y, 2 * x
        clip: dict[str, Any] = {
            "latents": torch.randn(config["in_channels"], *sides, generator=generator),
            "timesteps": TIMESTEPS[i],
            # with positions of its own diffusers takes text of one length only
            "text": torch.randn(2 + 3 * i if is_free else 9, config["text_embed_dim"], generator=generator),
        }
        if config.get("ofs_embed_dim"):
            clip["ofs"] = 2.0 + i
        clips.append(clip)
    return clips


@pytest.mark.parametrize("name", CONFIGS)
def test_the_packed_model_is_diffusers(name: str) -> None:
    config = {**SMALL, **CONFIGS[name]}
    reference = model(config, seed=len(name))
    check_family(reference, entries(dict(reference.config)), peer, clips_of(config))


@pytest.mark.parametrize("name", ["2B", "5B I2V", "1.5 I2V"])
def test_a_saved_model_converts(name: str, tmp_path: Path) -> None:
    config = {**SMALL, **CONFIGS[name]}
    reference = model(config, seed=6)
    check_converted(reference, entries(dict(reference.config)), clips_of(config)[:2], tmp_path)


def test_text_has_a_learned_place_only_beside_as_many_frames_as_were_trained() -> None:
    config = {**SMALL, **CONFIGS["5B I2V"]}
    reference = model(config, seed=1)
    packed = pack(reference, entries(dict(reference.config)))
    assert packed.model.indices([(3, 3, 5), (2, 3, 5)], [2, 3])["text_position"].tolist() == [0, 1, 9, 9, 9]
    clip = clips_of(config)[0]
    with pytest.raises(ValueError, match="text must have at most 9 states, got 10"):
        call(packed, [{**clip, "text": torch.zeros(10, 22)}])
    with pytest.raises(ValueError, match=r"frames must be \(3, 5\) \(y, x\) tokens, got \(3, 4\)"):
        call(packed, [{**clip, "latents": clip["latents"][..., :8]}])


LARGE = {"num_attention_heads": 48, "num_layers": 42, **ROTARY}
IMAGE = {"in_channels": 32}
LATEST = {**LARGE, "patch_size_t": 2, "patch_bias": False}
PUBLISHED = {
    "2B": ({}, 1_693_783_872),
    "5B": (LARGE, 5_570_283_072),
    "5B I2V": ({**LARGE, **IMAGE, "use_learned_positional_embeddings": True}, 5_625_087_552),
    "1.5 5B": (LATEST, 5_570_676_352),
    "1.5 5B I2V": ({**LATEST, **IMAGE, "ofs_embed_dim": 512}, 5_571_594_880),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name: str) -> None:
    config, count = PUBLISHED[name]
    check_published(CogVideoXTransformer3DModel, config, entries, count)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"activation_fn": "geglu"}, "activation_fn must be gelu-approximate, got 'geglu'"),
        ({"timestep_activation_fn": "gelu"}, "timestep_activation_fn must be silu, got 'gelu'"),
        ({"norm_elementwise_affine": False}, "norm_elementwise_affine must be True, got False"),
        ({"use_learned_positional_embeddings": True}, "must be false without rotary ones, got true"),
        ({"patch_size_t": 2}, "with patch_size_t the positions must be rotary alone"),
        ({"ofs_embed_dim": 12}, "ofs_embed_dim must be time_embed_dim 20 or null, got 12"),
    ],
)
def test_what_no_checkpoint_has_is_refused(change: dict[str, Any], said: str) -> None:
    config = {**CogVideoXTransformer3DModel(**{**SMALL, "num_layers": 1}).config, **change}
    with pytest.raises(ValueError, match=said):
        CogVideoXTransformer(config)
