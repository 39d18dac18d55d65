"""What a request gives of its clip: as tokens of a lower noise level, or as channels beside the latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .media import resize
from .pack import Grid
from .path import Path, Stage
from .request import CompleteRequest, Condition
from .sampler import Solver, clamped_stages
from .vae import StreamingVAE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placed:
    """The given latents [C, t, h, w], 0 where none are; the level of each position [t, h, w]; the levels' stages."""

    clean: Tensor
    level: Tensor
    levels: list[list[Stage]]

    def start(self, noise: Tensor) -> Tensor:
        """The latents [C, t, h, w] before the first stage: each position at its level's noise."""
        first = [track[0] for track in self.levels]
        alpha, sigma = (torch.tensor([getattr(s, part) for s in first])[self.level] for part in ("alpha", "sigma"))
        return alpha * self.clean + sigma * noise


def place(request: CompleteRequest, grid: Grid, vae: StreamingVAE, path: Path, solve: Solver) -> Placed:
    """Lays the request's conditions into the latents of a clip, each distinct strength on a level of its own."""
    clean, level = torch.zeros(vae.latent_channels, *grid), torch.zeros(grid, dtype=torch.int64)
    levels = [solve(path)]
    strengths: list[float] = []
    for condition in request.conditions:
        strength = condition.strength * request.strength
        if strength not in strengths:
            strengths.append(strength)
            levels.append(clamped_stages(solve, path, 1 - strength))
        first, latents = encode_condition(condition, request, vae)
        clean[:, first : first + latents.shape[1]] = latents.cpu()
        level[first : first + latents.shape[1]] = 1 + strengths.index(strength)
    return Placed(clean=clean, level=level, levels=levels)


def place_none(vae: StreamingVAE, grid: Grid, path: Path, solve: Solver) -> Placed:
    """A clip of which no token is given."""
    clean, level = torch.zeros(vae.latent_channels, *grid), torch.zeros(grid, dtype=torch.int64)
    return Placed(clean=clean, level=level, levels=[solve(path)])


def encode_condition(condition: Condition, request: CompleteRequest, vae: StreamingVAE) -> tuple[int, Tensor]:
    """The first latent frame that a condition gives, and its latents [C, n, h, w], normalized.

    The clip before the given frames is filled with the first of them, the rest of the last group with the last of them
    (the VAE is causal, and the model was trained so).
    """
    group, end = vae.model.group, condition.start + len(condition.frames)
    first, last = (condition.start + group - 1) // group, (end - 1 + group - 1) // group + 1
    frames = resize(condition.frames, request.width, request.height)
    index = np.arange(1 + (last - 1) * group).clip(condition.start, end - 1) - condition.start
    return first, vae.normalize(vae.encode(_pixels(frames[index])))[:, first:last]


def clip_channels(request: CompleteRequest, vae: StreamingVAE) -> Tensor:
    """Channels [group + C, t, h, w] of a clip that is given in part, as Wan's image to video takes them.

    First which of its group's pixel frames each latent frame was given (the first frame, a group alone, counts for
    all), then the latents of the clip with gray where nothing is given.
    """
    group, (t, y, x) = vae.model.group, vae.latent_grid(request.width, request.height, request.frames)
    video = torch.zeros(3, request.frames, request.height, request.width)
    given = torch.zeros(request.frames)
    for condition in request.conditions:
        where = slice(condition.start, condition.start + len(condition.frames))
        video[:, where] = _pixels(resize(condition.frames, request.width, request.height))
        given[where] = 1
    mask = torch.cat([given[:1].expand(group), given[1:]]).view(t, group).t()[:, :, None, None].expand(-1, -1, y, x)
    return torch.cat([mask, vae.normalize(vae.encode(video)).cpu()])


def first_channels(request: CompleteRequest, grid: Grid, vae: StreamingVAE) -> Tensor:
    """Channels [C, t, h, w], 0 but for the first latent frame, which holds the given picture's latents."""
    channels = torch.zeros(vae.latent_channels, *grid)
    frames = resize(request.conditions[-1].frames, request.width, request.height)
    channels[:, :1] = vae.normalize(vae.encode(_pixels(frames))).cpu()
    return channels


def _pixels(frames: np.ndarray) -> Tensor:
    """uint8 [n, h, w, 3] -> [3, n, h, w] in -1..1."""
    return torch.tensor(frames).permute(3, 0, 1, 2).float() / 127.5 - 1
