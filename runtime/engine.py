"""The engine: everything in flight advances together, one packed step at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from ..kernels import guided_step
from ..kernels.backend import check, using
from .batch import make_batch
from .bundle import Bundle
from .decoding import Decoding
from .job import Job
from .load import PackedTransformer, load_transformer, load_vae, pick_device, pick_dtype
from .memory import peak_bytes
from .request import Limits, Request, quote
from .sample import Sample, make_sample
from .scheduler import Scheduler
from .text import TextEncoder
from .vae import StreamingVAE
from .video import Video

TOKEN_BUDGET = 4096


class Engine:
    """Makes videos and images of any mix of sizes, durations, step counts, samplers and guidance in shared steps.

    One worker thread does the work; every public method may be called from any thread. Use it as a context manager, or
    call `close`.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        transformer: PackedTransformer,
        vae: StreamingVAE,
        text: TextEncoder,
        token_budget: int = TOKEN_BUDGET,
    ) -> None:
        self.limits, self.transformer, self.vae, self.text = limits, transformer, vae, text
        self.scheduler = Scheduler(token_budget=token_budget)
        self._waiting: list[Job] = []
        self._running: dict[Sample, Job] = {}
        self._decoding: list[Decoding] = []
        self._counts = dict.fromkeys(("steps", "sequences", "tokens", "padding_tokens", "captures", "replays"), 0)
        self._arrivals = 0
        self._threads = torch.get_num_threads()
        self._wake = threading.Condition()
        self._worker: threading.Thread | None = None
        self._closed = False

    @classmethod
    def load(
        cls, model: str | Path = "shapes", *, device: str = "auto", dtype: str = "auto", backend: str = "auto"
    ) -> Engine:
        """Loads a bundle: a name that ships, or a directory. ValueError for what is not there or not possible."""
        check(backend)
        place = pick_device(device)
        bundle = Bundle.open(model)
        return cls(
            limits=bundle.limits,
            transformer=load_transformer(bundle, device, dtype, backend),
            vae=load_vae(bundle, device, dtype, backend),
            text=TextEncoder(bundle, place, pick_dtype(dtype, place)),
        )

    def submit(self, request: Request) -> Job:
        """Queues one request. ValueError, before any work, where the model cannot do it."""
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[Request]) -> list[Job]:
        """Queues requests together, so that they share steps from their first one; all are checked before any is."""
        for request in requests:
            if not isinstance(request, Request):
                raise TypeError(f"a request must be a packdit.runtime.Request, got {quote(request)}")
        jobs = [Job(self.limits.complete(request)) for request in requests]
        with self._wake:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._threads = torch.get_num_threads()
            self._waiting.extend(jobs)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="packdit-engine", daemon=True)
                self._worker.start()
            self._wake.notify_all()
        return jobs

    def generate(self, requests: Sequence[Request]) -> list[Video]:
        """The videos of `requests`, in their order. Raises what the first failed one failed with."""
        jobs = self.submit_all(requests)
        try:
            return [job.result() for job in jobs]
        except BaseException:
            for job in jobs:
                job.cancel()
            raise

    def step(self) -> None:
        """One pass of the model over as many samples as fit."""
        plan, samples = self.scheduler.next_plan(self._running)
        batch = make_batch(plan, samples, self.transformer.device, self.transformer.dtype)
        out = self.transformer.run(batch.tokens, batch.pack)
        with using(self.transformer.backend):
            guided_step(batch.state, out, batch.cond, batch.uncond, batch.guidance, batch.table, batch.row)
        batch.scatter()
        for sample in samples:
            self._running[sample].advance("steps", sample.stage, sample.num_stages)
        self._count(steps=1, sequences=plan.num_segments, tokens=plan.num_tokens)

    def stats(self) -> dict[str, int]:
        """Counts since the engine was made: steps, sequences and tokens that ran in them, padding, graph captures and
        replays (none on a CPU), and the peak of memory in bytes (the GPU's where there is one, else the process's)."""
        with self._wake:
            return {**self._counts, "peak_bytes": peak_bytes(self.transformer.device)}

    def close(self) -> None:
        """Cancels what is unfinished and stops the worker. May be called more than once."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if self._worker is not None and self._worker is not threading.current_thread():
            self._worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Below: the worker thread.

    def _work(self) -> None:
        with torch.inference_mode():
            while True:
                with self._wake:
                    self._wake.wait_for(lambda: self._closed or self._waiting or self._running or self._decoding)
                    if self._closed:
                        break
                    arrived, self._waiting = self._waiting, []
                if torch.get_num_threads() != self._threads:
                    torch.set_num_threads(self._threads)
                for job in arrived:
                    self._admit(job)
                self._advance()
        for job in [*self._waiting, *self._running.values(), *(d.job for d in self._decoding)]:
            job.finish("cancelled")

    def _advance(self) -> None:
        """One step of those that denoise, then one chunk of each that decodes: neither keeps the other waiting."""
        self._drop_cancelled()
        if self._running:
            samples = list(self._running)
            try:
                self.step()
            except Exception as error:  # the pack is lost, the engine is not
                for sample in samples:
                    self._running.pop(sample).finish("failed", error)
        for sample in [s for s in self._running if s.done]:
            self._decoding.append(Decoding(sample, self._running.pop(sample), self.transformer, self.vae))
        self._decoding = [d for d in self._decoding if not d.advance()]

    def _admit(self, job: Job) -> None:
        """Encodes what the request gives; a failure is the job's own."""
        if job.cancel_asked:
            return job.finish("cancelled")
        job.advance("text", 0, 1)
        request = job.request
        try:
            prompts = [request.prompt] if request.guidance == 1 else [request.prompt, request.negative_prompt]
            texts = [self.text(prompt) for prompt in prompts]
            self._arrivals += 1
            sample = make_sample(request, texts, self.transformer, self.vae, self.limits.shift, self._arrivals)
        except Exception as error:
            return job.finish("failed", error)
        job.advance("steps", sample.stage, sample.num_stages)
        self._running[sample] = job

    def _drop_cancelled(self) -> None:
        for sample in [s for s, job in self._running.items() if job.cancel_asked]:
            self._running.pop(sample).finish("cancelled")
        for decoding in [d for d in self._decoding if d.job.cancel_asked]:
            self._decoding.remove(decoding)
            decoding.job.finish("cancelled")

    def _count(self, **more: int) -> None:
        with self._wake:
            for name, value in more.items():
                self._counts[name] += value
