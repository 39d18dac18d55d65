"""The shapes VAE on exported weights: chunks of frames, channels last, with what each convolution carries.

Trained by examples/shapes/vae.py, which explains the architecture. Chunks are whole groups: pixel frames 1, 4, 4, ...
and latent frames 1, 1, 1, ...; any split gives the whole clip's result bit for bit.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .layers import CausalConv3d, Linear, NormSilu, Stream
from .vae import VideoVAE


def _space(name: str, cin: int, cout: int, stride: int = 1) -> CausalConv3d:
    return CausalConv3d(name, cin, cout, (1, 3, 3), (1, stride, stride))


def _time(name: str, cin: int, cout: int, stride: int = 1) -> CausalConv3d:
    return CausalConv3d(name, cin, cout, (3, 1, 1), (stride, 1, 1))


class Res(nn.Module):
    """x + temporal(norm(spatial(norm(x))))."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = NormSilu(channels), NormSilu(channels)
        self.space, self.time = _space(f"{name}.space", channels, channels), _time(f"{name}.time", channels, channels)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return x + self.time(self.norm2(self.space(self.norm1(x), stream)), stream)


def unshuffle(x: Tensor, factor: int) -> Tensor:
    """[..., h, w, c] -> [..., h/f, w/f, f*f*c], features in the order (y, x, c)."""
    *lead, h, w, c = x.shape
    x = x.reshape(-1, h // factor, factor, w // factor, factor, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(*lead, h // factor, w // factor, factor * factor * c)


def shuffle(x: Tensor, factor: int) -> Tensor:
    """The inverse of `unshuffle`."""
    *lead, h, w, c = x.shape
    c //= factor * factor
    x = x.reshape(-1, h, w, factor, factor, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(*lead, h * factor, w * factor, c)


class Encoder(nn.Module):
    """Pixels [t, h, w, 3] of whole groups -> latents [t', h/8, w/8, channels]."""

    def __init__(self, latent: int, fine: int, coarse: int) -> None:
        super().__init__()
        self.conv_in = _space("conv_in", 48, fine)
        self.fine = nn.ModuleList([Res(f"fine.{i}", fine) for i in range(2)])
        self.down = _space("down", fine, coarse, 2)
        self.coarse = nn.ModuleList([Res(f"coarse.{i}", coarse) for i in range(3)])
        self.halve = nn.ModuleList([_time(f"halve.{i}", coarse, coarse, 2) for i in range(2)])
        self.norm_out = NormSilu(coarse)
        self.conv_out = _space("conv_out", coarse, latent)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        x = self.conv_in(unshuffle(x, 4), stream)
        for block in self.fine:
            x = block(x, stream)
        x = self.coarse[0](self.down(x, stream), stream)
        for halve, block in zip(self.halve, self.coarse[1:], strict=True):
            x = block(halve(x, stream), stream)
        return self.conv_out(self.norm_out(x), stream)


class Decoder(nn.Module):
    """Latents [t', h/8, w/8, channels] -> pixels [t, h, w, 3]."""

    def __init__(self, latent: int, fine: int, coarse: int) -> None:
        super().__init__()
        self.conv_in = _space("conv_in", latent, coarse)
        self.coarse = nn.ModuleList([Res(f"coarse.{i}", coarse) for i in range(3)])
        self.grow = nn.ModuleList([_time(f"grow.{i}", coarse, 2 * coarse) for i in range(2)])
        self.up = Linear(coarse, 4 * fine)
        self.fine = nn.ModuleList([Res(f"fine.{i}", fine) for i in range(2)])
        self.norm_out = NormSilu(fine)
        self.conv_out = _space("conv_out", fine, 48)

    def forward(self, z: Tensor, stream: Stream) -> Tensor:
        first = not stream  # the very first latent frame is one pixel frame
        x = self.coarse[0](self.conv_in(z, stream), stream)
        for grow, block in zip(self.grow, self.coarse[1:], strict=True):
            t, h, w, c = x.shape
            x = grow(x, stream).view(t, h, w, 2, c).permute(0, 3, 1, 2, 4).reshape(2 * t, h, w, c)
            x = block(x[1:].contiguous() if first else x, stream)
        x = shuffle(self.up(x), 2)
        for block in self.fine:
            x = block(x, stream)
        return shuffle(self.conv_out(self.norm_out(x), stream), 4)


class ShapesVAE(VideoVAE):
    """Both halves."""

    group, factor = 4, 8  # pixel frames of a latent frame after the first, pixels of a latent's side

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.latent_channels: int = config["latent_channels"]
        self.encoder = Encoder(self.latent_channels, *config["encoder_channels"])
        self.decoder = Decoder(self.latent_channels, *config["decoder_channels"])
