"""What pipelines are described as, from the configs that the published checkpoints have."""

from typing import Any

import pytest

from packdit.export.families import PIPELINES, pipeline_of
from packdit.runtime.request import Limits, Request
from packdit.runtime.schedule import Schedule

T5 = {"tokenizer_class": "T5Tokenizer", "pad_token": "<pad>", "model_max_length": 512}
CLIP = {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>", "model_max_length": 77}
CLIP_TEXT = {"max_position_embeddings": 77}
KL = {"block_out_channels": [128, 256, 512, 512]}
EULER, DDIM = "FlowMatchEulerDiscreteScheduler", "DDIMScheduler"
UNIPC = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}
COG_SCHEDULER = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
WAN = {"patch_size": [1, 2, 2], "in_channels": 16, "out_channels": 16, "image_dim": None}
COG = {"patch_size": 2, "in_channels": 16, "out_channels": 16, "sample_frames": 49, "max_text_seq_length": 226}
PROCESSOR = {"size": {"shortest_edge": 224}, "crop_size": {"width": 224, "height": 224}}
LTX_SCHEDULER = {"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "shift_terminal": 0.1}

Configs = dict[str, dict[str, Any]]

PUBLISHED: dict[str, tuple[str, dict[str, Any], Configs]] = {
    "Wan 2.1 T2V": ("WanPipeline", {}, {"transformer": WAN, "vae": {}, "scheduler": {**UNIPC, "flow_shift": 3.0}}),
    "Wan 2.1 I2V": (
        "WanImageToVideoPipeline",
        {"image_encoder": ["transformers", "CLIPVisionModel"]},
        {
            "transformer": {**WAN, "in_channels": 36, "image_dim": 1280},
            "image_processor": {**PROCESSOR, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
            "vae": {"scale_factor_spatial": 8, "scale_factor_temporal": 4},
            "scheduler": {**UNIPC, "flow_shift": 5.0},
        },
    ),
    "Wan 2.2 5B": (
        "WanPipeline",
        {"expand_timesteps": True},
        {
            "transformer": {**WAN, "in_channels": 48, "out_channels": 48},
            "vae": {"scale_factor_spatial": 16, "scale_factor_temporal": 4},
            "scheduler": {**UNIPC, "flow_shift": 5.0},
        },
    ),
    "Wan 2.2 A14B": (
        "WanPipeline",
        {"boundary_ratio": 0.875},
        {"transformer": WAN, "vae": {}, "scheduler": {**UNIPC, "flow_shift": 3.0}},
    ),
    "DiT-XL/2 256": (
        "DiTPipeline",
        {"id2label": {"0": "tench, Tinca tinca", "207": "golden retriever"}},
        {
            "transformer": {"sample_size": 32, "patch_size": 2, "num_embeds_ada_norm": 1000},
            "vae": KL,
            "scheduler": {"_class_name": DDIM, "clip_sample": False, "trained_betas": None},
        },
    ),
    "Latte-1": (
        "LattePipeline",
        {},
        {
            "transformer": {"video_length": 16, "patch_size": 2},
            "vae": KL,
            "tokenizer": T5,
            "scheduler": {"_class_name": DDIM, "clip_sample": False, "variance_type": "learned_range"},
        },
    ),
    "CogVideoX 2B": (
        "CogVideoXPipeline",
        {},
        {
            "transformer": {**COG, "sample_width": 90, "sample_height": 60},
            "vae": {**KL, "temporal_compression_ratio": 4},
            "tokenizer": T5,
            "scheduler": {"_class_name": "CogVideoXDDIMScheduler", **COG_SCHEDULER},
        },
    ),
    "CogVideoX 5B I2V": (
        "CogVideoXImageToVideoPipeline",
        {},
        {
            "transformer": {
                **COG,
                "in_channels": 32,
                "sample_width": 90,
                "sample_height": 60,
                "use_learned_positional_embeddings": True,
            },
            "vae": {**KL, "temporal_compression_ratio": 4},
            "tokenizer": T5,
            "scheduler": {"_class_name": "CogVideoXDPMScheduler", "snr_shift_scale": 1.0, **COG_SCHEDULER},
        },
    ),
    "CogVideoX 1.5": (
        "CogVideoXPipeline",
        {},
        {
            "transformer": {**COG, "sample_width": 170, "sample_height": 96, "sample_frames": 81, "patch_size_t": 2},
            "vae": {**KL, "temporal_compression_ratio": 4},
            "tokenizer": T5,
            "scheduler": {"_class_name": "CogVideoXDPMScheduler", **COG_SCHEDULER},
        },
    ),
    "LTX-Video": (
        "LTXPipeline",
        {},
        {
            "transformer": {"patch_size": 1, "patch_size_t": 1},
            "vae": {"patch_size": 4, "patch_size_t": 1, "spatio_temporal_scaling": [True, True, True, False]},
            "tokenizer": {**T5, "pad_token": {"content": "<pad>"}},
            "scheduler": {"_class_name": EULER, "base_image_seq_len": 1024, **LTX_SCHEDULER},
        },
    ),
    "HunyuanVideo": (
        "HunyuanVideoPipeline",
        {},
        {
            "transformer": {"patch_size": 2, "patch_size_t": 1, "guidance_embeds": True},
            "vae": {"temporal_compression_ratio": 4, "spatial_compression_ratio": 8},
            "tokenizer": {},
            "tokenizer_2": CLIP,
            "text_encoder_2": CLIP_TEXT,
            "scheduler": {"_class_name": EULER, "shift": 7.0},
        },
    ),
    "SD3 medium": (
        "StableDiffusion3Pipeline",
        {"text_encoder_3": ["transformers", "T5EncoderModel"]},
        {
            "transformer": {
                "sample_size": 128,
                "patch_size": 2,
                "pos_embed_max_size": 192,
                "joint_attention_dim": 4096,
            },
            "vae": KL,
            **{f"text_encoder{n}": CLIP_TEXT for n in ("", "_2")},
            "tokenizer": CLIP,
            "tokenizer_2": {**CLIP, "pad_token": "!"},
            "tokenizer_3": T5,
            "scheduler": {"_class_name": EULER, "shift": 3.0},
        },
    ),
    "Flux dev": (
        "FluxPipeline",
        {},
        {
            "transformer": {"in_channels": 64, "guidance_embeds": True},
            "vae": KL,
            "text_encoder": CLIP_TEXT,
            "tokenizer": CLIP,
            "tokenizer_2": T5,
            "scheduler": {"_class_name": EULER, "shift": 3.0, "use_dynamic_shifting": True},
        },
    ),
}

DEFAULTS = {
    "Wan 2.1 T2V": (832, 480, 81, 16, 50, 5.0, 16),
    "Wan 2.1 I2V": (832, 480, 81, 16, 50, 5.0, 16),
    "Wan 2.2 5B": (832, 480, 81, 24, 50, 5.0, 32),
    "Wan 2.2 A14B": (832, 480, 81, 16, 50, 5.0, 16),
    "DiT-XL/2 256": (256, 256, 1, 24, 50, 4.0, 16),
    "Latte-1": (512, 512, 16, 8, 50, 7.5, 16),
    "CogVideoX 2B": (720, 480, 49, 8, 50, 6.0, 16),
    "CogVideoX 5B I2V": (720, 480, 49, 8, 50, 6.0, 16),
    "CogVideoX 1.5": (1360, 768, 81, 16, 50, 6.0, 16),
    "LTX-Video": (704, 512, 161, 25, 50, 3.0, 32),
    "HunyuanVideo": (1280, 720, 129, 24, 50, 6.0, 16),
    "SD3 medium": (1024, 1024, 1, 24, 28, 7.0, 16),
    "Flux dev": (1024, 1024, 1, 24, 28, 3.5, 16),
}


def described(name: str) -> dict[str, Any]:
    pipeline, index, configs = PUBLISHED[name]
    return pipeline_of(pipeline)[1](index, configs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_and_schedules_of_published_checkpoints(name: str) -> None:
    data = described(name)
    limits = Limits(**data["limits"])
    found = (limits.width, limits.height, limits.frames, limits.fps, limits.steps, limits.guidance, limits.side_step)
    assert found == DEFAULTS[name]
    path, solve = Schedule(data=data["schedule"]).make(limits.steps, 4096)
    assert len(solve(path)) == limits.steps


def test_every_known_pipeline_is_here() -> None:
    tested = {pipeline for pipeline, _, _ in PUBLISHED.values()}
    assert tested | {"ShapesPipeline", "LTXImageToVideoPipeline"} == set(PIPELINES)


def test_what_frames_can_be_given() -> None:
    kinds = {name: described(name)["limits"]["conditions"] for name in PUBLISHED}
    assert {name for name, kind in kinds.items() if kind == "frames"} == {"Wan 2.2 5B", "LTX-Video"}
    assert {name for name, kind in kinds.items() if kind == "channels"} == {"Wan 2.1 I2V"}
    assert {name for name, kind in kinds.items() if kind == "first"} == {"CogVideoX 5B I2V"}


def test_guidance_of_distilled_models() -> None:
    told = described("Flux dev")
    assert (told["limits"]["guidance_kind"], told["prompt"]["guidance"]) == ("embedded", 1.0)
    assert described("HunyuanVideo")["prompt"]["guidance"] == 1000.0
    pipeline, index, configs = PUBLISHED["Flux dev"]
    transformer = {**configs["transformer"], "guidance_embeds": False}
    schnell = pipeline_of(pipeline)[1](index, {**configs, "transformer": transformer})
    assert schnell["prompt"]["guidance"] is None
    with pytest.raises(ValueError, match="only 1 is allowed, got 3"):
        Limits(**schnell["limits"]).complete(Request(guidance=3))


def test_two_experts_share_a_boundary() -> None:
    schedule = Schedule(data=described("Wan 2.2 A14B")["schedule"])
    path, solve = schedule.make(40, 4096)
    first = schedule.first_of_second(solve(path))
    assert path.timesteps[first - 1] >= 875 > path.timesteps[first]


def test_sd3_without_t5_reads_zeros() -> None:
    pipeline, index, configs = PUBLISHED["SD3 medium"]
    without = pipeline_of(pipeline)[1]({**index, "text_encoder_3": [None, None]}, configs)["prompt"]
    assert without["append"] == [256, 4096]
    assert [reading["component"] for reading in without["encoders"]] == ["text_encoder", "text_encoder_2"]
    assert [reading["pad"] for reading in without["encoders"]] == ["<|endoftext|>", "!"]


def test_labels_of_classes() -> None:
    prompt = described("DiT-XL/2 256")["prompt"]
    assert prompt == {"kind": "class", "names": {"tench": 0, "Tinca tinca": 0, "golden retriever": 207}, "null": 1000}


def test_a_clip_fills_its_last_token() -> None:
    limits = Limits(**described("CogVideoX 1.5")["limits"])
    assert limits.tokens(1360, 768, 81) == 85 * 48 * 11
    assert Limits(**described("CogVideoX 5B I2V")["limits"]).sizes == ((720, 480),)
