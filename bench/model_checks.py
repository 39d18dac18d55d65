"""Whole models on a device against the same on the CPU: the transformer that ships, and all of the engine around it."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..kernels.testing import error
from ..runtime import Engine, Request
from ..runtime.load import DTYPES, PackedTransformer, load_transformer
from .ceilings import name
from .checks import row_of
from .measure import backends_on, one_line
from .rows import OpRow

CPU = torch.device("cpu")
GRIDS = ((1, 4, 4), (5, 8, 6), (2, 4, 14), (1, 2, 2))
FRAME_LEVEL = 1 / 255  # what rounding to whole levels may turn into when it falls the other way
REQUESTS = (
    {"prompt": "a red circle moves right", "width": 64, "height": 48, "frames": 9, "steps": 4, "seed": 1},
    {"prompt": "a blue square", "width": 48, "height": 48, "frames": 1, "steps": 5, "seed": 2, "guidance": 1.0},
)


def clips_of(model: PackedTransformer) -> dict[str, list[Any]]:
    """The packed call's arguments for four clips of different shapes, text lengths and timesteps."""
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(model.model.in_channels, *grid, generator=generator) for grid in GRIDS]
    text = [torch.randn(3 + 5 * i, model.model.text_width, generator=generator) for i in range(len(GRIDS))]
    return {"latents": latents, "text": text, "timesteps": [1000.0, 3.0, 511.5, 875.25]}


def flat(outputs: list[Tensor]) -> Tensor:
    """What a model gives for several clips, as one tensor on the CPU."""
    return torch.cat([x.flatten().cpu() for x in outputs])


def transformer(section: str, dtype: str, device: torch.device) -> Iterator[OpRow]:
    """The transformer that ships, in one packed call: at most twice what the plain PyTorch model loses on the CPU."""
    plain = load_transformer("shapes", "cpu", dtype, "reference")
    clips = clips_of(plain)
    wide = load_transformer("shapes", "cpu", "fp32", "reference")
    model: Any = deepcopy(wide.model).double()
    exact = flat(PackedTransformer(model, CPU, torch.float64, "reference")(**clips))
    allowed = max(2 * error(flat(plain(**clips)), exact), torch.finfo(DTYPES[dtype]).eps)
    for backend in backends_on(device):
        row = replace(row_of(section, "transformer", "shapes, 4 clips", DTYPES[dtype], backend), allowed=allowed)
        try:
            packed = load_transformer("shapes", str(device), dtype, backend)
        except ValueError:
            continue
        loss = error(flat(packed(**clips)), exact)
        yield replace(row, error=loss, outcome="ok" if loss <= allowed else "wrong")


def frames(device: str, dtype: str, backend: str) -> Tensor:
    """All frames of REQUESTS by the engine, in 0..1."""
    with Engine.load("shapes", device=device, dtype=dtype, backend=backend) as engine:
        videos = engine.generate([Request(**fields) for fields in REQUESTS])  # type: ignore[arg-type]
    return torch.cat([torch.from_numpy(video.frames).flatten() for video in videos]).double() / 255


def engine(section: str, dtype: str, device: torch.device) -> Iterator[OpRow]:
    """Prompts to frames, a clip and an image together: as far from the CPU's float32 as plain PyTorch in this dtype on
    the CPU is, twice, or one level of brightness."""
    exact = frames("cpu", "fp32", "auto")
    allowed = max(2 * error(frames("cpu", dtype, "reference"), exact), FRAME_LEVEL)
    for backend in backends_on(device):
        row = replace(row_of(section, "engine", "shapes, a clip and an image", DTYPES[dtype], backend), allowed=allowed)
        try:
            got = frames(str(device), dtype, backend)
        except ValueError as refused:
            yield replace(row, outcome="skipped", note=one_line(refused))
            continue
        loss = error(got, exact)
        yield replace(row, error=loss, outcome="ok" if loss <= allowed else "wrong")


def engine_memory(section: str, device: torch.device) -> Iterator[OpRow]:
    """Allocated memory after the same requests a second and a third time is what it was after the first."""
    row = row_of(section, "engine", "the same requests again", torch.float32, "auto")
    held = []
    with Engine.load("shapes", device=str(device), dtype="fp32") as running:
        for _ in range(3):
            running.generate([Request(**fields) for fields in REQUESTS])  # type: ignore[arg-type]
            held.append(torch.cuda.memory_allocated(device))
        peak = running.stats()["peak_bytes"]
    note = f"{held[-1] / 1e6:.1f} MB held, {peak / 1e6:.1f} MB at the peak"
    yield replace(row, note=note, outcome="ok" if held[0] == held[-1] else "wrong")


def dtypes_on(device: torch.device) -> list[str]:
    """Names of the dtypes that models are checked in; on a CPU only what its kernels take."""
    return ["fp32"] if device.type == "cpu" else ["fp32", "bf16", "fp16"]


def named(dtype: str) -> str:
    """fp32 -> "float32"."""
    return name(DTYPES[dtype])
