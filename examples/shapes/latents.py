"""What the transformer trains on: encoded clips, each used a few times, some with given frames."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from text import MAX_LENGTH
from torch import Tensor
from vae import VideoVAE
from world import caption, render, sample_clip

from packdit.kernels import patchify

PATCH = (1, 2, 2)


def given_span(rng: np.random.Generator, frames: int) -> tuple[int, int]:
    """Frames [start, end) that are given: the first, the last or any one image, or the clip's beginning or end."""
    kind = rng.choice(5, p=[0.4, 0.15, 0.1, 0.2, 0.15])
    if kind == 0:
        return 0, 1
    if kind == 1:
        return frames - 1, frames
    at = int(rng.integers(1, frames))
    return [(at, at + 1), (0, at), (at, frames)][kind - 2]


def fill(pixels: Tensor, start: int, end: int) -> Tensor:
    """Frames before the given ones become the first given, those after the last given: what use knows of the clip."""
    index = torch.arange(pixels.shape[0]).clamp(start, end - 1)
    return pixels[index]


def groups_of(start: int, end: int) -> tuple[int, int]:
    """Latent frames [first, last) that hold pixel frames [start, end): the first alone, then groups of four."""
    return (start + 3) // 4, (end - 1 + 3) // 4 + 1


class LatentPool:
    """Keeps the latest encoded groups of every shape; a draw is new until there are `depth`, later mostly not."""

    def __init__(
        self,
        vae: VideoVAE,
        mean: Tensor,
        std: Tensor,
        tokenizer: Any,
        seed: int,
        step: int,
        two: float,
        depth: int = 12,
    ) -> None:
        self.vae, self.mean, self.std, self.tokenizer, self.depth = vae, mean, std, tokenizer, depth
        self.two = two  # the share of clips with two objects
        self.fresh = np.random.default_rng([seed, 2, step])
        self.shapes: dict[tuple[int, int, int], list[dict[str, Any]]] = {}

    def draw(self, rng: np.random.Generator, width: int, height: int, frames: int, tokens: int) -> dict[str, Any]:
        """A group: tokens [n, L, C], grid, given [n, L] or None, `clean` [n, L, C] with it, and the captions' ids."""
        kept = self.shapes.setdefault((width, height, frames), [])
        if len(kept) < self.depth or rng.random() < 0.15:
            kept.append(self._encode(width, height, frames, tokens))
            del kept[: -self.depth]
            part = kept[-1]
        else:
            part = kept[int(rng.integers(len(kept)))]
        return {**part, "ids": [self._ids(clip, rng) for clip in part["clips"]]}

    def _ids(self, clip: Any, rng: np.random.Generator) -> Tensor:
        """Caption tokens; one caption in ten is empty, one word in fifty unknown."""
        words = "" if rng.random() < 0.1 else caption(clip, rng, full=rng.random() < 0.4)
        words = " ".join("?" if rng.random() < 0.02 else word for word in words.split())
        return torch.tensor(self.tokenizer(words, truncation=True, max_length=MAX_LENGTH)["input_ids"])

    @torch.no_grad()
    def _encode(self, width: int, height: int, frames: int, tokens: int) -> dict[str, Any]:
        rng = self.fresh
        grid = (1 + (frames - 1) // 4, height // 8 // PATCH[1], width // 8 // PATCH[2])
        count = max(1, tokens // (grid[0] * grid[1] * grid[2]))
        clips = [sample_clip(rng, width, height, frames, count=1 + (rng.random() < self.two)) for _ in range(count)]
        pixels = render(clips, width, height, frames)
        part = {"clips": clips, "grid": grid, "tokens": self._tokens(pixels), "given": None}
        if frames > 1 and rng.random() < 0.15:
            spans = [given_span(rng, frames) for _ in clips]
            filled = torch.stack([fill(clip, *span) for clip, span in zip(pixels, spans, strict=True)])
            given = torch.zeros(count, grid[0], grid[1] * grid[2], dtype=torch.bool)
            for i, span in enumerate(spans):
                first, last = groups_of(*span)
                given[i, first:last] = True
            part.update(given=given.flatten(1), clean=self._tokens(filled))
        return part

    def _tokens(self, pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            z = self.vae.encoder(pixels.float() / 127.5 - 1)
        z = ((z.float() - self.mean) / self.std).permute(0, 4, 1, 2, 3)
        return patchify(list(z), PATCH).view(len(z), -1, z.shape[1] * math.prod(PATCH))
