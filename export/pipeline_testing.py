"""What tests of whole pipelines share: small random pipelines of diffusers, and their latents beside the engine's.

    comparison = Comparison.of(wan(), folder)
    comparison.check(latents, size=(64, 48), frames=9, ...)

saves the pipeline, converts it, and holds the engine's final latents to the pipeline's own from the same noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..runtime.engine import Engine
from ..runtime.request import CompleteRequest, Request
from ..runtime.sample import Sample, make_sample, stage_seed, start_noise
from .checkpoint import convert

LIMIT = 1e-3  # after ten steps, relative to the largest value
STEPS = 10

Run = Callable[[Any, CompleteRequest, Tensor], Tensor]
"""Calls a pipeline for a request with noise [C, t, h, w], and gives its final latents [C, t, h, w]."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """A pipeline and the engine of the bundle made of it."""

    pipeline: Any
    engine: Engine

    @classmethod
    def of(cls, pipeline: Any, folder: Path) -> Comparison:
        """Saves and converts a pipeline, in float32 and without verification, which models have tests of their own
        for."""
        pipeline.set_progress_bar_config(disable=True)
        pipeline.save_pretrained(folder / "source")
        convert(folder / "source", folder / "bundle", verify=False)
        return cls(pipeline=pipeline, engine=Engine.load(folder / "bundle", device="cpu"))

    def sample(self, request: Request, arrival: int = 0) -> Sample:
        """A request, ready for its first step."""
        engine = self.engine
        complete = engine.limits.complete(request)
        engine.text.check(complete)
        told = engine.text(complete)
        return make_sample(complete, told, engine.transformer, engine.vae, engine.schedule, arrival)

    @torch.inference_mode()
    def latents(self, requests: list[Request]) -> list[Tensor]:
        """The engine's final latents of requests that share their steps, with what was added before the clip."""
        samples = [self.sample(request, i) for i, request in enumerate(requests)]
        while running := [sample for sample in samples if not sample.done]:
            self.engine.step(running)
        patch = self.engine.transformer.model.patch
        for sample in samples:
            sample.lead = 0
        return [sample.latent(patch) for sample in samples]

    def check(self, run: Run, requests: list[Request], limit: float = LIMIT) -> None:
        """Each request's latents are the pipeline's, and in the others' company the same bits as alone."""
        together = self.latents(requests)
        for request, got in zip(requests, together, strict=True):
            sample = self.sample(request)
            noise = start_noise(request.seed, self.engine.vae.latent_channels, sample.grid)
            with torch.inference_mode():
                want = run(self.pipeline, sample.request, noise)
            error = float((got - want).abs().max() / want.abs().max())
            assert error <= limit, f"{request}: relative error {error:.3g}; allowed: {limit:g}"
            assert torch.equal(self.latents([request])[0], got), f"{request} has other bits in company"


def stage_noise(request: CompleteRequest, stage: int, channels: int, grid: tuple[int, int, int]) -> Tensor:
    """The new noise [channels, t, h, w] that the engine gives a stage of a request."""
    return start_noise(stage_seed(request.seed, stage), channels, grid)
