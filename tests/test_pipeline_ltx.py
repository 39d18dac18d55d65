"""Whole LTX pipelines, small and random, against diffusers' own: from text, and continuing a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor

from packdit.export import encoder_testing as small
from packdit.export.pipeline_testing import STEPS, Comparison
from packdit.export.testing import randomize
from packdit.kernels import patchify, unpatchify
from packdit.runtime import Condition, Request
from packdit.runtime.request import CompleteRequest

pytestmark = pytest.mark.filterwarnings("ignore:the prompt has:UserWarning")

PICTURE = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
PATCH = (1, 1, 1)


def parts() -> dict[str, Any]:
    """A VAE of 4 frames and 8 pixels a latent."""
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        patch_size=2,
    )
    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=3,
        attention_head_dim=8,
        cross_attention_dim=24,
        num_layers=2,
        caption_channels=32,
    )
    dynamic = {"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "shift_terminal": 0.1}
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(base_image_seq_len=1024, **dynamic),
        "vae": randomize(vae, 3),
        "text_encoder": small.t5_encoder(32),
        "tokenizer": small.t5_tokenizer(),
        "transformer": randomize(transformer, 0),
    }


def call(pipeline: Any, request: CompleteRequest, noise: Tensor, **more: Any) -> Tensor:
    """Its latents are tokens."""
    given = {"latents": patchify([noise], PATCH)[None]} if not more else {}
    tokens = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        height=request.height,
        width=request.width,
        num_frames=request.frames,
        frame_rate=int(request.fps),
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        output_type="latent",
        **given,
        **more,
    ).frames
    return unpatchify(tokens[0].contiguous(), [(noise.shape[1], noise.shape[2], noise.shape[3])], PATCH)[0]


def test_text_to_video(tmp_path: Path) -> None:
    common: dict[str, Any] = {"steps": STEPS}
    asked = [
        Request(prompt="a red circle moves right", width=96, height=64, frames=9, guidance=4, seed=1, **common),
        Request(prompt="a blue square", negative_prompt="red", width=32, height=64, frames=5, fps=8, seed=2, **common),
        Request(prompt="", width=64, height=64, frames=1, guidance=1, seed=3, **common),
    ]
    Comparison.of(LTXPipeline(**parts()), tmp_path).check(call, asked)


def test_continuing_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture's tokens are clean and at timestep 0."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    asked = Request(prompt="a red circle", width=96, height=64, frames=9, conditions=[Condition(PICTURE)], steps=STEPS)
    image = Image.fromarray(PICTURE[0])

    def run(pipeline: Any, request: CompleteRequest, noise: Tensor) -> Tensor:
        module = "diffusers.pipelines.ltx.pipeline_ltx_image2video"
        monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: noise[None])
        return call(pipeline, request, noise, image=image)

    Comparison.of(LTXImageToVideoPipeline(**parts()), tmp_path).check(run, [asked])
