"""How much memory decoding takes, found by running the decoder without data, and the tile of frames that fits.

Weights, which are there already, and the kernels' own scratch memory, which is small, are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from .pack import Grid
from .vae import StreamingVAE

CHUNKS = 3  # after so many a stream holds what it will hold
CHUNKS_AHEAD = 24  # the same where the decoder looks ahead
SMALLEST = 8  # latents of a tile's side
SMALL_FRAME = 512 * 512  # pixels; up to so many a frame is always whole
COLOURS = 3


class _Live(TorchDispatchMode):
    """Counts the bytes of all tensors that were made within it and are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._bytes: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self._bytes = {ref: size for ref, size in self._bytes.items() if not ref.expired()}
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, Tensor):
                storage = made.untyped_storage()
                self._bytes.setdefault(StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(self._bytes.values()))
        return out


def decode_bytes(vae: StreamingVAE, grid: Grid, tile: int | None = None) -> int:
    """The most bytes that `vae.stream` holds at once for a latent of this (t, y, x), frames in tiles or not."""
    from torch._subclasses import FakeTensorMode  # slow to import, and seldom needed

    frames, *sides = grid
    blended = 0
    if tile is not None and max(sides) * vae.model.factor > tile:
        if vae.device.type == "cpu":  # where what is blended lies
            pixels = sides[0] * sides[1] * vae.model.factor**2
            blended = (1 + (frames - 1) * vae.model.group) * pixels * COLOURS * 4
        sides = [min(side, tile // vae.model.factor) for side in sides]
    enough = next((t for t in range(1, frames) if len(vae.model.latent_chunks(t)) == CHUNKS), frames)
    if vae.model.looks_ahead:
        enough = min(frames, CHUNKS_AHEAD)
    with FakeTensorMode(allow_non_fake_inputs=True), _Live() as live:
        for chunk in vae.stream(torch.empty(vae.latent_channels, enough, *sides, device=vae.device)):
            del chunk
    return live.peak + blended


def choose_tile(vae: StreamingVAE, grid: Grid, budget: int) -> int | None:
    """The largest tile, a half or a quarter of a side and so on, with which a latent of this (t, y, x) is decoded in
    `budget` bytes; None where whole frames are. ValueError where no tile is small enough."""
    factor, (_, height, width) = vae.model.factor, grid
    if height * width * factor**2 <= SMALL_FRAME:
        return None
    side, need = max(height, width), decode_bytes(vae, grid)
    if need <= budget:
        return None
    while need > budget and side >= 2 * SMALLEST:
        side //= 2
        need = decode_bytes(vae, grid, side * factor)
    if need > budget:
        size = f"{width * factor}x{height * factor}"
        raise ValueError(f"decoding {size} takes {need / 1e9:.2g} GB even in tiles; there are {budget / 1e9:.2g} GB")
    return side * factor
