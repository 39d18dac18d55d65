"""The shapes VAE on exported weights: chunks of frames, channels last, with what each convolution carries.

Trained by examples/shapes/vae.py, which explains the architecture. The context's cache holds the keys and values of the
WINDOW latest latent frames, so memory does not grow with duration. Chunks are whole groups: pixel frames 1, 4, 4, ...
and latent frames 1, 1, 1, ...; any split gives the whole clip's result bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import norm_silu, qk_norm_rope, varlen_attention
from ..pack import offsets
from .layers import CausalConv3d, Linear, NormSilu, Stream
from .shapes import rope_angles
from .vae import VideoVAE

CONTEXT_HEAD, CONTEXT_THETA = 32, 100.0
WINDOW = 16  # latent frames that the context sees, its own among them


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


class ContextLayer(nn.Module):
    """A pre-norm transformer layer: this frame's places [L, D] see those of the frames that the stream has kept."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.name = name
        self.norm1, self.norm2 = (nn.Parameter(torch.empty(width), requires_grad=False) for _ in range(2))
        self.q_norm, self.k_norm = (nn.Parameter(torch.empty(CONTEXT_HEAD), requires_grad=False) for _ in range(2))
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.fc1, self.fc2 = Linear(width, 2 * width), Linear(2 * width, width)

    def forward(self, x_LD: Tensor, cos: Tensor, sin: Tensor, stream: Stream) -> Tensor:
        h_LD = norm_silu(x_LD, self.norm1, activation=False)
        q, k, v = self.qkv(h_LD).view(len(x_LD), 3, -1, CONTEXT_HEAD).unbind(1)
        q, k = qk_norm_rope(q, k, cos, sin, q_weight=self.q_norm, k_weight=self.k_norm, layout="half")
        keys, values = self._remember("keys", k, stream), self._remember("values", v, stream)
        here, all_kept = (offsets([len(a)]).to(x_LD.device) for a in (q, keys))
        y_LD = varlen_attention(q, keys, values, here, all_kept, max_seqlen=len(q))
        x_LD = x_LD + self.out(y_LD.flatten(1))
        return x_LD + self.fc2(self.fc1(norm_silu(x_LD, self.norm2, activation=False), "gelu_tanh"))

    def _remember(self, what: str, new: Tensor, stream: Stream) -> Tensor:
        """The last WINDOW frames' rows with this frame's, which the stream keeps."""
        kept = stream.get(f"{self.name}.{what}")
        rows = new if kept is None else torch.cat([kept, new])[-WINDOW * len(new) :]
        stream[f"{self.name}.{what}"] = rows
        return rows


class Context(nn.Module):
    """Latents [t', h, w, c] -> what this and the earlier frames say of each place [t', h, w, cout] (arXiv 2210.02396,
    without its codebook). Works frame by frame, so that any split into chunks gives the same."""

    def __init__(self, latent: int, width: int, depth: int, cout: int) -> None:
        super().__init__()
        self.down = _space("context.down", latent, width, 2)
        self.layers = nn.ModuleList([ContextLayer(f"context.layers.{i}", width) for i in range(depth)])
        self.norm_out = nn.Parameter(torch.empty(width), requires_grad=False)
        self.up = Linear(width, 4 * cout)

    def forward(self, z: Tensor, stream: Stream) -> Tensor:
        return torch.cat([self._frame(frame, stream) for frame in z.split(1)])

    def _frame(self, z: Tensor, stream: Stream) -> Tensor:
        x = self.down(z, stream)
        _, h, w, width = x.shape
        index = stream.get("context.frames", torch.zeros((), dtype=torch.int64))
        stream["context.frames"] = index + 1
        angles = rope_angles((1, h, w), CONTEXT_HEAD, CONTEXT_THETA, int(index))
        dtype = torch.promote_types(z.dtype, torch.float32)
        cos, sin = (a.to(z.device, dtype) for a in (angles.cos(), angles.sin()))
        x = x.view(h * w, width)
        for layer in self.layers:
            x = layer(x, cos, sin, stream)
        x = self.up(norm_silu(x, self.norm_out, activation=False)).view(1, h, w, -1)
        return shuffle(x, 2)[:, : z.shape[1], : z.shape[2]]


class Decoder(nn.Module):
    """Latents [t', h/8, w/8, channels] -> pixels [t, h, w, 3]."""

    def __init__(self, latent: int, fine: int, coarse: int, context: int, depth: int) -> None:
        super().__init__()
        self.context = Context(latent, context, depth, coarse)
        self.conv_in = _space("conv_in", latent, coarse)
        self.coarse = nn.ModuleList([Res(f"coarse.{i}", coarse) for i in range(3)])
        self.grow = nn.ModuleList([_time(f"grow.{i}", coarse, 2 * coarse) for i in range(2)])
        self.up = Linear(coarse, 4 * fine)
        self.fine = nn.ModuleList([Res(f"fine.{i}", fine) for i in range(2)])
        self.norm_out = NormSilu(fine)
        self.conv_out = _space("conv_out", fine, 48)

    def forward(self, z: Tensor, stream: Stream) -> Tensor:
        first = not stream  # the very first latent frame is one pixel frame
        x = self.coarse[0](self.conv_in(z, stream) + self.context(z, stream), stream)
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
        fine, coarse = config["decoder_channels"]
        self.decoder = Decoder(self.latent_channels, fine, coarse, config["context_width"], config["context_depth"])
