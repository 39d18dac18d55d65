"""Reads a checkpoint: a diffusers pipeline directory. No pickles."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..runtime.request import quote

COMPONENTS = ("transformer", "vae", "text_encoder")
WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors")
PICKLES = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One component's folder: its config and its single safetensors file."""

    folder: Path
    config: dict[str, Any]
    file: Path

    def tensors(self) -> dict[str, Tensor]:
        """All tensors. ValueError where the file is truncated or is no safetensors file."""
        try:
            return load_file(self.file)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{quote(str(self.file))} is truncated or no safetensors file: {quote(error)}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. ValueError, in one sentence, where it is missing or is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{quote(str(path))} is missing; give a directory in diffusers' layout") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{quote(str(path))} cannot be read as JSON") from error
    if not isinstance(value, dict):
        raise ValueError(f"{quote(str(path))} must hold a JSON object")
    return value


def read_component(folder: Path) -> Component:
    """Finds a component's config and weights. ValueError where there are none, or only a pickle."""
    config = read_json(folder / "config.json")
    for name in WEIGHTS:
        if (folder / name).is_file():
            return Component(folder=folder, config=config, file=folder / name)
    pickles = [p.name for p in sorted(folder.iterdir()) if p.suffix in PICKLES]
    if pickles:
        raise ValueError(
            f"{quote(str(folder / pickles[0]))} is a pickle, which can run code when it is read; "
            "save the weights as safetensors and try again"
        )
    raise ValueError(f"no weights in {quote(str(folder))}; expected {' or '.join(WEIGHTS)}")


def read_pipeline(source: Path) -> dict[str, Component]:
    """The components of a pipeline directory. ValueError where one is missing."""
    read_json(source / "model_index.json")
    return {name: read_component(source / name) for name in COMPONENTS}
