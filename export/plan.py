"""What is to be written, worked out from headers alone: what is wrong is found before the first byte."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..runtime.load import empty_module
from ..runtime.models import transformer_class, vae_class
from ..runtime.models.layers import dtypes
from ..runtime.request import quote
from .entry import Entry, Make, check_keys, rename, rows
from .source import Component, Stored

CHUNK = 1 << 22
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One tensor of a bundle: what it is made of, its shape, and the dtype it is stored in."""

    target: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Make
    sources: tuple[Stored, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def exact(self) -> Tensor:
        """The tensor before it is rounded, in float32 (float64 where its sources are)."""
        return self.make([_wide(source.read()) for source in self.sources])

    def parts(self) -> Iterator[Tensor]:
        """The tensor as it is stored, flat, in parts of at most CHUNK elements: nothing is in memory whole but a
        source, or what `make` makes.

        ValueError where the dtype cannot hold its values, or where they are no numbers.
        """
        whole = (source.read() for source in self.sources) if self.make is rows else iter([self.exact()])
        for tensor in whole:
            for part in tensor.reshape(-1).split(CHUNK):
                yield self._rounded(part)

    def _rounded(self, part: Tensor) -> Tensor:
        stored = part.to(self.dtype)
        if not torch.isfinite(stored).all():
            is_damaged = not torch.isfinite(part).all()
            what = "NaN or infinite" if is_damaged else f"too large for {str(self.dtype).removeprefix('torch.')}"
            raise ValueError(f"the tensor {quote(self.target)} has values that are {what}")
        return stored


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def plan(component: Component, dtype: torch.dtype) -> list[Piece]:
    """The component's tensors as the runtime names and shapes them, to be stored in `dtype` or, where the runtime wants
    that, in float32.

    ValueError, in one sentence, for a config that cannot be used or that contradicts the tensors, for a tensor that is
    missing or that nothing uses, and for quantized ones.
    """
    config, title = component.settings, component.title
    wanted, kinds = _wanted(component, dtype)
    entries: list[Entry] = component.module.entries(config)
    stored = renamed(component)
    check_keys(entries, stored, title)
    made = {entry.target for entry in entries}
    assert made == wanted.keys(), f"entries and model differ: {sorted(made ^ wanted.keys())[:3]}"
    pieces = []
    for entry in entries:
        sources = tuple(stored[name] for name in entry.sources)
        shape = _shape(entry, sources, tuple(wanted[entry.target].shape), title)
        kind = kinds.get(entry.target, dtype)
        pieces.append(Piece(target=entry.target, shape=shape, dtype=kind, make=entry.make, sources=sources))
    return pieces


def _wanted(component: Component, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, torch.dtype]]:
    """The tensors of the runtime's model, on the meta device, and the dtypes of those that say so."""
    if component.kind not in ("transformer", "vae"):
        return component.module.tensors(component.settings), {}
    make: Any = (transformer_class if component.kind == "transformer" else vae_class)(component.class_name)
    model = empty_module(make, component.settings, component.title)
    return model.state_dict(), dtypes(model, dtype)


def renamed(component: Component) -> dict[str, Stored]:
    """The component's tensors by the names that its entries use, without those that nothing has a use for."""
    ignored = getattr(component.module, "IGNORED", ())
    renamings = getattr(component.module, "RENAMED", ())
    stored: dict[str, Stored] = {}
    for key, tensor in component.tensors.items():
        if any(re.search(pattern, key) for pattern in ignored):
            continue
        name = rename(renamings, key)
        if name == key or name not in stored:
            stored[name] = tensor
    return stored


def _shape(entry: Entry, sources: tuple[Stored, ...], wanted: tuple[int, ...], title: str) -> tuple[int, ...]:
    """The target's shape. ValueError where the sources do not make it."""
    for source in sources:
        if source.dtype not in DTYPES:
            raise ValueError(
                f"the {title}'s tensor {quote(source.key)} is stored as {source.dtype}: quantized weights are not "
                "read; use the checkpoint in float32, float16 or bfloat16"
            )
    try:
        shape = tuple(entry.make([torch.empty(source.shape, device="meta") for source in sources]).shape)
    except (RuntimeError, IndexError, ValueError):
        shape = ()
    if shape != wanted:
        given = ", ".join(str(source.shape) for source in sources[:3]) + (", ..." if len(sources) > 3 else "")
        raise ValueError(
            f"the {title}'s config and tensors contradict one another: {quote(sources[0].key)} "
            f"{given} cannot make {quote(entry.target)} {wanted}"
        )
    return shape
