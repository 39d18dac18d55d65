"""A request in flight: its latents as tokens, its stages, and what its sequences are told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..kernels import patchify, unpatchify
from .conditions import clip_channels, first_channels, place, place_none
from .load import PackedTransformer
from .pack import Grid, Segment
from .path import Stage
from .prompts import Told
from .request import CompleteRequest
from .schedule import Schedule
from .vae import StreamingVAE


@dataclass(slots=True, kw_only=True, eq=False)
class Sample:
    """Latents stay in token layout until they are decoded. L tokens, C features of a token.

    Tokens of one level share a noise level: level 0 is generated, each distinct strength of given frames is another.
    """

    request: CompleteRequest
    grid: Grid  # of the latent
    lead: int  # latent frames before the clip's own, which only fill up the first token
    token_grid: Grid
    layout: dict[str, Tensor]  # what the model needs of each token's place, [L, n] each
    told: list[Told]  # of each sequence, the conditional one first
    given: Tensor | None  # [L, Cg]: features of each token beside its latents, which no stage changes
    state: Tensor  # float32 [slots, L, C]; slot 0 holds the latents
    level: Tensor  # int64 [L]
    levels: list[list[Stage]]  # stages of each level
    switch: int  # the first stage of the second expert
    stage: int  # the next one
    arrival: int
    last_step: int = field(default=-1)
    _embedded: list[tuple[Tensor, Tensor | None, dict[str, Tensor]]] = field(default_factory=list)
    _embedded_by: PackedTransformer | None = field(default=None)

    @property
    def num_tokens(self) -> int:
        return self.state.shape[1]

    @property
    def num_sequences(self) -> int:
        return len(self.told)

    @property
    def num_stages(self) -> int:
        return len(self.levels[0])

    @property
    def expert(self) -> int:
        """Which of the model's transformers the next stage needs: 0, or 1 where there are two."""
        return int(self.stage >= self.switch)

    @property
    def done(self) -> bool:
        return self.stage >= self.num_stages

    def timesteps(self) -> list[float]:
        """What the model is told of each level at the next stage."""
        return [track[self.stage].timestep for track in self.levels]

    def segment(self, branch: int, model: PackedTransformer) -> Segment:
        """The sequence `branch` at its next stage, for `model`, which is that of `expert`."""
        if self._embedded_by is not model:  # what the other expert was told is not needed again
            self._embedded, self._embedded_by = [_embed(told, model) for told in self.told], model
        text, bias, extra = self._embedded[branch]
        return Segment(
            grid=self.token_grid,
            layout=self.layout,
            row=self.level,
            timesteps=self.timesteps(),
            text=text,
            text_bias=bias,
            extra=extra,
        )

    def refresh(self, patch: Grid) -> None:
        """New noise where the next stage reads some: of the request's seed and the stage alone."""
        for slot in {track[self.stage].fresh for track in self.levels} - {0}:
            channels = self.state.shape[2] // math.prod(patch)
            noise = start_noise(stage_seed(self.request.seed, self.stage), channels, self.grid)
            self.state[slot] = patchify([noise], patch).to(self.state.device)

    def latent(self, patch: Grid) -> Tensor:
        """The latents [C, T, H, W] of the clip, normalized."""
        return unpatchify(self.state[0], [self.grid], patch)[0][:, self.lead :]


def _embed(told: Told, model: PackedTransformer) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
    """Text, text bias and extras as a `Segment` of this model holds them. ValueError for what the model does not take,
    or lacks."""
    given, places = told.extra.keys(), model.model.layout_extras
    wanted = model.model.extras.keys() - set(places)
    if given != wanted:
        got = ", ".join(sorted(given)) or "nothing"
        raise ValueError(f"beside text this model takes {', '.join(sorted(wanted)) or 'nothing'}, got {got}")
    extra = {name: model.embed_extra(name, value) for name, value in told.extra.items()}
    if told.text is None:
        return torch.empty(0, 0, device=model.device, dtype=model.dtype), None, extra
    return model.embed_text(told.text), told.bias, extra


def start_noise(seed: int, channels: int, grid: Grid) -> Tensor:
    """Noise [channels, t, h, w] of a seed, float32, the same on every device and backend.

    Drawn on the CPU, and in float64: PyTorch's float32 noise has other bits where the CPU has no AVX2.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(channels, *grid, dtype=torch.float64, generator=generator).float()


def stage_seed(seed: int, stage: int) -> int:
    """The seed of the new noise of a stage."""
    return int(np.random.SeedSequence([seed, stage]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_sample(
    request: CompleteRequest,
    told: list[Told],
    model: PackedTransformer,
    vae: StreamingVAE,
    schedule: Schedule,
    arrival: int,
) -> Sample:
    """A complete request, ready for its first step. `told` has the unconditional sequence too where it is guided.

    The model's input channels say how frames are given: as many as the latents' (as tokens), or more (beside them).
    """
    patch = model.model.patch
    t, y, x = vae.latent_grid(request.width, request.height, request.frames)
    grid = (t + -t % patch[0], y, x)
    token_grid = model.token_grid(grid)
    path, solve = schedule.make(request.steps, math.prod(token_grid), request.sampler)
    beside = model.model.in_channels - vae.latent_channels
    placed = place_none(vae, grid, path, solve) if beside else place(request, grid, vae, path, solve)
    noise = start_noise(request.seed, vae.latent_channels, grid)
    tokens = patchify([placed.start(noise)], patch)
    state = torch.zeros(max(len(s.matrix) for track in placed.levels for s in track), *tokens.shape)
    state[0] = tokens
    per_token = placed.level[:: patch[0], :: patch[1], :: patch[2]].flatten()
    return Sample(
        request=request,
        grid=grid,
        lead=grid[0] - t,
        token_grid=token_grid,
        layout=model.layout(token_grid, **_places(request, model, vae)),
        told=told,
        given=patchify([_beside(request, grid, vae, beside)], patch).to(model.device) if beside else None,
        state=state.to(model.device),
        level=per_token,
        levels=placed.levels,
        switch=schedule.first_of_second(placed.levels[0]),
        stage=first_move([placed.levels[k] for k in per_token.unique().tolist()]),
        arrival=arrival,
    )


def _places(request: CompleteRequest, model: PackedTransformer, vae: StreamingVAE) -> dict[str, float]:
    """The model's `layout_extras` for a request."""
    known = {
        "latent_seconds": vae.model.group / request.fps,  # from one latent frame to the next
        "latent_pixels": float(vae.model.factor),  # the side of a latent
    }
    return {name: known[name] for name in model.model.layout_extras}


def _beside(request: CompleteRequest, grid: Grid, vae: StreamingVAE, channels: int) -> Tensor:
    """The given frames as channels beside the latents. ValueError for another number of them."""
    if channels == vae.latent_channels:
        return first_channels(request, grid, vae)
    if channels == vae.latent_channels + vae.model.group:
        return clip_channels(request, vae)
    raise ValueError(f"the model takes {channels} channels beside the latents, and no way to give them is known")


def first_move(levels: list[list[Stage]]) -> int:
    """The first stage that changes any latents; the number of stages where none does."""
    for index, row in enumerate(zip(*levels, strict=True)):
        if any(stage.matrix[0][0] != 1.0 or any(stage.matrix[0][1:]) for stage in row):
            return index
    return len(levels[0])
