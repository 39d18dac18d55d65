"""The causal video VAE of the shapes model, as it is trained. `packdit.runtime.models` runs the exported weights.

Pixels [n, frames, height, width, 3] in -1..1 <-> latents [n, 1 + k, height/8, width/8, channels] for 1 + 4k frames: the
first frame alone, then groups of four. Every operation sees its own and earlier frames only, and norms are per
position, so a clip can be encoded and decoded in pieces with the same result. Continuous latents without a codebook:
noise and a small penalty in training keep them smooth.

What convolutions cannot reach comes from a context, as in TECO (arXiv 2210.02396): a transformer over the downsampled
latents of this and the earlier frames, WINDOW at most, tells the decoder what has been seen. Latents stay continuous.

Convolution weights are kept as matrices [out, taps * in] (time, y, x, in): the optimizer orthogonalizes matrices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from packdit.runtime.models.shapes import rope_angles
from packdit.runtime.models.shapes_vae import CONTEXT_HEAD, CONTEXT_THETA, WINDOW, shuffle, unshuffle


class Conv(nn.Module):
    """A causal convolution over [n, t, h, w, c]: `space` x `space` in a frame, or `time` frames at a position."""

    def __init__(self, cin: int, cout: int, *, space: int = 1, time: int = 1, stride: int = 1) -> None:
        super().__init__()
        assert space == 1 or time == 1, "either in space or in time"
        self.shape, self.stride = (cout, time, space, space, cin), stride
        self.weight = nn.Parameter(torch.randn(cout, time * space * space * cin) * (time * space * space * cin) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(cout))

    def forward(self, x: Tensor) -> Tensor:
        cout, time, space, _, cin = self.shape
        if time > 1:  # frames before the first are zero
            past = x.new_zeros(x.shape[0], time - 1, *x.shape[2:])
            x = torch.cat([past, x], 1)
            count = (x.shape[1] - time) // self.stride + 1
            x = torch.cat([x[:, i : i + (count - 1) * self.stride + 1 : self.stride] for i in range(time)], -1)
            return F.linear(x, self.weight, self.bias)
        n, t, h, w, _ = x.shape
        image = x.reshape(n * t, h, w, cin).permute(0, 3, 1, 2)
        weight = self.weight.view(cout, space, space, cin).permute(0, 3, 1, 2)
        image = F.conv2d(image, weight, self.bias, stride=self.stride, padding=space // 2)
        return image.permute(0, 2, 3, 1).reshape(n, t, *image.shape[2:], cout)


class NormSilu(nn.Module):
    """RMS norm over the channels of a position, then SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), 1e-6))


class Res(nn.Module):
    """x + temporal(norm(spatial(norm(x)))): a 3x3 convolution in the frame, then three frames at a position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = NormSilu(channels), NormSilu(channels)
        self.space, self.time = Conv(channels, channels, space=3), Conv(channels, channels, time=3)
        nn.init.zeros_(self.time.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.time(self.norm2(self.space(self.norm1(x))))


class Double(nn.Module):
    """Twice the frames: each becomes two, and the very first one's first half is dropped (1 + k -> 1 + 2k)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.time = Conv(channels, 2 * channels, time=3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, h, w, c = x.shape
        y = self.time(x).view(n, t, h, w, 2, c).permute(0, 1, 4, 2, 3, 5)
        return y.reshape(n, 2 * t, h, w, c)[:, 1:]


class Encoder(nn.Module):
    def __init__(self, latent: int, fine: int, coarse: int) -> None:
        super().__init__()
        self.conv_in = Conv(48, fine, space=3)
        self.fine = nn.ModuleList([Res(fine), Res(fine)])
        self.down = Conv(fine, coarse, space=3, stride=2)
        self.coarse = nn.ModuleList([Res(coarse), Res(coarse), Res(coarse)])
        self.halve = nn.ModuleList([Conv(coarse, coarse, time=3, stride=2) for _ in range(2)])
        self.norm_out = NormSilu(coarse)
        self.conv_out = Conv(coarse, latent, space=3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(unshuffle(x, 4))
        for block in self.fine:
            x = block(x)
        x = self.coarse[0](self.down(x))
        for halve, block in zip(self.halve, self.coarse[1:], strict=True):
            x = block(halve(x))
        return self.conv_out(self.norm_out(x))


class ContextLayer(nn.Module):
    """Attention and MLP of a pre-norm transformer, over [n, L, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.q_norm, self.k_norm = nn.Parameter(torch.ones(CONTEXT_HEAD)), nn.Parameter(torch.ones(CONTEXT_HEAD))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        n, length, _ = x.shape
        qkv = self.qkv(_norm(x, self.norm1)).view(n, length, 3, -1, CONTEXT_HEAD)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = (_rotate(_norm(a, w), cos, sin) for a, w in ((q, self.q_norm), (k, self.k_norm)))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(_norm(x, self.norm2)), approximate="tanh"))


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), 1e-6)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Context(nn.Module):
    """Latents [n, t, h, w, c] -> what earlier frames say of each place [n, t, h, w, cout]."""

    def __init__(self, latent: int, width: int, depth: int, cout: int) -> None:
        super().__init__()
        self.down = Conv(latent, width, space=3, stride=2)
        self.layers = nn.ModuleList([ContextLayer(width) for _ in range(depth)])
        self.norm_out = nn.Parameter(torch.ones(width))
        self.up = nn.Linear(width, 4 * cout)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, z: Tensor) -> Tensor:
        x = self.down(z)
        n, t, h, w, c = x.shape
        angles = rope_angles((t, h, w), CONTEXT_HEAD, CONTEXT_THETA)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        age = torch.arange(t)[:, None] - torch.arange(t)
        mask = ((age >= 0) & (age < WINDOW)).repeat_interleave(h * w, 0).repeat_interleave(h * w, 1)
        x = x.view(n, t * h * w, c)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        x = self.up(_norm(x, self.norm_out)).view(n, t, h, w, -1)
        return shuffle(x, 2)[:, :, : z.shape[2], : z.shape[3]]


class Decoder(nn.Module):
    def __init__(self, latent: int, fine: int, coarse: int, context: int, depth: int) -> None:
        super().__init__()
        self.context = Context(latent, context, depth, coarse)
        self.conv_in = Conv(latent, coarse, space=3)
        self.coarse = nn.ModuleList([Res(coarse), Res(coarse), Res(coarse)])
        self.grow = nn.ModuleList([Double(coarse) for _ in range(2)])
        self.up = Conv(coarse, 4 * fine)
        self.fine = nn.ModuleList([Res(fine), Res(fine)])
        self.norm_out = NormSilu(fine)
        self.conv_out = Conv(fine, 48, space=3)

    def forward(self, z: Tensor, seen: Tensor | None = None) -> Tensor:
        """seen [n]: 0 where a clip is decoded without its context (to train both ways, and to compare them)."""
        context = self.context(z)
        if seen is not None:
            context = context * seen.view(-1, 1, 1, 1, 1)
        x = self.coarse[0](self.conv_in(z) + context)
        for grow, block in zip(self.grow, self.coarse[1:], strict=True):
            x = block(grow(x))
        x = shuffle(self.up(x), 2)
        for block in self.fine:
            x = block(x)
        return shuffle(self.conv_out(self.norm_out(x)), 4)


class VideoVAE(nn.Module):
    """Both halves. Statistics of the latents are measured after training; the transformer works on normalized ones."""

    def __init__(
        self,
        latent_channels: int = 12,
        encoder_channels: tuple[int, int] = (48, 96),
        decoder_channels: tuple[int, int] = (64, 128),
        context_width: int = 96,
        context_depth: int = 2,
    ) -> None:
        super().__init__()
        self.config = {
            "_class_name": "ShapesVideoVAE",
            "latent_channels": latent_channels,
            "encoder_channels": list(encoder_channels),
            "decoder_channels": list(decoder_channels),
            "context_width": context_width,
            "context_depth": context_depth,
        }
        self.encoder = Encoder(latent_channels, *encoder_channels)
        self.decoder = Decoder(latent_channels, *decoder_channels, context_width, context_depth)
