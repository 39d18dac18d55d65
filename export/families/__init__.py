"""What can be exported, as data: a file of this package describes one class of diffusers. It holds

    entries(config) -> list[Entry]      which tensors of the checkpoint become which of the runtime's model
    FUSED: tuple[str, ...]              what is fused, in sentences for bundle.json

and, where there is something to say,

    IGNORED: tuple[str, ...]            regular expressions of keys in checkpoints that nothing has a use for
    RENAMED: tuple[tuple[str, str], ...]        regular expressions and what they become, in keys that checkpoints spell
                                        in more than one way, before `entries`
    peer(model, *, latents, timesteps, text, **extras) -> Tensor        calls diffusers' own for one clip; arguments as
                                        the packed call takes them, of a list one entry. Its default calls it as Wan's
    adapt(config, clip) -> dict[str, Any]       a clip that `peer` takes, of a random one that is made of the packed
                                        model's widths and `extras`: the same keywords

and, where a VAE is called otherwise than Wan's,

    decode(model, latent) -> Tensor     calls diffusers' own: [C, T, H, W] -> [3, frames, height, width]
    encode(model, video) -> Tensor      its inverse, the mode of the distribution

A pipeline is described by a function of its model_index.json and of what every folder in it says of itself, by the
folder's name (config.json, scheduler_config.json, preprocessor_config.json or tokenizer_config.json):

    describe(index, configs) -> {"prompt": ..., "schedule": ..., "limits": ...}         for bundle.json
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ...runtime.request import quote

KINDS = {
    "transformer": {
        "ShapesVideoDiT": "shapes",
        "WanTransformer3DModel": "wan",
        "LatteTransformer3DModel": "latte",
        "DiTTransformer2DModel": "dit",
        "CogVideoXTransformer3DModel": "cogvideox",
        "LTXVideoTransformer3DModel": "ltx",
        "HunyuanVideoTransformer3DModel": "hunyuan_video",
        "SD3Transformer2DModel": "sd3",
        "FluxTransformer2DModel": "flux",
    },
    "vae": {
        "ShapesVideoVAE": "shapes_vae",
        "AutoencoderKLWan": "wan_vae",
        "AutoencoderKL": "kl_vae",
        "AutoencoderKLLTXVideo": "ltx_vae",
        "AutoencoderKLCogVideoX": "cogvideox_vae",
        "AutoencoderKLHunyuanVideo": "hunyuan_video_vae",
    },
    "text_encoder": dict.fromkeys(
        ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel", "UMT5EncoderModel", "LlamaModel"), "encoders"
    ),
    "image_encoder": dict.fromkeys(("CLIPVisionModel", "CLIPVisionModelWithProjection"), "encoders"),
}
"""A kind of component -> its classes, as config.json names them -> the file of this package, whose name is also the
family of a bundle that holds a component alone."""

PIPELINES = {
    "ShapesPipeline": ("shapes", "shapes:describe"),
    "WanPipeline": ("wan", "pipelines:wan"),
    "WanImageToVideoPipeline": ("wan", "pipelines:wan"),
    "DiTPipeline": ("dit", "pipelines:dit"),
    "LattePipeline": ("latte", "pipelines:latte"),
    "CogVideoXPipeline": ("cogvideox", "pipelines:cogvideox"),
    "CogVideoXImageToVideoPipeline": ("cogvideox", "pipelines:cogvideox"),
    "LTXPipeline": ("ltx", "pipelines:ltx"),
    "LTXImageToVideoPipeline": ("ltx", "pipelines:ltx"),
    "HunyuanVideoPipeline": ("hunyuan_video", "pipelines:hunyuan_video"),
    "StableDiffusion3Pipeline": ("sd3", "pipelines:sd3"),
    "FluxPipeline": ("flux", "pipelines:flux"),
}
"""A pipeline's class in model_index.json -> its family, and the function that describes it, as file:function."""

Describe = Callable[[dict[str, Any], dict[str, dict[str, Any]]], dict[str, Any]]


def is_known(name: Any) -> bool:
    """Whether a class can be exported."""
    return isinstance(name, str) and any(name in classes for classes in KINDS.values())


def kind_of(name: Any) -> str:
    """The kind of component that a class is. ValueError, with what is known, for a class that is not."""
    if is_known(name):
        return next(kind for kind, classes in KINDS.items() if name in classes)
    module_of("vae" if "utoencoder" in str(name) or "VAE" in str(name) else "transformer", name)
    raise AssertionError("not reached")


def module_of(kind: str, name: Any) -> Any:
    """The module that describes the class `name`. ValueError, with what is known, for one that is no such kind."""
    if not isinstance(name, str) or name not in KINDS[kind]:
        known = (re.sub(r"Transformer[23]DModel$", "", known) for known in KINDS[kind])
        what = "VAE" if kind == "vae" else kind.replace("_", " ")
        raise ValueError(f"the {what} class {quote(name)} is not known; known is that of {', '.join(known)}")
    return import_module(f".{KINDS[kind][name]}", __name__)


def family_of(kind: str, name: str) -> str:
    """The family of a bundle that holds a component alone."""
    return KINDS[kind][name]


def pipeline_of(name: Any) -> tuple[str, Describe]:
    """The family of the pipeline class `name` and its `describe`. ValueError, with all that are known, for another."""
    if not isinstance(name, str) or name not in PIPELINES:
        known = ", ".join(known.removesuffix("Pipeline") for known in PIPELINES)
        raise ValueError(f"the pipeline {quote(name)} is not known; known is that of {known}")
    family, place = PIPELINES[name]
    module, function = place.split(":")
    return family, getattr(import_module(f".{module}", __name__), function)
