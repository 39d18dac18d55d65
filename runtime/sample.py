"""A request in flight: its latents as tokens, its stages, its texts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..kernels import patchify, unpatchify
from .load import PackedTransformer
from .media import resize
from .pack import Grid, Segment
from .path import Stage
from .request import CompleteRequest, Condition
from .sampler import clamped_stages
from .schedule import Schedule
from .vae import StreamingVAE


@dataclass(slots=True, kw_only=True, eq=False)
class Sample:
    """Latents stay in token layout until they are decoded. L tokens, C features of a token.

    Tokens of one level share a noise level: level 0 is generated, each distinct strength of given frames is another.
    """

    request: CompleteRequest
    grid: Grid  # of the latent
    token_grid: Grid
    layout: dict[str, Tensor]  # what the model needs of each token's place, [L, n] each
    texts: list[Tensor]  # a text a sequence, embedded: [l, W], conditional first
    state: Tensor  # float32 [slots, L, C]; slot 0 holds the latents
    level: Tensor  # int64 [L]
    levels: list[list[Stage]]  # stages of each level
    stage: int  # the next one
    arrival: int
    last_step: int = field(default=-1)

    @property
    def num_tokens(self) -> int:
        return self.state.shape[1]

    @property
    def num_sequences(self) -> int:
        return len(self.texts)

    @property
    def num_stages(self) -> int:
        return len(self.levels[0])

    @property
    def done(self) -> bool:
        return self.stage >= self.num_stages

    def segment(self, branch: int) -> Segment:
        """The sequence of its text `branch`, at its next stage."""
        return Segment(
            grid=self.token_grid,
            layout=self.layout,
            row=self.level,
            timesteps=[track[self.stage].timestep for track in self.levels],
            text=self.texts[branch],
        )

    def latent(self, patch: Grid) -> Tensor:
        """The latents [C, T, H, W], normalized."""
        return unpatchify(self.state[0], [self.grid], patch)[0]


def start_noise(seed: int, channels: int, grid: Grid) -> Tensor:
    """Noise [channels, t, h, w] of a seed, float32, the same on every device and backend.

    Drawn on the CPU, and in float64: PyTorch's float32 noise has other bits where the CPU has no AVX2.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(channels, *grid, dtype=torch.float64, generator=generator).float()


def encode_condition(condition: Condition, request: CompleteRequest, vae: StreamingVAE) -> tuple[int, Tensor]:
    """The first latent frame that a condition gives, and its latents [C, n, h, w], normalized.

    The clip before the given frames is filled with the first of them, the rest of the last group with the last of them
    (the VAE is causal, and the model was trained so).
    """
    group, end = vae.model.group, condition.start + len(condition.frames)
    first, last = (condition.start + group - 1) // group, (end - 1 + group - 1) // group + 1
    frames = resize(condition.frames, request.width, request.height)
    index = np.arange(1 + (last - 1) * group).clip(condition.start, end - 1) - condition.start
    video = torch.from_numpy(frames[index]).permute(3, 0, 1, 2).float() / 127.5 - 1
    return first, vae.normalize(vae.encode(video))[:, first:last]


def make_sample(
    request: CompleteRequest,
    texts: list[Tensor],
    model: PackedTransformer,
    vae: StreamingVAE,
    schedule: Schedule,
    arrival: int,
) -> Sample:
    """A complete request, ready for its first step. `texts` holds the unconditional states too where it is guided."""
    grid = vae.latent_grid(request.width, request.height, request.frames)
    token_grid = model.token_grid(grid)
    clean, level, levels = place_conditions(request, vae, schedule, math.prod(token_grid))
    noise = start_noise(request.seed, vae.latent_channels, grid)
    alpha, sigma = (torch.tensor([getattr(track[0], part) for track in levels])[level] for part in ("alpha", "sigma"))
    patch = model.model.patch
    tokens = patchify([alpha * clean + sigma * noise], patch)
    slots = max(len(stage.matrix) for track in levels for stage in track)
    state = torch.zeros(slots, *tokens.shape)
    state[0] = tokens
    per_token = level[:: patch[0], :: patch[1], :: patch[2]].flatten()
    return Sample(
        request=request,
        grid=grid,
        token_grid=token_grid,
        layout=model.layout(token_grid),
        texts=[model.embed_text(text) for text in texts],
        state=state.to(model.device),
        level=per_token,
        levels=levels,
        stage=first_move([levels[k] for k in per_token.unique().tolist()]),
        arrival=arrival,
    )


def place_conditions(
    request: CompleteRequest, vae: StreamingVAE, schedule: Schedule, tokens: int
) -> tuple[Tensor, Tensor, list[list[Stage]]]:
    """The given latents [C, t, h, w], 0 where none are; the level of each position [t, h, w]; the levels' stages."""
    grid = vae.latent_grid(request.width, request.height, request.frames)
    clean, level = torch.zeros(vae.latent_channels, *grid), torch.zeros(grid, dtype=torch.int64)
    path, solve = schedule.make(request.steps, tokens, request.sampler)
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
    return clean, level, levels


def first_move(levels: list[list[Stage]]) -> int:
    """The first stage that changes any latents; the number of stages where none does."""
    for index, row in enumerate(zip(*levels, strict=True)):
        if any(stage.matrix[0][0] != 1.0 or any(stage.matrix[0][1:]) for stage in row):
            return index
    return len(levels[0])
