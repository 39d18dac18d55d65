"""Modules that hold exported weights and call `packdit.kernels`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import carried, causal_conv3d, linear, linear_int8, modulate, norm_silu
from ...kernels.causal_conv3d import fastest_layout as fastest_taps
from ...kernels.linear import fastest_layout
from ...kernels.linear_int8 import pack_int8

Stream = dict[Any, Any]
"""What one chunk of a clip leaves for the next: each part's own, under the part itself or its name."""


class Wide(nn.Parameter):
    """A parameter that stays float32 in a model of half precision: few numbers, whose rounding would cost much."""


def parameter(*shape: int, wide: bool = False) -> nn.Parameter:
    """An unset parameter; `wide` as `Wide`."""
    return (Wide if wide else nn.Parameter)(torch.empty(*shape), requires_grad=False)


def dtypes(module: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The dtype of each tensor of a module as it was made, where the module's is `dtype`."""
    wide = torch.promote_types(dtype, torch.float32)

    def of(p: Tensor) -> torch.dtype:
        return p.dtype if not p.is_floating_point() else wide if isinstance(p, Wide) else dtype

    return {name: of(p) for name, p in module.state_dict(keep_vars=True).items()}


class Linear(nn.Module):
    """y = activation(x W^T + b); weight [out, in], bias [out] or None.

    After `quantize` weight is int8 with a scale [out] of its rows, and x is rounded to int8, too.
    """

    def __init__(self, cin: int, cout: int, *, bias: bool = True, wide: bool = False) -> None:
        super().__init__()
        self.weight = parameter(cout, cin, wide=wide)
        self.bias = parameter(cout, wide=wide) if bias else None
        self.scale: nn.Parameter | None = None

    def quantize(self) -> None:
        """Makes room for int8 weights; before they are set."""
        self.weight = nn.Parameter(torch.empty_like(self.weight, dtype=torch.int8), requires_grad=False)
        self.scale = parameter(len(self.weight), wide=True)

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        if self.scale is not None:
            return linear_int8(x, self.weight, self.scale, self.bias, activation=activation)
        return linear(x, self.weight, self.bias, activation=activation)


class LayerNorm(nn.Module):
    """LayerNorm with an affine map, norm(x) * (1 + scale) + shift: a checkpoint's weight is 1 + scale."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.scale, self.shift = parameter(width, wide=True), parameter(width, wide=True)

    def forward(self, x: Tensor) -> Tensor:
        """x [T, D] -> [T, D]."""
        row = torch.zeros(len(x), dtype=torch.int32, device=x.device)
        return modulate(x, self.shift[None], self.scale[None], row, eps=self.eps)


class CausalConv3d(nn.Module):
    """A convolution over [t, h, w, c] that sees earlier frames only and carries what the next chunk needs.

    weight [out, kt, kh, kw, in]. `name` is its key in the stream.
    """

    def __init__(self, name: str, cin: int, cout: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.name, self.kernel, self.stride = name, kernel, stride
        self.weight = nn.Parameter(torch.empty(cout, *kernel, cin), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(cout), requires_grad=False)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        past = stream.get(self.name)
        if self.kernel[0] > 1:
            stream[self.name] = carried(past, x, self.kernel[0], self.stride[0])
        return causal_conv3d(x, self.weight, self.bias, past=past, stride=self.stride)

    def lay_out(self) -> None:
        """Stores the weight as the kernels read it fastest."""
        self.weight.data = fastest_taps(self.weight.data)


class NormSilu(nn.Module):
    """RMS norm over the channels, then SiLU; weight [channels]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return norm_silu(x, self.weight)


def lay_out(module: nn.Module) -> None:
    """Stores every linear weight as the kernels read it fastest, and calls what parts of a module of their own have of
    this name. No value changes by more than its rounding."""
    for part in module.modules():
        if isinstance(part, Linear):
            part.weight.data = (fastest_layout if part.scale is None else pack_int8)(part.weight.data)
        elif callable(own := getattr(part, "lay_out", None)):
            own()
