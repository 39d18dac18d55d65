"""Whole Latte pipelines, small and random, against diffusers' own."""

from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel
from torch import Tensor

from packdit.export import encoder_testing as small
from packdit.export.pipeline_testing import STEPS, Comparison
from packdit.export.testing import randomize
from packdit.runtime import Request
from packdit.runtime.request import CompleteRequest

pytestmark = pytest.mark.filterwarnings("ignore:the prompt has:UserWarning")


def vae() -> Any:
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
    }
    return randomize(AutoencoderKL(layers_per_block=1, latent_channels=4, **blocks), 3)


def run(pipeline: Any, request: CompleteRequest, noise: Tensor) -> Tensor:
    return pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width=request.width,
        height=request.height,
        video_length=request.frames,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        latents=noise[None],
        output_type="latent",
        clean_caption=False,
    ).frames[0]


def test_text_to_video(tmp_path: Path) -> None:
    transformer = LatteTransformer3DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        video_length=3,
    )
    pipeline = LattePipeline(
        tokenizer=small.t5_tokenizer(),
        text_encoder=small.t5_encoder(32),
        vae=vae(),
        transformer=randomize(transformer, 0),
        scheduler=DDIMScheduler(clip_sample=False),
    )
    common: dict[str, Any] = {"width": 16, "height": 16, "frames": 3, "steps": STEPS}
    Comparison.of(pipeline, tmp_path).check(
        run,
        [
            Request(prompt="A red circle moves right", negative_prompt="blue", seed=1, **common),
            Request(prompt="a square", negative_prompt="a red circle moves left", seed=2, guidance=3, **common),
            Request(prompt="", seed=3, guidance=1, **common),
        ],
    )
