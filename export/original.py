"""Checkpoints as the models' own repositories and other programs write them: one file, names of their own, no config.

Names become diffusers', and the config follows from the shapes. What there is to know of a model is data in a module of
`families`, one of FORMATS:

    CLASS: str                          diffusers' name for it
    MARKS: tuple[str, ...]              keys by which it is known
    config(shapes, told) -> dict        diffusers' config; told is the repository's own, or empty
    SPLIT: tuple[tuple[str, tuple[str, ...]], ...]      a regular expression of keys whose tensors hold several of
                                        diffusers', from the top, each as high as the model is wide, the last with what
                                        is left; and what the expression becomes in the name of each
    SWAPPED: tuple[str, ...]            of keys whose tensors' upper and lower halves change places
    RENAMED: tuple[tuple[str, str], ...]        regular expressions and what they become, after that
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..runtime.request import quote
from .entry import rename

if TYPE_CHECKING:
    from .source import Stored

FORMATS = ("wan_original", "hunyuan_video_original")
PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "model.")

Shapes = dict[str, tuple[int, ...]]


def modules() -> list[Any]:
    """Of all models that are known by their names."""
    return [import_module(f".families.{name}", __package__) for name in FORMATS]


def translate(tensors: dict[str, Stored], told: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Stored]] | None:
    """diffusers' class, config and names of a checkpoint; None where its names are those of no known model.

    told: the config of the model's own repository, or empty. ValueError where the shapes contradict the names.
    """
    for model in modules():
        for prefix in PREFIXES:
            if not all(prefix + mark in tensors for mark in model.MARKS):
                continue
            plain = {key.removeprefix(prefix): stored for key, stored in tensors.items()}
            try:
                config = model.config({key: stored.shape for key, stored in plain.items()}, told)
            except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError) as error:
                what = f"the checkpoint has names of {model.CLASS}, but its tensors make no config"
                raise ValueError(f"{what}: {quote(error)}") from error
            width = config["num_attention_heads"] * config["attention_head_dim"]
            parts = [part for key, stored in plain.items() for part in divide(model, key, stored, width).items()]
            return model.CLASS, config, {rename(model.RENAMED, key): part for key, part in parts}
    return None


def divide(model: Any, key: str, stored: Stored, width: int) -> dict[str, Stored]:
    """A tensor by diffusers' name, or its parts by theirs."""
    for pattern, names in getattr(model, "SPLIT", ()):
        if re.search(pattern, key):
            ends = [*(width * (i + 1) for i in range(len(names) - 1)), stored.shape[0]]
            places = zip(names, [0, *ends[:-1]], ends, strict=True)
            return {re.sub(pattern, name, key): stored.take((start, end)) for name, start, end in places}
    if any(re.search(pattern, key) for pattern in getattr(model, "SWAPPED", ())):
        height = stored.shape[0]
        return {key: stored.take((height // 2, height), (0, height // 2))}
    return {key: stored}


def count(shapes: Shapes, blocks: str) -> int:
    """How many `blocks` there are, by their numbers."""
    return 1 + max(int(key.removeprefix(f"{blocks}.").split(".")[0]) for key in shapes if key.startswith(f"{blocks}."))
