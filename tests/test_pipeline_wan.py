"""Whole Wan pipelines, small and random, against diffusers' own: 2.1, 2.2 5B, 2.2 A14B with two experts, and I2V."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.wan import pipeline_wan
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor
from typer.testing import CliRunner

from packdit.export import convert
from packdit.export import encoder_testing as small
from packdit.export.pipeline_testing import STEPS, Comparison
from packdit.export.testing import randomize
from packdit.runtime import Condition, Request
from packdit.runtime.cli import app
from packdit.runtime.request import CompleteRequest

pytestmark = pytest.mark.filterwarnings("ignore:the prompt has:UserWarning")

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (2, 32, 48, 3), np.uint8)


def vae() -> Any:
    return randomize(AutoencoderKLWan(base_dim=4, num_res_blocks=1), 3)


def transformer(seed: int = 0, **config: Any) -> Any:
    sizes = {"num_attention_heads": 3, "attention_head_dim": 12, "text_dim": 32, "freq_dim": 24, "ffn_dim": 40}
    return randomize(WanTransformer3DModel(num_layers=2, **sizes, **config), seed)


def parts(scheduler: Any = None, **config: Any) -> dict[str, Any]:
    return {
        "tokenizer": small.t5_tokenizer(),
        "text_encoder": small.t5_encoder(multilingual=True),
        "vae": vae(),
        "scheduler": scheduler or UniPCMultistepScheduler(**FLOW),
        "transformer": transformer(**config),
    }


def requests(**fields: Any) -> list[Request]:
    """Of different sizes, prompts and guidance."""
    common: dict[str, Any] = {"steps": STEPS, **fields}
    return [
        Request(prompt="a red circle moves right", width=48, height=32, frames=5, guidance=5, seed=1, **common),
        Request(prompt="a blue square", negative_prompt="red", width=32, height=48, frames=9, seed=2, **common),
        Request(prompt="", width=32, height=32, frames=1, guidance=1, seed=3, **common),
    ]


@pytest.fixture(autouse=True)
def _without_ftfy(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers 0.42 does not look whether ftfy is there in image to video, as it does in text to video."""
    monkeypatch.setattr("diffusers.pipelines.wan.pipeline_wan_i2v.prompt_clean", pipeline_wan.prompt_clean)


def call(pipeline: Any, request: CompleteRequest, noise: Tensor, **more: Any) -> Tensor:
    return pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        height=request.height,
        width=request.width,
        num_frames=request.frames,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        latents=noise[None],
        output_type="latent",
        **more,
    ).frames[0]


def pictures(request: CompleteRequest) -> dict[str, Any]:
    """The given first and last frame, as a pipeline takes them."""
    names = ["image", "last_image"]
    return {name: Image.fromarray(c.frames[0]) for name, c in zip(names, request.conditions, strict=False)}


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
def test_text_to_video(scheduler: str, tmp_path: Path) -> None:
    chosen = UniPCMultistepScheduler(**FLOW) if scheduler == "unipc" else FlowMatchEulerDiscreteScheduler(shift=5.0)
    comparison = Comparison.of(WanPipeline(**parts(chosen)), tmp_path)
    comparison.check(call, requests())
    limits = comparison.engine.limits
    assert (limits.width, limits.height, limits.frames, limits.steps, limits.guidance) == (832, 480, 81, 50, 5)
    assert (limits.side_step, limits.frame_step, limits.conditions) == (16, 4, "whole")


def test_two_experts(tmp_path: Path) -> None:
    pipeline = WanPipeline(**parts(), transformer_2=transformer(seed=9), boundary_ratio=0.7)
    comparison = Comparison.of(pipeline, tmp_path)
    comparison.check(call, requests())
    sample = comparison.sample(requests()[0])
    assert 0 < sample.switch < STEPS


@pytest.mark.parametrize("ends", [False, True])
def test_image_to_video(ends: bool, tmp_path: Path) -> None:
    """2.1: the picture beside the latents, and seen by CLIP. Some checkpoints take the last frame, too."""
    image = {"in_channels": 36, "image_dim": 32, "added_kv_proj_dim": 36, "pos_embed_seq_len": 10 if ends else None}
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    pipeline = WanImageToVideoPipeline(
        **parts(**image), image_encoder=small.clip_vision_encoder(), image_processor=processor
    )
    comparison = Comparison.of(pipeline, tmp_path)
    asked = [
        Request(prompt="a red circle", width=48, height=32, frames=frames, conditions=given, steps=STEPS, guidance=3)
        for frames in (5, 9)
        for given in [[Condition(PICTURES[:1]), Condition(PICTURES[1:], frames - 1)][: 1 + ends]]
    ]
    comparison.check(lambda p, r, noise: call(p, r, noise, **pictures(r)), asked)
    with pytest.raises(ValueError, match="give one for frame 0"):
        comparison.engine.submit(Request(prompt="a", width=48, height=32, frames=5))


def test_image_to_video_of_two_experts_without_clip(tmp_path: Path) -> None:
    pipeline = WanImageToVideoPipeline(
        **parts(in_channels=36), transformer_2=transformer(seed=9, in_channels=36), boundary_ratio=0.9
    )
    asked = Request(
        prompt="a red circle", width=48, height=32, frames=9, conditions=[Condition(PICTURES[:1])], steps=STEPS
    )
    Comparison.of(pipeline, tmp_path).check(lambda p, r, noise: call(p, r, noise, **pictures(r)), [asked])


def test_timesteps_by_token(tmp_path: Path) -> None:
    """2.2 5B makes videos of text and of a picture, which is given as clean tokens."""
    of_text = WanPipeline(**parts(), expand_timesteps=True)
    comparison = Comparison.of(of_text, tmp_path)
    comparison.check(call, requests())
    of_image = WanImageToVideoPipeline(**of_text.components, expand_timesteps=True)
    of_image.set_progress_bar_config(disable=True)
    asked = Request(
        prompt="a red circle", width=48, height=32, frames=9, conditions=[Condition(PICTURES[:1])], steps=STEPS
    )
    comparison.check(lambda _, r, noise: call(of_image, r, noise, **pictures(r)), [asked])


def test_a_bundle_makes_frames(tmp_path: Path) -> None:
    comparison, asked = Comparison.of(WanPipeline(**parts()), tmp_path), Request(width=32, height=32, frames=5, steps=2)
    (latents,) = comparison.latents([asked])
    with comparison.engine as engine:
        (video,) = engine.generate([asked])
    assert video.frames.shape == (5, 32, 32, 3)
    pipeline = comparison.pipeline
    with torch.inference_mode():
        decoded = pipeline.vae.decode(engine.vae.denormalize(latents)[None]).sample
    want = pipeline.video_processor.postprocess_video(decoded, output_type="np")[0]
    assert np.abs(video.frames / 255 - want).max() <= 1.01 / 255


def edited(folder: Path, **changes: Any) -> Path:
    """A saved pipeline whose scheduler's config, or model_index.json, says something else."""
    WanPipeline(**parts()).save_pretrained(folder / "source")
    for name, change in changes.items():
        path = folder / "source" / {"scheduler": "scheduler/scheduler_config.json"}.get(name, "model_index.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return folder / "source"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scheduler": {"_class_name": "LMSDiscreteScheduler"}}, "the scheduler 'LMSDiscreteScheduler' is not known"),
        ({"scheduler": {"use_karras_sigmas": True}}, "use_karras_sigmas is not supported"),
        ({"index": {"text_encoder": [None, None]}}, "the pipeline has no text_encoder, which reads its prompts"),
    ],
)
def test_a_pipeline_that_cannot_be_reproduced(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        convert(edited(tmp_path, **changes), tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_command_continues_a_picture(tmp_path: Path) -> None:
    pipeline = WanImageToVideoPipeline(**parts(in_channels=36))
    pipeline.save_pretrained(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "bundle", verify=False)
    Image.fromarray(PICTURES[0]).save(tmp_path / "first.png")
    command = ["generate", "a red circle", "--model", str(tmp_path / "bundle"), "--size", "48x32", "--frames", "5"]
    out = ["--steps", "2", "--out", str(tmp_path / "clip.gif")]
    result = CliRunner().invoke(app, [*command, *out])
    assert "this model continues a picture: give one for frame 0" in result.output
    result = CliRunner().invoke(app, [*command, *out, "--image", str(tmp_path / "first.png")])
    assert (result.exception, result.exit_code) == (None, 0)
    with Image.open(tmp_path / "clip.gif") as clip:
        assert (clip.size, getattr(clip, "n_frames", 1)) == ((48, 32), 5)
