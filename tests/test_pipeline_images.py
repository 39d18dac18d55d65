"""Whole pipelines of images, small and random, against diffusers' own: DiT, Stable Diffusion 3 and Flux."""

from pathlib import Path
from typing import Any

import pytest
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor

from packdit.export import encoder_testing as small
from packdit.export.pipeline_testing import STEPS, Comparison
from packdit.export.testing import randomize
from packdit.kernels import patchify, unpatchify
from packdit.runtime import Request
from packdit.runtime.request import CompleteRequest

pytestmark = [
    pytest.mark.filterwarnings("ignore:the prompt has:UserWarning"),
    # diffusers 0.42 turns tensors into arrays in a way that numpy 2 warns of.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def vae(**config: Any) -> Any:
    """One of 4 channels that halves sides once."""
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
    }
    return randomize(AutoencoderKL(layers_per_block=1, latent_channels=4, **blocks, **config), 3)


def requests(*sizes: tuple[int, int], **fields: Any) -> list[Request]:
    prompts = ["a red circle moves right", "", "a blue square"]
    return [
        Request(prompt=prompt, width=width, height=height, steps=STEPS, seed=i, **fields)
        for i, (prompt, (width, height)) in enumerate(zip(prompts, sizes, strict=True))
    ]


def run_dit(pipeline: Any, request: CompleteRequest, noise: Tensor) -> Tensor:
    """It takes no latents and gives none: its noise is given in secret, and what it decodes is looked at."""
    seen: list[Tensor] = []
    label = pipeline.labels.get(request.prompt, request.prompt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda *_, **__: noise[None, :, 0])
        patch.setattr(pipeline.vae, "decode", lambda z: seen.append(z) or (_ for _ in ()).throw(StopIteration))
        with pytest.raises(RuntimeError):
            pipeline([int(label)], guidance_scale=request.guidance, num_inference_steps=request.steps)
    return seen[0][0, :, None] * pipeline.vae.config.scaling_factor


@pytest.mark.parametrize("scheduler", [DDIMScheduler(clip_sample=False), DPMSolverMultistepScheduler()])
def test_dit(scheduler: Any, tmp_path: Path) -> None:
    transformer = DiTTransformer2DModel(
        sample_size=8, num_layers=2, attention_head_dim=8, num_attention_heads=3, in_channels=4, out_channels=8
    )
    names = {"207": "golden retriever", "1": "goldfish, Carassius auratus"}
    pipeline = DiTPipeline(randomize(transformer, 0), vae(), scheduler, id2label=names)
    pipeline.register_to_config(id2label=names)  # as the published checkpoints have it
    comparison = Comparison.of(pipeline, tmp_path)
    common: dict[str, Any] = {"width": 16, "height": 16, "steps": STEPS}
    comparison.check(
        run_dit,
        [
            Request(prompt="golden retriever", seed=1, **common),
            Request(prompt="3", seed=2, guidance=1, **common),
            Request(prompt="Carassius auratus", seed=3, guidance=2.5, **common),
        ],
    )
    with pytest.raises(ValueError, match="this model's prompt is a class"):
        comparison.engine.submit(Request(prompt="dog", **common))


def run_sd3(pipeline: Any, request: CompleteRequest, noise: Tensor) -> Tensor:
    images = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width=request.width,
        height=request.height,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        latents=noise[None, :, 0],
        output_type="latent",
        max_sequence_length=256,
    ).images
    return images[0, :, None]


@pytest.mark.parametrize("with_t5", [True, False])
def test_stable_diffusion_3(with_t5: bool, tmp_path: Path) -> None:
    transformer = SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_projection_dim=24,
        joint_attention_dim=48,
        pooled_projection_dim=44,
        pos_embed_max_size=24,
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=randomize(transformer, 0),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=1.5, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=small.clip_text_encoder(16, 1, projection=24),
        tokenizer=small.clip_tokenizer(),
        text_encoder_2=small.clip_text_encoder(24, 2, projection=20),
        tokenizer_2=small.clip_tokenizer(pad="!"),
        text_encoder_3=small.t5_encoder(48) if with_t5 else None,
        tokenizer_3=small.t5_tokenizer() if with_t5 else None,
    )
    asked = requests((32, 48), (16, 16), (48, 32), guidance=4)
    Comparison.of(pipeline, tmp_path).check(run_sd3, asked)


def run_flux(pipeline: Any, request: CompleteRequest, noise: Tensor) -> Tensor:
    """Its latents are tokens, as patchify makes them."""
    tokens = pipeline(
        prompt=request.prompt,
        width=request.width,
        height=request.height,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        latents=patchify([noise.contiguous()], (1, 2, 2))[None],
        output_type="latent",
    ).images
    grid = (1, noise.shape[2], noise.shape[3])
    return unpatchify(tokens[0].contiguous(), [grid], (1, 2, 2))[0]


@pytest.mark.parametrize("guided", [True, False])
def test_flux(guided: bool, tmp_path: Path) -> None:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=32,
        pooled_projection_dim=24,
        guidance_embeds=guided,
        axes_dims_rope=(4, 4, 8),
    )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guided),
        vae=vae(scaling_factor=0.36, shift_factor=0.11, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=small.clip_text_encoder(24),
        tokenizer=small.clip_tokenizer(),
        text_encoder_2=small.t5_encoder(32),
        tokenizer_2=small.t5_tokenizer(),
        transformer=randomize(transformer, 0),
    )
    asked = requests((32, 48), (16, 16), (48, 32), guidance=3 if guided else 1)
    Comparison.of(pipeline, tmp_path).check(run_flux, asked)
