"""Fresh torch memory is poison in every test: NaN in floats, the largest value in integers, True in booleans.

torch can do this itself, but only under `use_deterministic_algorithms`, which also makes it choose other kernels than
users get, and so would hide an order-dependent sum from the tests of bit-equality. So the allocating functions are
wrapped instead.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


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

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    for name in ("new_empty", "new_empty_strided"):
        monkeypatch.setattr(torch.Tensor, name, poisoned(getattr(torch.Tensor, name)))


@pytest.fixture(scope="session")
def pipeline_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained shapes pipeline in diffusers' layout: random weights, nothing at zero. Not to be changed."""
    folder = tmp_path_factory.mktemp("pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "examples" / "shapes"))
        import torch
        from dit import VideoDiT
        from text import make_encoder, make_tokenizer
        from train import write_component, write_pipeline
        from vae import VideoVAE

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            tokenizer = make_tokenizer()
            dit = VideoDiT(width=64, depth=2, heads=2, mlp=128, text_width=32)
            encoder = make_encoder(tokenizer, width=32, layers=1)
            vae = VideoVAE(encoder_channels=(8, 16), decoder_channels=(8, 16))
            for parameter in dit.parameters():  # training starts with gates and the head at zero, which hides all else
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
    statistics = {"latents_mean": [0.1 * i - 0.5 for i in range(12)], "latents_std": [0.5 + 0.1 * i for i in range(12)]}
    write_component(folder / "vae", vae, statistics)
    write_pipeline(folder, dit, encoder, tokenizer)
    return folder


@pytest.fixture(scope="session")
def bundle_dir(pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pipeline_dir` as a bundle in fp32, verified. Not to be changed: tests that alter a bundle copy it."""
    from packdit.export import convert

    return convert(pipeline_dir, tmp_path_factory.mktemp("bundle") / "small").folder
