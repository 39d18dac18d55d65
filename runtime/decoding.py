"""A finished sample on its way to frames: one chunk a turn."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from .job import Job
from .load import PackedTransformer
from .memory import free_bytes
from .sample import Sample
from .vae import StreamingVAE, to_bytes
from .vae_memory import choose_tile

USED = 0.8  # of the memory that is free, decoding may have so much: others need some, too


class Decoding:
    """Streams a sample's latents through the VAE into its job."""

    def __init__(self, sample: Sample, job: Job, transformer: PackedTransformer, vae: StreamingVAE) -> None:
        self.job = job
        self._chunks = _stream(sample, transformer, vae)
        job.advance("decode", 0, job.request.frames)

    def advance(self) -> bool:
        """Decodes one chunk; True when the job is finished. A failure is the job's own."""
        try:
            chunk = next(self._chunks, None)
            if chunk is not None:
                self.job.add(to_bytes(chunk).cpu().numpy())
                return False
        except Exception as error:
            self.job.finish("failed", error)
            return True
        self.job.finish("completed")
        return True


def _stream(sample: Sample, transformer: PackedTransformer, vae: StreamingVAE) -> Iterator[Tensor]:
    """All the work is done when the chunks are asked for, the first one included."""
    tile = choose_tile(vae, sample.grid, int(USED * free_bytes(vae.device)))
    yield from vae.stream(vae.denormalize(sample.latent(transformer.model.patch)), tile=tile)
