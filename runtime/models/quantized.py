"""Models some of whose linear layers hold int8 weights: `<layer>.weight` int8 [out, in] and `<layer>.scale` [out]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .layers import Linear


def quantized_layers(weights: dict[str, Tensor]) -> list[str]:
    """The names of the layers whose weights are int8."""
    return [k.removesuffix(".weight") for k, v in weights.items() if v.dtype == torch.int8 and k.endswith(".weight")]


def quantized_module(make: Callable[[Any], nn.Module], weights: dict[str, Tensor], config: Any) -> nn.Module:
    """`make(config)` with room for what `weights` holds. ValueError where an int8 tensor is no linear layer's."""
    module = make(config)
    for name in quantized_layers(weights):
        part = module.get_submodule(name)
        if not isinstance(part, Linear):
            raise ValueError(f"{name} is no linear layer, but its weight is int8")
        part.quantize()
    return module


def dequantized(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with float32 instead of int8 weights."""
    layers = quantized_layers(weights)
    floats = {k: v for k, v in weights.items() if k not in {f"{name}.scale" for name in layers}}
    return floats | {f"{n}.weight": weights[f"{n}.weight"] * weights[f"{n}.scale"][:, None] for n in layers}
