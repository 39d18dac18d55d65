"""Reading a checkpoint: what is found, and one short sentence for everything that is not right."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from packdit.export.source import open_source, read_component, read_header, read_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


@pytest.fixture
def source(pipeline_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pipeline_dir, tmp_path / "source")


@pytest.fixture
def sharded(source: Path) -> Path:
    """The transformer's folder with its weights in three shards."""
    return shard(source / "transformer")


def shard(folder: Path) -> Path:
    weights = list(load_file(folder / WEIGHTS).items())
    places = {}
    for i in range(3):
        name = f"diffusion_pytorch_model-{i + 1:05}-of-00003.safetensors"
        save_file(dict(weights[i::3]), folder / name)
        places |= {key: name for key, _ in weights[i::3]}
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return folder


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the caller looks at the message
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) <= 300, message
    return message


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_pipeline(source: Path) -> None:
    opened = open_source(source)
    assert {name: (part.kind, part.class_name) for name, part in opened.components.items()} == {
        "transformer": ("transformer", "ShapesVideoDiT"),
        "vae": ("vae", "ShapesVideoVAE"),
        "text_encoder": ("text_encoder", "CLIPTextModel"),
    }
    assert opened.components["vae"].settings["latent_channels"] == 4
    assert "_class_name" not in opened.components["vae"].settings
    assert [path.parent.name for path in opened.files] == ["text_encoder", "transformer", "vae"]
    assert opened.configs["scheduler"]["shift"] == 2.0
    assert opened.configs["tokenizer"]
    assert opened.index
    assert opened.index["_class_name"] == "ShapesPipeline"


@pytest.mark.parametrize(("folder", "name"), [("transformer", "transformer"), ("vae", "vae"), ("text_encoder",) * 2])
def test_a_component_is_called_by_its_kind(source: Path, folder: str, name: str) -> None:
    opened = open_source(source / folder)
    assert (list(opened.components), opened.index) == ([name], None)


def test_a_tensor_is_read_when_it_is_asked_for(source: Path) -> None:
    tensors = read_component(source / "transformer").tensors
    stored = tensors["blocks.0.modulation.weight"]
    assert (stored.shape, stored.dtype) == ((6 * 44, 44), "F32")
    assert torch.equal(stored.read(), load_file(source / "transformer" / WEIGHTS)["blocks.0.modulation.weight"])
    os.truncate(stored.file, 1000)
    assert "cannot be read any more" in refusal(stored.read)


def test_shards(source: Path) -> None:
    whole = load_file(source / "transformer" / WEIGHTS)
    shard(source / "transformer")
    tensors = open_source(source).components["transformer"].tensors
    assert {name: stored.file.name for name, stored in tensors.items()}.keys() == whole.keys()
    assert len({stored.file for stored in tensors.values()}) == 3
    assert all(torch.equal(stored.read(), whole[name]) for name, stored in tensors.items())


def test_a_variant_is_found_where_it_is_the_only_one(source: Path) -> None:
    folder = source / "transformer"
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    assert read_component(folder).tensors
    shutil.copy(folder / "diffusion_pytorch_model.fp16.safetensors", folder / "other.safetensors")
    assert "holds 2 *.safetensors and no index that says which to take" in refusal(lambda: read_component(folder))


def test_a_variant_in_shards(sharded: Path) -> None:
    (sharded / INDEX).rename(sharded / f"{WEIGHTS}.index.fp16.json")
    assert len({stored.file for stored in read_component(sharded).tensors.values()}) == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../secret.safetensors", "which is no safetensors file beside it"),
        ("/etc/passwd", "which is no safetensors file beside it"),
        ("shard.bin", "which is no safetensors file beside it"),
        ("..\\secret.safetensors", "which is no safetensors file beside it"),
        ("a\0.safetensors", "which is missing"),
        ("diffusion_pytorch_model-00004-of-00003.safetensors", "which is missing; fetch it and try again"),
        (7, "has no weight_map from tensors to files"),
    ],
)
def test_an_index_that_names_what_is_not_there(sharded: Path, name: Any, said: str) -> None:
    save_file({"time1.weight": torch.zeros(1)}, sharded.parent / "secret.safetensors")
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    change(sharded / INDEX, weight_map={**places, "time1.weight": name})
    assert said in refusal(lambda: read_component(sharded))


def test_an_index_and_shards_that_differ(sharded: Path) -> None:
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    other = next(name for name in places.values() if name != places["time1.weight"])
    for changed in ({**places, "novel": other}, {**places, "time1.weight": other}):
        change(sharded / INDEX, weight_map=changed)
        assert "holds '" in refusal(lambda: read_component(sharded))
    change(sharded / INDEX, weight_map={})
    assert "has no weight_map" in refusal(lambda: read_component(sharded))


def test_a_shard_that_is_truncated(sharded: Path) -> None:
    file = sharded / "diffusion_pytorch_model-00002-of-00003.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    assert "is truncated or no safetensors file" in refusal(lambda: read_component(sharded))


@pytest.mark.parametrize("name", ["transformer", "vae", "text_encoder"])
def test_a_missing_component(source: Path, name: str) -> None:
    shutil.rmtree(source / name)
    assert "is missing; give a directory in diffusers' layout" in refusal(lambda: open_source(source))


def test_a_component_that_the_index_does_not_name(source: Path) -> None:
    change(source / "model_index.json", transformer=[None, None])
    assert "names no transformer" in refusal(lambda: open_source(source))


def test_a_component_of_an_unknown_kind(source: Path) -> None:
    change(source / "model_index.json", unet=["diffusers", "UNet2DModel"], safety_checker=["x", "y"])
    shutil.copytree(source / "vae", source / "unet")
    shutil.copytree(source / "vae", source / "safety_checker")
    assert "the pipeline has a component 'unet'; known are transformer, " in refusal(lambda: open_source(source))


@pytest.mark.parametrize(
    ("folder", "class_name", "said"),
    [
        ("transformer", "MysteryModel", "the transformer class 'MysteryModel' is not known; known is that of Shapes"),
        ("transformer", None, "the transformer class None is not known"),
        ("transformer", "ShapesVideoVAE", "the transformer class 'ShapesVideoVAE' is not known"),
        ("vae", "AutoencoderMystery", "the VAE class 'AutoencoderMystery' is not known; known is that of Shapes"),
        ("vae", ["a"], "the VAE class ['a'] is not known"),
    ],
)
def test_an_unknown_class(source: Path, folder: str, class_name: Any, said: str) -> None:
    change(source / folder / "config.json", _class_name=class_name)
    assert said in refusal(lambda: open_source(source))
    if class_name != "ShapesVideoVAE":  # where the folder says what it should hold, no class fits but its own
        refusal(lambda: open_source(source / folder))


def test_a_text_encoder_of_an_unknown_class(source: Path) -> None:
    for architectures in (["BertModel"], [], None, "CLIPTextModel"):
        change(source / "text_encoder" / "config.json", architectures=architectures)
        assert "the text encoder class " in refusal(lambda: open_source(source))


def test_quantized_weights(source: Path) -> None:
    change(source / "transformer" / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    assert "are quantized; use those that they were made from" in refusal(lambda: open_source(source))


def test_a_source_that_is_none(source: Path) -> None:
    for path in (source / "tokenizer", source / "nowhere", source / "model_index.json", Path("x" * 5000), Path("a\0b")):
        assert "'" in refusal(lambda path=path: open_source(path))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.ckpt", "model.pt", "model.pth"])
def test_pickles_are_never_read(source: Path, name: str) -> None:
    said = "is a pickle, which can run code when it is read; save the weights as safetensors"
    (source / "vae" / WEIGHTS).rename(source / "vae" / name)
    assert said in refusal(lambda: read_component(source / "vae"))
    assert said in refusal(lambda: open_source(source / "vae" / name))
    (source / "vae" / "config.json").unlink()
    assert said in refusal(lambda: open_source(source / "vae"))


def test_a_gguf_file_is_told_what_to_use(source: Path) -> None:
    (source / "vae" / WEIGHTS).rename(source / "vae" / "wan.gguf")
    assert "is quantized; use the safetensors checkpoint" in refusal(lambda: open_source(source / "vae" / "wan.gguf"))


def test_no_weights(source: Path) -> None:
    (source / "vae" / WEIGHTS).unlink()
    assert f"expected {WEIGHTS} or model.safetensors" in refusal(lambda: read_component(source / "vae"))


@pytest.mark.parametrize("size", [0, 5, 1000, -1])
def test_truncated_weights(source: Path, size: int) -> None:
    file = source / "vae" / WEIGHTS
    os.truncate(file, size % file.stat().st_size)
    assert "is truncated or no safetensors file" in refusal(lambda: read_component(source / "vae"))


def test_weights_that_are_none(source: Path) -> None:
    (source / "vae" / WEIGHTS).write_bytes(b"PK\x03\x04" * 100)
    assert "is truncated or no safetensors file" in refusal(lambda: read_header(source / "vae" / WEIGHTS))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 10**5])
def test_what_is_no_json(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "config.json").write_bytes(data)
    assert "cannot be read as JSON" in refusal(lambda: read_json(tmp_path / "config.json"))


@pytest.mark.parametrize("value", [[], None, 3, "text"])
def test_what_is_no_object(tmp_path: Path, value: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps(value))
    assert "must hold a JSON object" in refusal(lambda: read_json(tmp_path / "config.json"))
