"""The packed video diffusion transformer of the shapes model, as it is trained.

Clips of one shape form a group [n, tokens]; the groups of a step are concatenated for everything but attention. The
block is DiT's (arXiv 2212.09748): layer norm, shift and scale from the clip's own condition, attention, gate, MLP. A
token's place enters as 3-D rotary embedding (arXiv 2104.09864, per axis) and as features of its fractional position.
Given (clean) tokens are modulated by the condition of noise level 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from packdit.runtime.models.shapes import NUM_FEATURES, position_features, rope_angles, timestep_features

ROPE_THETA = 100.0


@dataclass(slots=True)
class Group:
    """Clips of one shape: tokens [n, L, C], noise levels [n], pooled text [n, D], given [n, L] (None: none is)."""

    tokens: Tensor
    grid: tuple[int, int, int]
    sigma: Tensor
    text: Tensor
    given: Tensor | None = None


class Block(nn.Module):
    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm = nn.Parameter(torch.ones(width // heads)), nn.Parameter(torch.ones(width // heads))
        self.out = nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, mlp), nn.Linear(mlp, width)
        self.modulation = nn.Linear(width, 6 * width)

    def attention(self, x: Tensor, groups: list[Group], ropes: list[tuple[Tensor, Tensor]]) -> Tensor:
        """x [T, D] over all groups -> [T, D]."""
        qkv = self.qkv(x).view(len(x), 3, self.heads, -1)
        outs, start = [], 0
        for group, (cos, sin) in zip(groups, ropes, strict=True):
            n, length = group.tokens.shape[:2]
            part = qkv[start : start + n * length].view(n, length, 3, self.heads, -1)
            q, k, v = part.permute(2, 0, 3, 1, 4)
            q = _rotate(F.rms_norm(q, q.shape[-1:], self.q_norm.to(q.dtype), 1e-6), cos, sin)
            k = _rotate(F.rms_norm(k, k.shape[-1:], self.k_norm.to(k.dtype), 1e-6), cos, sin)
            # Sequences are short: two products and a softmax take half the time of the fused op, forward and backward.
            y = torch.softmax(q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1), -1) @ v
            outs.append(y.transpose(1, 2).reshape(n * length, -1))
            start += n * length
        return self.out(torch.cat(outs))

    def forward(
        self, x: Tensor, noisy: Tensor, clean: Tensor, groups: list[Group], ropes: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        tables = [self.modulation(c).chunk(6, -1) for c in (noisy, clean)]
        shift1, scale1, gate1, shift2, scale2, gate2 = (_spread(a, b, groups) for a, b in zip(*tables, strict=True))
        width = x.shape[-1:]
        x = x + gate1 * self.attention(F.layer_norm(x, width, eps=1e-6) * (1 + scale1) + shift1, groups, ropes)
        h = F.layer_norm(x, width, eps=1e-6) * (1 + scale2) + shift2
        return x + gate2 * self.fc2(F.gelu(self.fc1(h), approximate="tanh"))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [n, heads, L, d]: the pair (i, i + d/2) turns by the token's angle."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def _spread(noisy: Tensor, clean: Tensor, groups: list[Group]) -> Tensor:
    """Per-clip rows [N, D] to tokens [T, D]: the clean row where a token is given."""
    rows, start = [], 0
    for group in groups:
        n, length = group.tokens.shape[:2]
        part = noisy[start : start + n, None].expand(n, length, -1)
        if group.given is not None:
            mask = group.given[..., None].to(part.dtype)
            part = part + mask * (clean[start : start + n] - noisy[start : start + n])[:, None]
        rows.append(part.reshape(n * length, -1))
        start += n
    return torch.cat(rows)


class VideoDiT(nn.Module):
    """Predicts the flow velocity v = noise - clean from x = (1 - sigma) clean + sigma noise.

    The network's own target has unit variance at every sigma: v = (2 sigma - 1) / s^2 x + F / s with
    s^2 = sigma^2 + (1 - sigma)^2, and its input is x / s (preconditioning after arXiv 2206.00364, section 5).
    """

    def __init__(
        self,
        in_channels: int = 12,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        width: int = 192,
        depth: int = 6,
        heads: int = 6,
        mlp: int = 576,
        text_width: int = 128,
    ) -> None:
        super().__init__()
        self.config = {
            "_class_name": "ShapesVideoDiT",
            "in_channels": in_channels,
            "patch_size": list(patch_size),
            "width": width,
            "depth": depth,
            "heads": heads,
            "mlp": mlp,
            "text_width": text_width,
            "rope_theta": ROPE_THETA,
        }
        self.head_dim = width // heads
        tokens = in_channels * math.prod(patch_size)
        self.embed = nn.Linear(tokens + NUM_FEATURES, width)
        self.time1, self.time2 = nn.Linear(128, width), nn.Linear(width, width)
        self.text1, self.text2 = nn.Linear(text_width, width), nn.Linear(width, width)
        self.blocks = nn.ModuleList([Block(width, heads, mlp) for _ in range(depth)])
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, tokens)
        for module in [self.head, self.modulation, *(block.modulation for block in self.blocks)]:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)

    def condition(self, sigma: Tensor, text: Tensor) -> Tensor:
        """Noise levels [n] and pooled text [n, text_width] -> [n, width]."""
        time = self.time2(F.silu(self.time1(timestep_features(1000 * sigma).float())))
        return F.silu(time + self.text2(F.silu(self.text1(text))))

    def forward(self, groups: list[Group]) -> list[Tensor]:
        """Velocities, one [n, L, C] a group."""
        sigma, text = torch.cat([g.sigma for g in groups]), torch.cat([g.text for g in groups])
        noisy, clean = self.condition(sigma, text), self.condition(torch.zeros_like(sigma), text)
        inputs, ropes, skips, gains = [], [], [], []
        for group in groups:
            n, length, _ = group.tokens.shape
            level = group.sigma[:, None].expand(n, length)
            if group.given is not None:
                level = level.masked_fill(group.given, 0.0)
            spread = (level**2 + (1 - level) ** 2)[..., None]
            features = position_features(group.grid).float().to(sigma.device)
            inputs.append(torch.cat([group.tokens * spread.rsqrt(), features.expand(n, -1, -1)], -1).flatten(0, 1))
            skips.append((2 * level - 1)[..., None] / spread)
            gains.append(spread.rsqrt())
            angles = rope_angles(group.grid, self.head_dim, ROPE_THETA)
            ropes.append((angles.cos().float().to(sigma.device), angles.sin().float().to(sigma.device)))
        x = self.embed(torch.cat(inputs))
        ropes = [(cos.to(x.dtype), sin.to(x.dtype)) for cos, sin in ropes]
        for block in self.blocks:
            x = block(x, noisy, clean, groups, ropes)
        shift, scale = (
            _spread(a, b, groups)
            for a, b in zip(*(self.modulation(c).chunk(2, -1) for c in (noisy, clean)), strict=True)
        )
        x = self.head(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift).float()
        sizes = [g.tokens.shape[0] * g.tokens.shape[1] for g in groups]
        return [
            skip * group.tokens + gain * out.view_as(group.tokens)
            for group, skip, gain, out in zip(groups, skips, gains, x.split(sizes), strict=True)
        ]
