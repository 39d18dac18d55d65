"""Reading a trained pipeline: what is found, and one short sentence for everything that is not right."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from packdit.export.source import read_component, read_json, read_pipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def source(pipeline_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pipeline_dir, tmp_path / "source")


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the caller looks at the message
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) <= 300, message
    return message


def test_a_pipeline(source: Path) -> None:
    parts = read_pipeline(source)
    assert {name: part.file.name for name, part in parts.items()} == {
        "transformer": WEIGHTS,
        "vae": WEIGHTS,
        "text_encoder": "model.safetensors",
    }
    assert parts["vae"].config["latent_channels"] == 4
    assert parts["transformer"].tensors()["blocks.0.modulation.weight"].shape == (6 * 44, 44)


@pytest.mark.parametrize("name", ["transformer", "vae", "text_encoder", "model_index.json"])
def test_a_missing_component(source: Path, name: str) -> None:
    path = source / name
    path.unlink() if path.is_file() else shutil.rmtree(path)
    assert "is missing; give a directory in diffusers' layout" in refusal(lambda: read_pipeline(source))


def test_a_source_that_is_no_directory(source: Path) -> None:
    refusal(lambda: read_pipeline(source / "model_index.json"))
    refusal(lambda: read_pipeline(source / "nowhere"))
    refusal(lambda: read_pipeline(Path("x" * 5000)))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.ckpt", "model.pt", "model.pth"])
def test_pickles_are_never_read(source: Path, name: str) -> None:
    (source / "vae" / WEIGHTS).rename(source / "vae" / name)
    message = refusal(lambda: read_component(source / "vae"))
    assert "is a pickle, which can run code when it is read; save the weights as safetensors" in message


def test_no_weights(source: Path) -> None:
    (source / "vae" / WEIGHTS).unlink()
    assert f"expected {WEIGHTS} or model.safetensors" in refusal(lambda: read_component(source / "vae"))


@pytest.mark.parametrize("size", [0, 5, 1000, -1])
def test_truncated_weights(source: Path, size: int) -> None:
    file = source / "vae" / WEIGHTS
    os.truncate(file, size % file.stat().st_size)
    part = read_component(source / "vae")
    assert "is truncated or no safetensors file" in refusal(part.tensors)


def test_weights_that_are_none(source: Path) -> None:
    (source / "vae" / WEIGHTS).write_bytes(b"PK\x03\x04" * 100)
    assert "is truncated or no safetensors file" in refusal(read_component(source / "vae").tensors)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 10**5])
def test_what_is_no_json(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "config.json").write_bytes(data)
    assert "cannot be read as JSON" in refusal(lambda: read_json(tmp_path / "config.json"))


@pytest.mark.parametrize("value", [[], None, 3, "text"])
def test_what_is_no_object(tmp_path: Path, value: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps(value))
    assert "must hold a JSON object" in refusal(lambda: read_json(tmp_path / "config.json"))
