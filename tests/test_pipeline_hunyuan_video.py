"""Whole HunyuanVideo pipelines, small and random, against diffusers' own."""

from pathlib import Path
from typing import Any

import pytest
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from torch import Tensor

from packdit.export import encoder_testing as small
from packdit.export.pipeline_testing import STEPS, Comparison
from packdit.export.testing import randomize
from packdit.runtime import Request
from packdit.runtime.request import CompleteRequest

pytestmark = pytest.mark.filterwarnings("ignore:the prompt has:UserWarning")


def pipeline() -> Any:
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        patch_size=2,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=32,
        pooled_projection_dim=24,
        rope_axes_dim=(4, 6, 6),
    )
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )
    return HunyuanVideoPipeline(
        text_encoder=small.llama_encoder(32),
        tokenizer=small.llama_tokenizer(),
        transformer=randomize(transformer, 0),
        vae=randomize(vae, 3),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=small.clip_text_encoder(24),
        tokenizer_2=small.clip_tokenizer(),
    )


def run(pipeline: Any, request: CompleteRequest, noise: Tensor) -> Tensor:
    return pipeline(
        prompt=request.prompt,
        height=request.height,
        width=request.width,
        num_frames=request.frames,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        latents=noise[None],
        output_type="latent",
    ).frames[0]


def test_text_to_video(tmp_path: Path) -> None:
    asked = [
        Request(prompt="a red circle moves right", width=48, height=32, frames=9, steps=STEPS, seed=1),
        Request(prompt="a blue square on the left", width=32, height=48, frames=5, steps=STEPS, guidance=2, seed=2),
        Request(prompt="", width=32, height=32, frames=1, steps=STEPS, guidance=1, seed=3),
    ]
    comparison = Comparison.of(pipeline(), tmp_path)
    comparison.check(run, asked)
    with pytest.raises(ValueError, match="guidance takes no negative prompt"):
        comparison.engine.submit(Request(prompt="a", negative_prompt="b"))
