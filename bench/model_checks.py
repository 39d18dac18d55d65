"""Whole models on a device against the same on the CPU: transformers of all families, the engine with what ships."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..export.families import KINDS, module_of
from ..export.peer import random_clip
from ..kernels.testing import error
from ..runtime import Engine, Request
from ..runtime.bundle import Bundle
from ..runtime.load import DTYPES, PackedTransformer, empty_module, fill_module
from ..runtime.models import transformer_class
from ..runtime.models.layers import dtypes, lay_out
from .checks import row_of
from .families import FAMILIES
from .measure import backends_on, one_line
from .rows import OpRow

CPU = torch.device("cpu")
GRIDS = ((1, 4, 4), (5, 6, 4), (2, 3, 7), (1, 1, 2))  # of tokens
FRAME_LEVEL = 1 / 255  # what rounding to whole levels may turn into when it falls the other way
REQUESTS = (
    {"prompt": "a red circle moves right", "width": 64, "height": 48, "frames": 9, "steps": 4, "seed": 1},
    {"prompt": "a blue square", "width": 48, "height": 48, "frames": 1, "steps": 5, "seed": 2, "guidance": 1.0},
)


def of_weights(
    name: str,
    config: dict[str, Any],
    weights: Mapping[str, Tensor],
    place: torch.device,
    dtype: torch.dtype,
    backend: str,
) -> PackedTransformer:
    """The packed transformer of a class of diffusers', as the runtime would load it, also in float64."""
    make = transformer_class(name)
    kinds = dtypes(empty_module(make, config, "transformer"), dtype)
    model = fill_module(make, config, {k: v.to(place, kinds[k]) for k, v in weights.items()}, "transformer")
    lay_out(model)
    return PackedTransformer(model, place, dtype, backend)


def random_weights(name: str, config: dict[str, Any]) -> dict[str, Tensor]:
    """For such a transformer, float32: matrices keep the scale of what passes, norms' weights are near 1."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, empty in empty_module(transformer_class(name), config, "transformer").state_dict().items():
        noise = torch.randn(empty.shape, generator=generator)
        is_matrix = empty.ndim > 1 and key.endswith("weight")
        weights[key] = noise * math.prod(empty.shape[1:]) ** -0.5 if is_matrix else 0.2 * noise + ("norm" in key)
    return weights


def clips_of(name: str, config: dict[str, Any], model: PackedTransformer) -> dict[str, list[Any]]:
    """The packed call's arguments for clips of different shapes, text lengths and timesteps."""
    generator = torch.Generator().manual_seed(0)
    clips = [random_clip(model.model, grid, 900.0 - 200 * i, generator) for i, grid in enumerate(GRIDS)]
    adapt = getattr(module_of("transformer", name), "adapt", lambda config, clip: clip)
    clips = [adapt(config, clip) for clip in clips]
    return {key: [clip[key] for clip in clips] for key in clips[0]}


def flat(outputs: list[Tensor]) -> Tensor:
    """What a model gives for several clips, as one tensor on the CPU."""
    return torch.cat([x.flatten().cpu() for x in outputs])


def shipped(section: str, dtype: str, device: torch.device) -> Iterator[OpRow]:
    """The transformer that ships."""
    bundle = Bundle.open("shapes")
    name, config = bundle.class_name("transformer"), bundle.config("transformer")
    return transformer(section, name, config, bundle.weights("transformer"), DTYPES[dtype], device)


def family(section: str, name: str, dtype: str, device: torch.device) -> Iterator[OpRow]:
    """One of FAMILIES with random weights."""
    config = dict(FAMILIES[name].config)
    return transformer(section, name, config, random_weights(name, config), DTYPES[dtype], device)


def transformer(
    section: str,
    name: str,
    config: dict[str, Any],
    weights: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[OpRow]:
    """Several clips in one packed call: at most twice what the plain PyTorch model loses in this dtype on the CPU."""
    make = partial(of_weights, name, config, weights)
    plain = make(CPU, dtype, "reference")
    clips = clips_of(name, config, plain)
    exact = flat(make(CPU, torch.float64, "reference")(**clips))
    allowed = max(2 * error(flat(plain(**clips)), exact), torch.finfo(dtype).eps)
    for backend in backends_on(device):
        row = replace(row_of(section, name, f"{len(GRIDS)} clips", dtype, backend), allowed=allowed)
        try:
            got = flat(make(device, dtype, backend)(**clips))
        except ValueError as refused:
            yield replace(row, outcome="skipped", note=one_line(refused))
            continue
        loss = error(got, exact)
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
    """Allocated memory after the same requests a third time is what it was after the second."""
    row = row_of(section, "engine", "the same requests again", torch.float32, "auto")
    held = []
    with Engine.load("shapes", device=str(device), dtype="fp32") as running:
        for _ in range(3):
            running.generate([Request(**fields) for fields in REQUESTS])  # type: ignore[arg-type]
            held.append(torch.cuda.memory_allocated(device))
        peak = running.stats()["peak_bytes"]
    note = f"{held[-1] / 1e6:.1f} MB held, {peak / 1e6:.1f} MB at the peak"
    yield replace(row, note=note, outcome="ok" if held[1] == held[2] else "wrong")


def dtypes_on(device: torch.device) -> list[str]:
    """Names of the dtypes that models are checked in; on a CPU only what its kernels take."""
    return ["fp32"] if device.type == "cpu" else ["fp32", "bf16", "fp16"]


def families() -> list[str]:
    """Classes that can be checked: their packed model is there and their shape is stated."""
    return [name for name in FAMILIES if name in KINDS["transformer"]]
