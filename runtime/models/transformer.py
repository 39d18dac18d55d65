"""What the packed transformers share: the protocol that they follow, positions, timesteps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..pack import Grid, Pack


class PackedModel(nn.Module):
    """A transformer of packed tokens, made from the config of diffusers' class; its base gives a family's defaults.

    ValueError where the config asks for what the family cannot do.
    """

    patch: Grid
    in_channels: int
    out_channels: int
    text_width: int  # of the states that `embed_text` takes; 0: the family takes no text
    extras: dict[str, tuple[int | None, ...]] = {}  # noqa: RUF012  # never changed: a family replaces it
    """What else a clip needs, and its shape without a batch dimension. A leading None: any number of rows, which are
    packed; else the clips' values are stacked. Numbers, of the shape (), stay float32."""
    layout_extras: tuple[str, ...] = ()  # those of `extras` that are numbers and that `layout` takes; no pack has them
    joint = False  # whether text and tokens share one attention, so that a pack needs `Pack.joint`

    def layout(self, grid: Grid, **extras: float) -> dict[str, Tensor]:
        """What a token knows of its place in a (t, y, x) grid of tokens: float64 [tokens, n] each."""
        raise NotImplementedError

    def embed_text(self, text: Tensor) -> Tensor:
        """Text states of one prompt [l, text_width] -> [l, W]: all that does not depend on the timestep."""
        return text

    def embed_extra(self, name: str, value: Tensor) -> Tensor:
        """As `embed_text`, of one of `extras`. ValueError where its rows are not what the model can take."""
        return value

    def indices(self, grids: Sequence[Grid], text_lengths: Sequence[int]) -> dict[str, Tensor]:
        """Integer tables, made on the host, that the family needs of a pack of clips of these grids: `Pack.index`."""
        return {}

    def forward(self, x_TC: Tensor, pack: Pack) -> Tensor:
        """Tokens of the pack, features over (c, pt, ph, pw) -> the model's output for each, in the same order."""
        raise NotImplementedError


def places(grid: Grid) -> list[Tensor]:
    """t, y and x of every token of a grid, float64 [tokens] each."""
    return [a.reshape(-1) for a in torch.meshgrid(*(torch.arange(n).double() for n in grid), indexing="ij")]


def rope_angles(positions: Sequence[Tensor], pairs: Sequence[int], theta: float) -> Tensor:
    """Angles [tokens, sum(pairs)], float64: each axis turns its own pairs of a head's dimensions (arXiv 2104.09864).

    positions: float64 [tokens] an axis.
    """
    waves = [theta ** (-torch.arange(n).double() / n) for n in pairs]
    return torch.cat([place[:, None] * wave for place, wave in zip(positions, waves, strict=True)], 1)


def rope_table(angles: Tensor) -> dict[str, Tensor]:
    """The `cos` and `sin` that `qk_norm_rope` takes, of angles [tokens, pairs]."""
    return {"cos": angles.cos(), "sin": angles.sin()}


def timestep_features(timestep: Tensor, width: int, *, sin_first: bool = False, shift: float = 0.0) -> Tensor:
    """Sinusoidal features [n, width], float64, of timesteps [n] (arXiv 2006.11239); cosines first unless `sin_first`.

    Wavelengths from 2 pi up to 2 pi 10000 (1 - shift / half a width: diffusers' downscale_freq_shift).
    """
    half = width // 2
    index = torch.arange(half, dtype=torch.float64, device=timestep.device)
    angles = timestep.double()[:, None] * torch.exp(index * (-math.log(10000.0) / (half - shift)))
    waves = [angles.sin(), angles.cos()] if sin_first else [angles.cos(), angles.sin()]
    return torch.cat(waves, 1)
