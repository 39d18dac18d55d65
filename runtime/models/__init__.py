"""The model families that a bundle can hold, by the name in its `family` field: transformer and VAE classes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_CLASSES = {"shapes": (".shapes:ShapesTransformer", ".shapes_vae:ShapesVAE")}
FAMILIES = tuple(_CLASSES)


def transformer_class(family: str) -> Any:
    """The packed transformer of a family: a module made from a config, called with tokens [T, C] and a Pack."""
    return _load(family, 0)


def vae_class(family: str) -> Any:
    """The streaming VAE of a family: a module made from a config, with `encoder` and `decoder` for chunks."""
    return _load(family, 1)


def _load(family: str, part: int) -> Any:
    module, name = _CLASSES[family][part].split(":")
    return getattr(import_module(module, __name__), name)
