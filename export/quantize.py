"""int8 for the large linear layers of a transformer: which, and how they are stored.

Each weight is rounded by a scale a row, as `packdit.kernels.linear_int8` defines it; at run time tokens are rounded
likewise. What is not quantized: embedders, heads and what makes modulation, which see few rows and whose errors reach
every token; layers narrower than MIN_WIDTH, which gain nothing; and the VAE and text encoders, which run once a clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.linear_int8 import quantize_rows
from ..runtime.load import empty_module
from ..runtime.models import transformer_class
from ..runtime.models.layers import Linear
from .entry import Make
from .plan import Piece
from .source import Component

Plans = dict[str, list[Piece]]  # by component
METHODS = ("none", "int8")
MIN_WIDTH = 64


def quantizable(model: nn.Module) -> list[str]:
    """The names of a transformer's linear layers that int8 is for: large ones of its repeated blocks."""
    return [name for name, part in model.named_modules() if isinstance(part, Linear) and _is_large(name, part)]


def _is_large(name: str, part: Linear) -> bool:
    steps = name.split(".")
    is_in_a_block = any(step.isdigit() for step in steps)
    return is_in_a_block and not any("modulation" in step for step in steps) and min(part.weight.shape) >= MIN_WIDTH


def quantized(parts: Mapping[str, Component], plans: Plans) -> Plans:
    """The plans of the components with int8 weights, each followed by its scale, for the quantizable layers."""
    return {name: _quantize(parts[name], pieces) for name, pieces in plans.items()}


def _quantize(part: Component, pieces: list[Piece]) -> list[Piece]:
    if part.kind != "transformer":
        return pieces
    model = empty_module(transformer_class(part.class_name), part.settings, part.title)
    chosen = {f"{name}.weight" for name in quantizable(model)}
    return [new for piece in pieces for new in (_split(piece) if piece.target in chosen else [piece])]


def _split(piece: Piece) -> list[Piece]:
    name = piece.target.removesuffix(".weight")
    return [
        _derived(piece, piece.target, piece.shape, torch.int8, 0),
        _derived(piece, f"{name}.scale", piece.shape[:1], torch.float32, 1),
    ]


def _derived(piece: Piece, target: str, shape: tuple[int, ...], dtype: torch.dtype, result: int) -> Piece:
    make = partial(_rounded, piece.make, result)
    return Piece(target=target, shape=shape, dtype=dtype, make=make, sources=piece.sources)


def _rounded(make: Make, result: int, sources: list[Tensor]) -> Tensor:
    """The values or the scales of what `make` makes."""
    return quantize_rows(make(sources))[result]


def describe(method: str, plans: Plans) -> Any:
    """What bundle.json says under quantization. ValueError where there is nothing to quantize."""
    if method == "none":
        return "none"
    layers = {name: sum(p.dtype == torch.int8 for p in pieces) for name, pieces in plans.items()}
    layers = {name: count for name, count in layers.items() if count}
    if not layers:
        raise ValueError(
            f"there is nothing for {method} in {', '.join(plans)}: it is for a transformer's layers of at least "
            f"{MIN_WIDTH} by {MIN_WIDTH}; leave out --quantize"
        )
    return {"method": method, "layers": layers, "relative_error": None}
