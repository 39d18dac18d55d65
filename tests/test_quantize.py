"""int8 bundles: what is quantized, how it is stored, and what it changes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from packdit.export import convert
from packdit.export.quantize import quantizable
from packdit.kernels.linear_int8 import quantize_rows
from packdit.runtime import Engine, Request, load_transformer
from packdit.runtime.bundle import Bundle
from packdit.runtime.load import empty_module
from packdit.runtime.models import transformer_class
from packdit.runtime.models.layers import Linear

LAYERS = [f"blocks.{i}.{name}" for i in range(2) for name in ("qkv", "out", "fc1", "fc2")]


@pytest.fixture(scope="module")
def int8_dir(pipeline_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small pipeline, whose layers are too narrow unless told otherwise, as an int8 bundle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("packdit.export.quantize.MIN_WIDTH", 40)
        return convert(pipeline_dir, tmp_path_factory.mktemp("int8") / "small", quantize="int8").folder


def clips(count: int = 3) -> dict[str, list[Any]]:
    """The first of three clips."""
    generator = torch.Generator().manual_seed(0)
    grids = [(1, 4, 4), (5, 8, 6), (2, 4, 12)]
    arguments: dict[str, list[Any]] = {
        "latents": [torch.randn(4, *grid, generator=generator) for grid in grids],
        "timesteps": [700.0, 300.0, 20.0],
        "text": [torch.randn(3, 24, generator=generator) for _ in grids],
    }
    return {name: values[:count] for name, values in arguments.items()}


def test_large_layers_of_the_blocks_are_quantized() -> None:
    bundle = Bundle.open("shapes")
    model = empty_module(transformer_class(bundle.class_name("transformer")), bundle.config("transformer"), "model")
    names = quantizable(model)
    assert names == [f"blocks.{i}.{name}" for i in range(6) for name in ("qkv", "out", "fc1", "fc2")]
    sizes = {name: part.weight.numel() for name, part in model.named_modules() if isinstance(part, Linear)}
    assert sum(sizes[name] for name in names) > 0.5 * sum(sizes.values())


def test_what_is_stored(int8_dir: Path, bundle_dir: Path) -> None:
    got, whole = Bundle.open(int8_dir).weights("transformer"), Bundle.open(bundle_dir).weights("transformer")
    assert [name.removesuffix(".weight") for name, t in got.items() if t.dtype == torch.int8] == LAYERS
    for name in LAYERS:
        values, scale = quantize_rows(whole[f"{name}.weight"])
        assert torch.equal(got.pop(f"{name}.weight"), values)
        assert torch.equal(got.pop(f"{name}.scale"), scale)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in got.items())
    assert torch.equal(Bundle.open(int8_dir).weights("vae")["decoder.up.weight"].float(), _up(bundle_dir))


def _up(folder: Path) -> torch.Tensor:
    return Bundle.open(folder).weights("vae")["decoder.up.weight"]


def test_the_bundle_says_what_it_changes(int8_dir: Path) -> None:
    description = Bundle.open(int8_dir).description
    quantization = description["quantization"]
    assert (quantization["method"], quantization["layers"]) == ("int8", {"transformer": len(LAYERS)})
    assert 1e-4 < quantization["relative_error"]["transformer"] < 0.1
    assert description["verified"]["relative_error"]["transformer"] < description["verified"]["limit"]
    assert description["verified"]["rounding"]["vae"] == 0


def test_output_is_close_and_the_same_in_any_company(int8_dir: Path, bundle_dir: Path) -> None:
    model = load_transformer(int8_dir, "cpu", "fp32")
    together = model(**clips())
    for out, exact in zip(together, load_transformer(bundle_dir, "cpu", "fp32")(**clips()), strict=True):
        assert not torch.equal(out, exact)
        assert (out - exact).norm() < 0.05 * exact.norm()
    (alone,) = model(**clips(1))
    assert torch.equal(alone, together[0])
    reference = load_transformer(int8_dir, "cpu", "fp32", "reference")(**clips())
    for out, expected in zip(together, reference, strict=True):
        assert (out - expected).norm() < 0.02 * expected.norm()


def test_what_cannot_run_int8_runs_floats(int8_dir: Path) -> None:
    model = load_transformer(int8_dir, "cpu", "bf16")
    weights = Bundle.open(int8_dir).weights("transformer")
    name = "blocks.0.fc1"
    exact = weights[f"{name}.weight"] * weights[f"{name}.scale"][:, None]
    assert torch.equal(model.model.blocks[0].fc1.weight, exact.bfloat16())
    assert model(**clips(1))[0].isfinite().all()


def test_an_engine_generates_from_it(int8_dir: Path) -> None:
    with Engine.load(int8_dir, device="cpu") as engine:
        (video,) = engine.generate([Request(prompt="a red circle", width=32, height=32, frames=5, steps=2)])
    assert video.frames.shape == (5, 32, 32, 3)


def test_without_verification_the_error_is_unknown(
    pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packdit.export.quantize.MIN_WIDTH", 40)
    made = convert(pipeline_dir, tmp_path / "made", "bf16", quantize="int8", verify=False)
    assert made.description["quantization"]["relative_error"] is None
    kinds = {tensor.dtype for tensor in made.weights("transformer").values()}
    assert kinds == {torch.int8, torch.float32, torch.bfloat16}


def test_nothing_to_quantize(pipeline_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nothing for int8 in vae: "):
        convert(pipeline_dir / "vae", tmp_path / "made", quantize="int8")
    with pytest.raises(ValueError, match=r"^quantize must be one of none, int8, got 'int4'$"):
        convert(pipeline_dir, tmp_path / "made", quantize="int4")
    assert not list(tmp_path.iterdir())


def test_an_int8_weight_of_no_linear_layer(int8_dir: Path, runtime: SimpleNamespace) -> None:
    from packdit.runtime.models.quantized import quantized_module

    weights = {"blocks.weight": torch.zeros(1, dtype=torch.int8)}
    with pytest.raises(ValueError, match=r"^blocks is no linear layer, but its weight is int8$"):
        quantized_module(lambda config: runtime.transformer.model, weights, {})
