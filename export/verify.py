"""Proof that a bundle computes what its source does.

Every tensor is held, bit by bit, to what its source makes. Models that fit into memory also run, with the tensors as
they are before rounding, beside diffusers' own class with the source's tensors (`peer.reference` has the alternatives).
How much rounding changes is measured, too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..runtime.bundle import Bundle
from ..runtime.load import load_transformer, load_vae
from ..runtime.request import quote
from .peer import Clip, clips_of, reference, run_transformer, run_vae
from .plan import Piece
from .source import Component, Source, read_header

# Relative to the largest value of the reference's output: what float32 arithmetic loses in a few hundred operations.
LIMIT = 1e-4
COPIES = 3  # of a model in float32 that may be in memory at once

Plans = dict[str, list[Piece]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact(Bundle):
    """A bundle with the weights as they are before they are rounded."""

    plans: Plans

    def weights(self, component: str) -> dict[str, Tensor]:
        return {piece.target: piece.exact() for piece in self.plans[component]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What bundle.json keeps of a component's verification."""

    against: str  # what it was compared with, or why it did not run
    relative_error: float | None = None
    rounding: float | None = None  # what rounding the weights changes, relative likewise


def verify_bundle(bundle: Bundle, source: Source, plans: Plans, exact: Plans) -> dict[str, Any]:
    """Holds every component to the source's. ValueError where a tensor differs, or an error exceeds LIMIT.

    exact: the plans without quantization, whose models are compared with the source's.
    """
    verdicts = {name: _verify(bundle, part, plans, exact) for name, part in source.components.items()}
    fields = ("against", "relative_error", "rounding")
    return {"limit": LIMIT} | {field: {k: getattr(v, field) for k, v in verdicts.items()} for field in fields}


def _verify(bundle: Bundle, part: Component, plans: Plans, exact: Plans) -> Verdict:
    pieces = plans[part.name]
    check_tensors(bundle, part, pieces)
    if part.kind not in ("transformer", "vae"):
        return Verdict(against="the source's own tensors, one by one; it did not run")
    needed, free = COPIES * 4 * sum(piece.num_bytes // piece.dtype.itemsize for piece in pieces), free_bytes()
    if needed > free:
        gigabytes = f"running takes {needed / 1e9:.0f} GB and {free / 1e9:.0f} GB are free"
        return Verdict(against=f"what its source makes, tensor by tensor; it did not run: {gigabytes}")
    return _compare(bundle, Exact(folder=bundle.folder, description=bundle.description, plans=exact), part, pieces)


def check_tensors(bundle: Bundle, part: Component, pieces: Sequence[Piece]) -> None:
    """ValueError unless each tensor is, bit by bit, what its piece makes. One at a time is in memory."""
    files = bundle.description["components"][part.name]["weights"]
    stored = {name: tensor for file in files for name, tensor in read_header(bundle.path(file)).items()}
    for piece in pieces:
        start = 0
        for made in piece.parts():
            written = stored[piece.target].read().view(-1)  # mapped anew: what was compared leaves memory
            if not torch.equal(made, written[start : start + made.numel()]):
                raise ValueError(
                    f"the {part.title}'s tensor {quote(piece.target)} was not written as its source makes it"
                )
            start += made.numel()


def _compare(bundle: Bundle, exact: Bundle, part: Component, pieces: Sequence[Piece]) -> Verdict:
    clips = clips_of(part) if part.kind == "transformer" else []
    against, want = reference(exact, part, clips)
    got = _run(exact, part, clips)
    error = _largest(got, want)
    if not error <= LIMIT:
        raise ValueError(f"the exported {part.title} differs from its source by {error:.2g}, more than {LIMIT:g}")
    is_rounded = any(piece.dtype != torch.float32 for piece in pieces)
    return Verdict(
        against=against,
        relative_error=error,
        rounding=_largest(_run(bundle, part, clips), got) if is_rounded else 0.0,
    )


def _run(bundle: Bundle, part: Component, clips: Sequence[Clip]) -> list[Tensor]:
    """The bundle's component as the runtime loads it, in float32 on the CPU."""
    if part.kind == "transformer":
        return run_transformer(load_transformer(bundle, "cpu", "fp32", component=part.name), clips)
    vae = load_vae(bundle, "cpu", "fp32")
    return run_vae(vae.latent_channels, vae.decode, vae.encode)


def _largest(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """The largest difference of two outputs, relative to the largest value of its own; NaN where there is one."""
    errors = [(g.double() - w.double()).abs().max() / w.double().abs().max() for g, w in zip(got, want, strict=True)]
    return float(torch.stack(errors).max())


def free_bytes() -> int:
    """Memory that can be had without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
