"""What the VAEs share: the protocol that they follow, and the parts that most are made of.

Frames are [t, h, w, c]. A clip goes through in chunks; a `Stream` holds what one chunk leaves for the next: each part's
own under that part, so that a part need not have a name.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import carried, causal_conv3d, group_norm_silu, norm_silu, varlen_attention
from ...kernels.causal_conv3d import fastest_layout
from ..request import quote
from .frames import Triple, enlarge
from .layers import Linear, Stream, parameter

END = "end"  # in a stream while the clip's last chunk goes through: parts that look ahead give what they hold back
AFTER = ((0, 1), (0, 1))  # padding below and to the right alone, as strided convolutions of image VAEs have it


class VideoVAE(nn.Module):
    """A VAE made from the config of diffusers' class; ValueError where the config asks for what it cannot do.

    `decoder(z, stream)` takes chunks of latents in order and gives pixels; `encoder(x, stream)` takes pixels and gives
    the mean of each latent, and maybe more channels after it. A chunk may give no frames and a later one more.
    """

    latent_channels: int
    factor = 8  # pixels of a latent's side
    group = 1  # pixel frames of a latent frame after the first, which stands for one
    looks_ahead = False  # whether the decoder holds frames back until END is in the stream
    encoder: nn.Module
    decoder: nn.Module

    def latent_chunks(self, frames: int) -> list[slice]:
        """The latent frames that each call of the decoder takes, for a clip of so many."""
        return [slice(i, i + 1) for i in range(frames)]

    def pixel_chunks(self, frames: int) -> list[slice]:
        """As `latent_chunks`, for the encoder and the 1 + k * group frames of a video."""
        return [slice(0, 1), *(slice(i, i + self.group) for i in range(1, frames, self.group))]

    def begin(self) -> Stream:
        """The stream of a new clip; takes what else a decoder needs."""
        return {}

    def normalization(self, config: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [latent_channels] of the latents that the transformer takes as 0 and 1.

        ValueError where the config has no number for each channel.
        """
        mean, std = (_statistic(config, name, self.latent_channels) for name in ("latents_mean", "latents_std"))
        return mean, std


def _statistic(config: dict[str, Any], name: str, count: int) -> Tensor:
    values = config.get(name)
    if not isinstance(values, list | tuple) or len(values) != count or set(map(type, values)) - {int, float}:
        raise ValueError(f"the VAE's {name} must be {count} numbers, got {quote(values)}")
    return torch.tensor(values, dtype=torch.float32)


class Conv3d(nn.Module):
    """A convolution, weight [out, kt, kh, kw, in], that sees `ahead` later frames (0: it is causal).

    Before a clip's first frame are zeros, or, with `repeat`, copies of it; after the last, copies of that. padding and
    edges as in `causal_conv3d`.
    """

    def __init__(
        self, cin: int, cout: int, kernel: Triple, stride: Triple = (1, 1, 1), *, repeat: bool = False, **space: Any
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.repeat, self.ahead = kernel, stride, repeat, space.pop("ahead", 0)
        self.space = space
        self.weight, self.bias = parameter(cout, *kernel, cin), parameter(cout)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        if not len(x):
            return self._nothing(x)
        if self.kernel[0] == 1:
            return self.convolve(x, None)
        past = stream.get(self)
        before = self.kernel[0] - 1 - self.ahead
        if past is None and self.repeat:
            past = x[:1].expand(before, -1, -1, -1)
        if stream.get(END):
            x = torch.cat((x, *[x[-1:]] * self.ahead))
        stream[self] = carried(past, x, self.kernel[0], self.stride[0])
        if past is not None and len(past) + len(x) < self.kernel[0]:
            return self._nothing(x)
        return self.convolve(x, past)

    def convolve(self, x: Tensor, past: Tensor | None) -> Tensor:
        """The convolution of a chunk after what is carried."""
        return causal_conv3d(x, self.weight, self.bias, past=past, stride=self.stride, **self.space)

    def lay_out(self) -> None:
        """Stores the weight as the kernels read it fastest."""
        self.weight.data = fastest_layout(self.weight.data)

    def _nothing(self, x: Tensor) -> Tensor:
        return x.new_empty(0, *x.shape[1:3], len(self.bias))


class UpConv3d(Conv3d):
    """Every pixel as 2x2 equal ones, then a convolution of 3x3 pixels.

    Laid out it is four convolutions of 2x2 pixels of the small frame, a quarter of the outputs each, whose weights are
    sums of the given ones (nearest-neighbour pixels are equal): 4/9 of the products, and no large frame to read. Not in
    half precision, where rounding the sums would cost as much as all else.
    """

    def __init__(self, cin: int, cout: int, frames: int = 1, **options: Any) -> None:
        super().__init__(cin, cout, (frames, 3, 3), **options)

    def lay_out(self) -> None:
        """weight [out, kt, 3, 3, in] -> [2, 2, out, kt, 2, 2, in], by an output's place in its pixel's block, each part
        as the kernels read it fastest."""
        if self.weight.dtype.itemsize >= 4:
            rows = _halves(self.weight.data, 2)
            parts = [[fastest_layout(part) for part in _halves(row, 3)] for row in rows]
            self.weight.data = torch.stack([torch.stack(row) for row in parts])

    def convolve(self, x: Tensor, past: Tensor | None) -> Tensor:
        if self.weight.ndim == 5:
            large = None if past is None else enlarge(past, (1, 2, 2))
            return super().convolve(enlarge(x, (1, 2, 2)), large)
        (h, w), out = x.shape[1:3], None
        for a, b in product((0, 1), (0, 1)):
            around = (1 - a, a), (1 - b, b)
            part = causal_conv3d(x, self.weight[a, b], self.bias, past=past, padding=around, **self.space)
            out = part.new_empty(len(part), h, 2, w, 2, part.shape[3]) if out is None else out
            out[:, :, a, :, b] = part
        assert out is not None
        return out.view(len(out), 2 * h, 2 * w, -1)


def _halves(weight: Tensor, axis: int) -> list[Tensor]:
    """Three taps over pixels of which two are equal, for the first and for the second of an output's block."""
    first, middle, last = weight.unbind(axis)
    return [torch.stack((first, middle + last), axis), torch.stack((first + middle, last), axis)]


def conv2d(cin: int, cout: int, side: int = 3, stride: int = 1, **space: Any) -> Conv3d:
    """A convolution of each frame by itself."""
    return Conv3d(cin, cout, (1, side, side), (1, stride, stride), **space)


class RmsNorm(nn.Module):
    """RMS norm over the channels, then SiLU where it is asked for; weight [channels]."""

    def __init__(self, channels: int, *, activation: bool = True, eps: float) -> None:
        super().__init__()
        self.activation, self.eps = activation, eps
        self.weight = parameter(channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return norm_silu(x, self.weight, activation=self.activation, eps=self.eps)


class GroupNorm(nn.Module):
    """Group norm, of each frame by itself or, with `across`, of all frames of a chunk, then SiLU where asked for."""

    def __init__(
        self, channels: int, groups: int, *, across: bool = False, activation: bool = True, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.groups, self.across, self.activation, self.eps = groups, across, activation, eps
        self.weight, self.bias = parameter(channels), parameter(channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        positions = x.reshape(1 if self.across else len(x), -1, x.shape[-1])
        affine = self.weight, self.bias, self.groups
        return group_norm_silu(positions, *affine, activation=self.activation, eps=self.eps).view(x.shape)


class Res(nn.Module):
    """x, or a projection of it, plus two convolutions, each after a norm; `norm` and `conv` make them."""

    def __init__(
        self, cin: int, cout: int, norm: Callable[[int], nn.Module], conv: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(cin), conv(cin, cout)
        self.norm2, self.conv2 = norm(cout), conv(cout, cout)
        self.shortcut = None if cin == cout else conv2d(cin, cout, 1)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        h = self.conv1(self.norm1(x, stream), stream)
        h = self.conv2(self.norm2(h, stream), stream)
        return h + (x if self.shortcut is None else self.shortcut(x, stream))


class Attention(nn.Module):
    """x + self-attention with one head over what `norm` makes of x: within each frame or, with `causal`, over it and
    the chunk's frames before it."""

    def __init__(self, channels: int, norm: nn.Module, *, causal: bool = False) -> None:
        super().__init__()
        self.norm, self.causal = norm, causal
        self.qkv, self.out = Linear(channels, 3 * channels), Linear(channels, channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        frames, area, channels = len(x), x.shape[1] * x.shape[2], x.shape[3]
        q, k, v = self.qkv(self.norm(x, stream)).view(frames * area, 3, 1, channels).unbind(1)
        if self.causal:
            y = torch.cat([attend(q[i : i + area], k[: i + area], v[: i + area]) for i in range(0, len(q), area)])
        else:
            y = attend(q, k, v, frames)
        return x + self.out(y).view(x.shape)


class Middle(nn.Module):
    """A residual block, attention where there is any, a residual block."""

    def __init__(self, before: nn.Module, attention: nn.Module | None, after: nn.Module) -> None:
        super().__init__()
        self.before, self.attention, self.after = before, attention, after

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.before(x, stream)
        return self.after(x if self.attention is None else self.attention(x, stream), stream)


def attend(q: Tensor, k: Tensor, v: Tensor, segments: int = 1) -> Tensor:
    """Attention [n, channels] of q [n, 1, channels] to k and v [m, 1, channels] in equal segments of both."""
    edges = torch.arange(segments + 1, dtype=torch.int32, device=q.device)
    per_q, per_k = len(q) // segments, len(k) // segments
    return varlen_attention(q, k, v, edges * per_q, edges * per_k, max_seqlen=max(per_q, per_k)).flatten(1)


def held(part: nn.Module, x: Tensor, count: int, stream: Stream) -> Tensor:
    """The next `count` frames of those that came and have not been asked for; x are the newest."""
    before = stream.pop((part, "held"), None)
    waiting = x if before is None else torch.cat((before, x))
    if count < len(waiting):
        stream[part, "held"] = waiting[count:].clone()
    return waiting[:count]


def is_first(part: nn.Module, stream: Stream) -> bool:
    """Whether this stream asks for `part` for the first time."""
    first = part not in stream
    stream.setdefault(part, None)
    return first
