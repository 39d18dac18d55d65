"""What every test has: poisoned fresh memory; on demand a small untrained shapes pipeline and its bundle.

Fresh torch memory is NaN in floats, the largest value in integers, True in booleans. torch can do this itself, but only
under `use_deterministic_algorithms`, which also makes it choose other kernels than users get, and so would hide an
order-dependent sum from the tests of bit-equality. So the allocating functions are wrapped instead.
"""

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ["TRITON_INTERPRET"] = "1"  # before any kernel is imported: no test launches one on a GPU


def poisoned(allocate: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    @functools.wraps(allocate)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        fresh = allocate(*args, **kwargs)
        if fresh.dtype == torch.bool:
            value: float = True
        elif fresh.is_floating_point() or fresh.is_complex():
            value = float("nan")
        else:
            value = torch.iinfo(fresh.dtype).max
        with torch.no_grad():
            return fresh.fill_(value)

    return wrapper


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    if "torch" not in sys.modules:  # the test's own imports have run by now; one without torch need not load it
        return
    import torch
    from torch.utils._device import _device_constructors

    _device_constructors()  # remembers what `with torch.device("meta")` redirects: the functions, not their wrappers
    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    for name in ("new_empty", "new_empty_strided"):
        monkeypatch.setattr(torch.Tensor, name, poisoned(getattr(torch.Tensor, name)))


SHAPES_FILES = ("world", "text", "vae", "dit", "latents", "train", "detector")


@pytest.fixture(scope="session")
def shapes() -> SimpleNamespace:
    """The modules of examples/shapes, which is no package: `shapes.dit.VideoDiT` and so on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "examples" / "shapes"))
        return SimpleNamespace(**{name: import_module(name) for name in SHAPES_FILES})


def shake(module: Any, seed: int) -> None:
    """Random weights everywhere, also where training starts from zeros or ones."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(noise * p.shape[1] ** -0.5 if p.ndim > 1 else p + 0.1 * noise)


@pytest.fixture(scope="session")
def models(shapes: SimpleNamespace) -> SimpleNamespace:
    """Small training modules with random weights, `vae`, `dit`, `encoder`; the `tokenizer`; latent `statistics`.

    Widths are no multiples of a vector's length.
    """
    vae = shapes.vae.VideoVAE(latent_channels=4, encoder_channels=(6, 10), decoder_channels=(6, 10))
    dit = shapes.dit.VideoDiT(in_channels=4, width=44, depth=2, heads=2, mlp=70, text_width=24)
    tokenizer = shapes.text.make_tokenizer()
    encoder = shapes.text.make_encoder(tokenizer, width=24, layers=2)
    for seed, module in enumerate((vae, dit, encoder)):
        shake(module.eval(), seed)
    statistics = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.0, 0.5, 2.0, 1.5]}
    return SimpleNamespace(vae=vae, dit=dit, encoder=encoder, tokenizer=tokenizer, statistics=statistics)


@pytest.fixture(scope="session")
def pipeline_dir(shapes: SimpleNamespace, models: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`models` as training writes them, in diffusers' layout. Not to be changed: tests that alter it copy it."""
    folder = tmp_path_factory.mktemp("pipeline")
    shapes.train.write_component(folder / "vae", models.vae, models.statistics)
    shapes.train.write_pipeline(folder, models.dit, models.encoder, models.tokenizer)
    return folder


@pytest.fixture(scope="session")
def bundle_dir(pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pipeline_dir` as a bundle in fp32, verified. Not to be changed: tests that alter a bundle copy it."""
    from packdit.export import convert

    return convert(pipeline_dir, tmp_path_factory.mktemp("bundle") / "small").folder


@pytest.fixture(scope="session")
def runtime(bundle_dir: Path) -> SimpleNamespace:
    """The models of `bundle_dir`, `transformer` and `vae`; its `limits`; and `sample(arrival=0, **fields)`, which makes
    a sample of a request with these fields and random texts."""
    import torch

    from packdit.runtime import Request, load_transformer, load_vae
    from packdit.runtime.bundle import Bundle
    from packdit.runtime.prompts import Told
    from packdit.runtime.sample import Sample, make_sample
    from packdit.runtime.schedule import Schedule

    transformer, vae, limits = load_transformer(bundle_dir), load_vae(bundle_dir), Bundle.open(bundle_dir).limits
    schedule = Schedule.flow(limits.shift)

    def sample(arrival: int = 0, **fields: Any) -> Sample:
        request = limits.complete(Request(**fields))
        generator = torch.Generator().manual_seed(arrival)
        told = [Told(text=torch.randn(2 + arrival + i, 24, generator=generator)) for i in range(1 + request.guided)]
        return make_sample(request, told, transformer, vae, schedule, arrival)

    return SimpleNamespace(transformer=transformer, vae=vae, limits=limits, sample=sample)


@pytest.fixture(scope="session")
def new_engine(bundle_dir: Path) -> Callable[..., Any]:
    """Makes an engine around models that are loaded once; takes the options of `Engine` that are no models."""
    from packdit.runtime import Engine

    loaded = Engine.load(bundle_dir)
    models = {name: getattr(loaded, name) for name in ("limits", "transformer", "vae", "text")}
    return functools.partial(Engine, **models)


@pytest.fixture
def engine(new_engine: Callable[..., Any]) -> Iterator[Any]:
    with new_engine() as engine:
        yield engine


class Gate:
    """Lets calls of a function through one by one, or, once open, all of them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.arrived, self.passes = function, threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, *arguments: Any) -> Any:
        self.arrived.release()
        assert self.passes.acquire(timeout=60)
        return self.function(*arguments)

    def wait(self) -> None:
        assert self.arrived.acquire(timeout=60)

    def let_pass(self, count: int = 1) -> None:
        self.passes.release(count)

    def open(self) -> None:
        self.passes.release(10**6)


@pytest.fixture
def gate(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Before every pass of the transformer."""
    gate = Gate(engine.transformer.run)
    monkeypatch.setattr(engine.transformer, "run", gate)
    yield gate
    gate.open()


@pytest.fixture
def decode_gate(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Before every chunk that the VAE decodes."""
    gate = Gate(engine.vae.model.decoder.forward)
    monkeypatch.setattr(engine.vae.model.decoder, "forward", gate)
    yield gate
    gate.open()
