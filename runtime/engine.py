"""The engine: everything in flight advances together, one packed step at a time."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from ..kernels import guided_step
from ..kernels.backend import check, using
from .batch import Batch, next_batch
from .bundle import Bundle, open_bundle
from .decoding import Decoding
from .job import Job
from .load import PackedTransformer, load_transformer, load_vae, pick_device, pick_dtype
from .memory import peak_bytes
from .prompts import Classes, Prompts, load_prompts
from .request import Limits, Request, quote
from .sample import Sample, make_sample
from .schedule import Schedule
from .scheduler import Scheduler
from .vae import StreamingVAE
from .video import Video

TOKEN_BUDGET = 4096

_LOG = logging.getLogger(__name__)
_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine:
    """Makes videos and images of any mix of sizes, durations, step counts, samplers and guidance in shared steps.

    A worker thread does the work while there is any; every public method but `step` may be called from any thread. Use
    the engine as a context manager, or call `close`, to cancel what is unfinished; the interpreter's exit does so too.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        transformer: PackedTransformer,
        vae: StreamingVAE,
        text: Prompts | Classes,
        schedule: Schedule | None = None,
        second: PackedTransformer | None = None,
        token_budget: int = TOKEN_BUDGET,
    ) -> None:
        self.limits, self.transformer, self.vae, self.text = limits, transformer, vae, text
        self.schedule, self.second = schedule or Schedule.flow(limits.shift), second
        self.scheduler = Scheduler(token_budget=token_budget)
        self._lock = threading.Lock()  # guards the five fields that follow
        self._waiting: list[Job] = []  # submitted, and not seen by the worker
        self._worker: threading.Thread | None = None
        self._closed = False
        self._threads = torch.get_num_threads()
        self._counts = dict.fromkeys(("steps", "sequences", "tokens", "padding_tokens", "captures", "replays"), 0)
        self._jobs: list[Job] = []  # from here on the worker's own: all that it has seen and that are unfinished
        self._running: dict[Sample, Job] = {}
        self._batch: Batch | None = None  # of the last step, while any sample runs
        self._decoding: list[Decoding] = []
        self._arrivals = 0
        _ENGINES.add(self)

    @classmethod
    def load(
        cls, model: Bundle | str | Path = "shapes", *, device: str = "auto", dtype: str = "auto", backend: str = "auto"
    ) -> Engine:
        """Loads a bundle: a name that ships, a directory, or an opened one. ValueError for what cannot be."""
        check(backend)
        place = pick_device(device)
        bundle = open_bundle(model)
        schedule, two = bundle.description["schedule"], "transformer_2" in bundle.components
        load = partial(load_transformer, bundle, device, dtype, backend)
        return cls(
            limits=bundle.limits,
            transformer=load(),
            vae=load_vae(bundle, device, dtype, backend),
            text=load_prompts(bundle, place, pick_dtype(dtype, place)),
            schedule=Schedule(data=schedule) if schedule else None,
            second=load(component="transformer_2") if two else None,
        )

    def submit(self, request: Request) -> Job:
        """Queues one request. ValueError, before any work, where the model cannot do it."""
        return self.submit_all([request])[0]

    def submit_all(self, requests: Iterable[Request]) -> list[Job]:
        """Queues requests together, so that they share steps from their first one; all are checked before any is."""
        requests = list(requests)
        for request in requests:
            if not isinstance(request, Request):
                raise TypeError(f"a request must be a packdit.runtime.Request, got {quote(request)}")
            self.text.check(request)
        jobs = [Job(self.limits.complete(request)) for request in requests]
        with self._lock:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._threads = torch.get_num_threads()
            if jobs and self._worker is None:
                worker = threading.Thread(target=self._work, name="packdit-engine", daemon=True)
                worker.start()
                self._worker = worker
            self._waiting += jobs
        return jobs

    def generate(self, requests: Iterable[Request]) -> list[Video]:
        """The videos of `requests`, in their order. Raises what the first failed one failed with."""
        jobs = self.submit_all(requests)
        try:
            return [job.result() for job in jobs]
        except BaseException:  # a failure, or Ctrl-C: nobody waits for the others
            for job in jobs:
                job.cancel()
            raise

    def step(self, samples: Iterable[Sample]) -> None:
        """One pass of the model over as many of the samples as fit. For the worker alone."""
        plan, chosen = self.scheduler.next_plan(samples)
        expert = self.second if self.second and chosen[0].expert else self.transformer
        batch, self._batch = next_batch(self._batch, plan, chosen, expert), None  # where the step fails, none
        out = expert.run(batch.tokens(), batch.pack)[:, : batch.state.shape[2]]  # without a learned variance
        with using(expert.backend):
            guided_step(batch.state, out, batch.cond, batch.uncond, batch.guidance, batch.table, batch.row)
        batch.advance()
        self._batch = batch
        self._count(steps=1, sequences=plan.num_segments, tokens=plan.num_tokens)

    def stats(self) -> dict[str, int]:
        """Counts since the engine was made: steps, sequences and tokens that ran in them, padding, graph captures and
        replays (none on a CPU), and the peak of memory in bytes (the GPU's where there is one, else the process's)."""
        with self._lock:
            return {**self._counts, "peak_bytes": peak_bytes(self.transformer.device)}

    def close(self) -> None:
        """Cancels what is unfinished and waits for the worker to stop. May be called more than once."""
        with self._lock:
            self._closed = True
            worker = self._worker
        if worker is not None and worker is not threading.current_thread():
            worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Below: the worker thread.

    def _work(self) -> None:
        """Takes turns until there is nothing left to do: a thread that waited for more would keep the engine alive."""
        with torch.inference_mode():
            while self._receive():
                try:
                    self._turn()
                except BaseException as error:  # not one job's own: all in flight fail, so that nobody waits for ever
                    _LOG.exception("the engine failed, and all that was in flight with it")
                    self._end_all("failed", error)

    def _receive(self) -> bool:
        """Takes what was submitted; False, and this worker is done, where nothing is left to do."""
        with self._lock:
            self._jobs = [job for job in [*self._jobs, *self._waiting] if not job.finished]
            self._waiting = []
            if self._closed:
                self._end_all("cancelled")
            if not self._jobs:  # the next job starts the next worker
                self._worker = None
                return False
            threads = self._threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return True

    def _turn(self) -> None:
        """One step of those that denoise, then one chunk of each that decodes: neither keeps the other waiting."""
        self._drop_cancelled()
        for job in [job for job in self._jobs if job.status == "queued"]:
            self._admit(job)
        if self._running:
            self._step_or_isolate()
        for sample, job in list(self._running.items()):
            job.advance("steps", sample.stage, sample.num_stages)
            if sample.done:
                self._decoding.append(Decoding(sample, self._running.pop(sample), self.transformer, self.vae))
        if not self._running:
            self._batch = None
        self._decoding = [d for d in self._decoding if not d.advance()]

    def _step_or_isolate(self) -> None:
        """One step. Should it fail, each sample runs by itself: the one at fault fails, its companions do not."""
        try:
            return self.step(self._running)
        except Exception as error:
            _LOG.warning("a packed step failed, its samples run one by one: %s", str(error))
        for sample in list(self._running):
            try:
                self.step([sample])
            except Exception as error:
                self._running.pop(sample).finish("failed", error)

    def _admit(self, job: Job) -> None:
        """Encodes what the request gives; a failure is the job's own."""
        job.advance("text", 0, 1)
        request = job.request
        try:
            told = self.text(request)
            self._arrivals += 1
            sample = make_sample(request, told, self.transformer, self.vae, self.schedule, self._arrivals)
        except Exception as error:
            return job.finish("failed", error)
        if sample.done:  # a clip that is given whole
            self._decoding.append(Decoding(sample, job, self.transformer, self.vae))
        else:
            job.advance("steps", sample.stage, sample.num_stages)
            self._running[sample] = job

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._jobs if job.cancel_asked]:
            job.finish("cancelled")
        self._running = {sample: job for sample, job in self._running.items() if not job.finished}
        self._decoding = [d for d in self._decoding if not d.job.finished]

    def _end_all(self, status: str, error: BaseException | None = None) -> None:
        for job in self._jobs:
            job.finish(status, error)
        self._jobs, self._running, self._batch, self._decoding = [], {}, None, []

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, value in more.items():
                self._counts[name] += value


@atexit.register
def _close_all() -> None:
    """A thread that the interpreter stops in the middle of a kernel takes the process down with it."""
    for engine in list(_ENGINES):
        engine.close()
