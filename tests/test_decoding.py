"""A finished sample becomes frames, a chunk a turn."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from packdit.runtime import decoding
from packdit.runtime.decoding import Decoding
from packdit.runtime.job import Job
from packdit.runtime.vae import to_bytes


def test_a_chunk_a_turn(runtime: SimpleNamespace) -> None:
    sample = runtime.sample(width=32, height=32, frames=9)
    job = Job(sample.request)
    decoding = Decoding(sample, job, runtime.transformer, runtime.vae)
    counts = []
    while not decoding.advance():
        counts.append(job.done_in_phase)
    assert counts == [1, 5, 9]
    assert job.status == "completed"
    pixels = runtime.vae.decode(runtime.vae.denormalize(sample.latent((1, 2, 2))))
    assert np.array_equal(job.result().frames, to_bytes(pixels.permute(1, 2, 3, 0)).numpy())


@pytest.mark.parametrize("broken", ["denormalize", "stream"])
def test_a_failure_is_the_jobs_own(runtime: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def failing(latent: torch.Tensor, tile: int | None = None) -> torch.Tensor:
        raise OSError("no luck")

    monkeypatch.setattr(runtime.vae, broken, failing)
    sample = runtime.sample(width=32, height=32, frames=5)
    job = Job(sample.request)
    assert Decoding(sample, job, runtime.transformer, runtime.vae).advance()
    assert (job.status, str(job.error)) == ("failed", "no luck")


def test_the_tile_is_what_the_free_memory_allows(runtime: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(decoding, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(decoding, "choose_tile", lambda vae, grid, budget: asked.append((grid, budget)) or 32)
    sample = runtime.sample(width=64, height=32, frames=5)
    job = Job(sample.request)
    decoder = Decoding(sample, job, runtime.transformer, runtime.vae)
    with pytest.warns(UserWarning, match="frames are in tiles of 32 pixels"):
        decoder.advance()
    while not decoder.advance():
        pass
    assert asked == [((2, 4, 8), 800)]
    assert job.result().frames.shape == (5, 32, 64, 3)
