"""Modules that hold exported weights and call `packdit.kernels`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...kernels import carried, causal_conv3d, linear, norm_silu

Stream = dict[str, Tensor]
"""The frames that each causal convolution of a model carries to the next chunk, by the convolution's name."""


class Linear(nn.Module):
    """y = activation(x W^T + b); weight [out, in], bias [out]."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cout, cin), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(cout), requires_grad=False)

    def forward(self, x: Tensor, activation: str | None = None) -> Tensor:
        return linear(x, self.weight, self.bias, activation=activation)


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


class NormSilu(nn.Module):
    """RMS norm over the channels, then SiLU; weight [channels]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return norm_silu(x, self.weight)


def lay_out(module: nn.Module) -> None:
    """Stores every linear weight with its inputs as rows, which the kernels read fastest; no value changes."""
    for part in module.modules():
        if isinstance(part, Linear):
            part.weight.data = part.weight.data.t().contiguous().t()
