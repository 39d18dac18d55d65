"""The classes that run what a bundle can hold, by the names that diffusers gives its own."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..request import quote

TRANSFORMERS = {
    "ShapesVideoDiT": ".shapes:ShapesTransformer",
    "WanTransformer3DModel": ".wan:WanTransformer",
    "LatteTransformer3DModel": ".latte:LatteTransformer",
    "DiTTransformer2DModel": ".dit:DiTTransformer",
    "CogVideoXTransformer3DModel": ".cogvideox:CogVideoXTransformer",
    "LTXVideoTransformer3DModel": ".ltx:LTXTransformer",
    "HunyuanVideoTransformer3DModel": ".hunyuan_video:HunyuanVideoTransformer",
    "SD3Transformer2DModel": ".sd3:SD3Transformer",
    "FluxTransformer2DModel": ".flux:FluxTransformer",
}
VAES = {
    "ShapesVideoVAE": ".shapes_vae:ShapesVAE",
    "AutoencoderKLWan": ".wan_vae:WanVAE",
    "AutoencoderKL": ".kl_vae:ImageVAE",
    "AutoencoderKLLTXVideo": ".ltx_vae:LTXVAE",
    "AutoencoderKLCogVideoX": ".cogvideox_vae:CogVideoXVAE",
    "AutoencoderKLHunyuanVideo": ".hunyuan_video_vae:HunyuanVideoVAE",
}


def transformer_class(name: str) -> Any:
    """The `PackedModel` that runs checkpoints of the class `name`. ValueError for a name that is not known."""
    return _load("transformer", TRANSFORMERS, name)


def vae_class(name: str) -> Any:
    """The streaming VAE of the class `name`: a module made from a config, with `encoder` and `decoder` for chunks.
    ValueError for a name that is not known."""
    return _load("VAE", VAES, name)


def _load(what: str, classes: dict[str, str], name: str) -> Any:
    if name not in classes:
        raise ValueError(
            f"the {what} class {quote(str(name)[:16])} is not known; this packdit knows {', '.join(classes)}"
        )
    module, attribute = classes[name].split(":")
    return getattr(import_module(module, __name__), attribute)
