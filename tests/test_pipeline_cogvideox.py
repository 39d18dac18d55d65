"""Whole CogVideoX pipelines, small and random, against diffusers' own: DDIM and DPM, 1.5, image to video; and Latte."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor

from packdit.export import encoder_testing as small
from packdit.export.pipeline_testing import STEPS, Comparison, stage_noise
from packdit.export.testing import randomize
from packdit.runtime import Condition, Request
from packdit.runtime.request import CompleteRequest

pytestmark = pytest.mark.filterwarnings("ignore:the prompt has:UserWarning")

PUBLISHED = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
PICTURE = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)


def vae(**config: Any) -> Any:
    blocks = {
        "down_block_types": ("CogVideoXDownBlock3D",) * 4,
        "up_block_types": ("CogVideoXUpBlock3D",) * 4,
        "block_out_channels": (8, 8, 8, 8),
        "norm_num_groups": 2,
    }
    return randomize(AutoencoderKLCogVideoX(latent_channels=4, layers_per_block=1, **blocks, **config), 3)


def parts(scheduler: Any, **config: Any) -> dict[str, Any]:
    sizes: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16, "time_embed_dim": 12}
    lengths = {"sample_width": 6, "sample_height": 4, "sample_frames": 9, "max_text_seq_length": 24}
    channels = {"in_channels": 4, "out_channels": 4, "text_embed_dim": 32}
    transformer = CogVideoXTransformer3DModel(num_layers=2, **sizes, **{**lengths, **channels, **config})
    return {
        "tokenizer": small.t5_tokenizer(),
        "text_encoder": small.t5_encoder(32),
        "vae": vae(),
        "transformer": randomize(transformer, 0),
        "scheduler": scheduler,
    }


def requests(**fields: Any) -> list[Request]:
    common: dict[str, Any] = {"steps": STEPS, **fields}
    return [
        Request(prompt="a red circle moves right", width=48, height=32, frames=9, guidance=4, seed=1, **common),
        Request(prompt="a blue square", negative_prompt="red", width=32, height=48, frames=5, seed=2, **common),
        Request(prompt="", width=32, height=32, frames=1, guidance=1, seed=3, **common),
    ]


def call(pipeline: Any, request: CompleteRequest, noise: Tensor, **more: Any) -> Tensor:
    """Its latents are [t, C, h, w]; new noise is what the engine takes for the same stage."""
    drawn = 0

    def draw(shape: Any, *_: Any, **__: Any) -> Tensor:  # from the second stage to the last but one it draws twice
        nonlocal drawn
        stage, drawn = (drawn + 1) // 2, drawn + 1
        made = stage_noise(request, stage, noise.shape[0], (noise.shape[1], noise.shape[2], noise.shape[3]))
        return made.transpose(0, 1)[None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.schedulers.scheduling_dpm_cogvideox.randn_tensor", draw)
        latents = pipeline(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            height=request.height,
            width=request.width,
            num_frames=request.frames,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            latents=noise.transpose(0, 1)[None],
            output_type="latent",
            max_sequence_length=24,
            **more,
        ).frames[0]
    return latents.transpose(0, 1)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("scheduler", [CogVideoXDDIMScheduler, CogVideoXDPMScheduler])
def test_text_to_video(scheduler: Any, rotary: bool, tmp_path: Path) -> None:
    chosen = parts(scheduler(**PUBLISHED), use_rotary_positional_embeddings=rotary)
    Comparison.of(CogVideoXPipeline(**chosen), tmp_path).check(call, requests())


def test_frames_that_fill_up_a_token(tmp_path: Path) -> None:
    """1.5: a token is two latent frames; what is missing to a whole one comes first and is not decoded."""
    config = {"patch_size_t": 2, "use_rotary_positional_embeddings": True, "patch_bias": False, "sample_height": 6}
    comparison = Comparison.of(CogVideoXPipeline(**parts(CogVideoXDPMScheduler(**PUBLISHED), **config)), tmp_path)
    comparison.check(call, requests())
    sample = comparison.sample(requests()[0])
    assert (sample.lead, sample.grid[0], sample.latent((2, 2, 2)).shape[1]) == (1, 4, 3)


@pytest.mark.parametrize("newer", [False, True])
def test_image_to_video(newer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder's distribution is taken at its mean, where the pipeline samples it."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    config: dict[str, Any] = {"in_channels": 8, "use_rotary_positional_embeddings": True}
    if newer:
        config |= {"patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 12}
    else:
        config |= {"use_learned_positional_embeddings": True}
    chosen = parts(CogVideoXDPMScheduler(**PUBLISHED), **config) | {"vae": vae(invert_scale_latents=newer)}
    asked = Request(prompt="a red circle", width=48, height=32, frames=9, conditions=[Condition(PICTURE)], steps=STEPS)
    image = Image.fromarray(PICTURE[0])
    comparison = Comparison.of(CogVideoXImageToVideoPipeline(**chosen), tmp_path)
    comparison.check(lambda p, r, noise: call(p, r, noise, image=image), [asked])
    if not newer:
        with pytest.raises(ValueError, match="only 48x32, got 32x32"):
            comparison.engine.submit(Request(width=32, height=32, frames=9, conditions=[Condition(PICTURE)]))
