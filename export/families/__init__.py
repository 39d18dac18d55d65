"""What can be exported, as data: a file of this package describes one class of diffusers. It holds

    entries(config) -> list[Entry]      which tensors of the checkpoint become which of the packed model
    FUSED: tuple[str, ...]              what is fused, in sentences for bundle.json

and, where a transformer is called otherwise than Wan's (`packdit.export.verify` has the defaults),

    peer(model, latent, timestep, text, **extras) -> Tensor     calls diffusers' own for one clip: latent [C, T, H, W],
                                        timestep a float, text [L, D] -> [C_out, T, H, W]
    extras(config, latent, generator) -> dict[str, Any]         random keywords of one clip, as the packed model takes
                                        them (beside latents, timesteps and text)

A pipeline is described by a function of its model_index.json and of the configs of its components, the scheduler's
too, by folder name:

    describe(index, configs) -> {"prompt": ..., "schedule": ..., "limits": ...}         for bundle.json
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from ...runtime.request import quote

TRANSFORMERS = {"ShapesVideoDiT": "shapes"}
VAES = {"ShapesVideoVAE": "shapes_vae"}
CLASSES = {**TRANSFORMERS, **VAES}
"""A class's name in config.json -> the file of this package, which is also the family of a bundle of it alone."""

PIPELINES = {"ShapesPipeline": ("shapes", "shapes:describe")}
"""A pipeline's class in model_index.json -> its family, and the function that describes it, as file:function."""

Describe = Callable[[dict[str, Any], dict[str, dict[str, Any]]], dict[str, Any]]


def family_of(name: Any) -> Any:
    """The module that describes the class `name`. ValueError, with all that are known, where there is none."""
    if not isinstance(name, str) or name not in CLASSES:
        raise ValueError(f"the class {quote(name)} is not known; known are {', '.join(CLASSES)}")
    return import_module(f".{CLASSES[name]}", __name__)


def pipeline_of(name: Any) -> tuple[str, Describe]:
    """The family of the pipeline class `name` and its `describe`. ValueError as `family_of`."""
    if not isinstance(name, str) or name not in PIPELINES:
        raise ValueError(f"the pipeline {quote(name)} is not known; known are {', '.join(PIPELINES)}")
    family, place = PIPELINES[name]
    module, function = place.split(":")
    return family, getattr(import_module(f".{module}", __name__), function)
