"""Bundles: what opens, and one short sentence for everything that must not."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from packdit.runtime import Engine
from packdit.runtime.bundle import FORMAT, SHIPPED, Bundle, digest, file_hash, find, shipped

Description = dict[str, Any]


@pytest.fixture
def copy(bundle_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bundle_dir, tmp_path / "copy")


def refusal(folder: str | Path) -> str:
    """What `Bundle.open` says: one line of at most 300 characters, whatever is wrong."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the caller looks at the message
        Bundle.open(folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) <= 300, message
    return message


def rewrite(folder: Path, change: Callable[[Description], Any], *, sign: bool = True) -> None:
    """Changes bundle.json, and unless told otherwise its digest too, as somebody who knows the format could."""
    path = folder / "bundle.json"
    description = json.loads(path.read_text())
    change(description)
    if sign:
        description["digest"] = digest(description)
    path.write_text(json.dumps(description))


def test_opens(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    assert (bundle.family, bundle.limits.side_step) == ("shapes", 16)
    assert bundle.components == ["transformer", "vae", "text_encoder"]
    assert (bundle.class_name("transformer"), bundle.config("transformer")["depth"]) == ("ShapesVideoDiT", 2)
    assert bundle.weights("vae")["decoder.up.weight"].shape == (24, 10)
    assert bundle.path("tokenizer/tokenizer.json").is_file()
    assert Bundle.open(str(bundle_dir)).description == bundle.description


def test_what_it_does_not_hold(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    with pytest.raises(ValueError, match="has no upsampler; it has transformer, vae, text_encoder"):
        bundle.config("upsampler")
    with pytest.raises(ValueError, match="does not list its file 'README'"):
        bundle.path("README")


def test_names_that_ship_are_found(monkeypatch: pytest.MonkeyPatch, bundle_dir: Path) -> None:
    monkeypatch.setattr("packdit.runtime.bundle.SHIPPED", bundle_dir.parent)
    assert shipped() == [bundle_dir.name]
    assert find(bundle_dir.name) == bundle_dir
    assert SHIPPED.name == "bundles"


@pytest.mark.parametrize("model", ["nowhere", "", "a\0b", "x" * 5000, "/", "two\nlines"])
def test_missing(model: str) -> None:
    assert refusal(model).startswith("no bundle at '")


def test_a_missing_file(copy: Path) -> None:
    (copy / "vae.safetensors").unlink()
    assert "lacks its file 'vae.safetensors'" in refusal(copy)


def test_a_truncated_file(copy: Path) -> None:
    size = (copy / "vae.safetensors").stat().st_size
    os.truncate(copy / "vae.safetensors", size - 1)
    assert f"has {size - 1} bytes instead of {size}: it is truncated" in refusal(copy)


def test_an_altered_file(copy: Path) -> None:
    data = bytearray((copy / "transformer.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "transformer.safetensors").write_bytes(data)
    assert "'transformer.safetensors'" in refusal(copy)
    assert "was altered" in refusal(copy)


def test_a_name_that_no_file_can_have(copy: Path) -> None:
    rewrite(copy, lambda d: d["files"].update({"x" * 5000: {"bytes": 6, "sha256": ""}}))
    assert "lacks its file 'xxx" in refusal(copy)


def test_a_file_that_is_a_directory(copy: Path) -> None:
    (copy / "vae.safetensors").unlink()
    (copy / "vae.safetensors").mkdir()
    assert "lacks its file 'vae.safetensors'" in refusal(copy)


def test_an_altered_description(copy: Path) -> None:
    rewrite(copy, lambda d: d["limits"].update(max_tokens=10**9), sign=False)
    assert "was altered after it was written" in refusal(copy)


def test_a_newer_format(copy: Path) -> None:
    rewrite(copy, lambda d: (d.clear(), d.update(format=FORMAT + 1, novel=True)))
    assert f"has format {FORMAT + 1}, this packdit reads {FORMAT}: update it" in refusal(copy)


def test_an_older_format(copy: Path) -> None:
    rewrite(copy, lambda d: d.update(format=FORMAT - 1))
    assert f"has format {FORMAT - 1}, this packdit reads {FORMAT}: export it again from its source" in refusal(copy)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"bundle"', "{}", '{"format": "1"}', '{"format": true}', '{"format": 0}', "[" * 10**5],
)
def test_what_is_no_description(copy: Path, text: str) -> None:
    (copy / "bundle.json").write_text(text)
    assert refusal(copy).startswith("the bundle.json of '")


def test_a_description_that_is_no_text(copy: Path) -> None:
    (copy / "bundle.json").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal(copy)


@pytest.mark.parametrize(
    "name",
    ["../secret", "tokenizer/../../secret", "/etc/passwd", "", ".", "..", "tokenizer\\..\\x", "a\0b"],
)
def test_a_path_that_climbs_out(copy: Path, name: str) -> None:
    (copy.parent / "secret").write_text("secret")
    entry = {"bytes": 6, "sha256": file_hash(copy.parent / "secret")}
    rewrite(copy, lambda d: d["files"].update({name: entry}))
    assert "names a file outside of itself" in refusal(copy)
    rewrite(copy, lambda d: d["components"]["vae"].update(weights=[name]))
    refusal(copy)


@pytest.mark.parametrize("link", ["vae.safetensors", "tokenizer"])
def test_a_link_that_leads_out(copy: Path, link: str) -> None:
    (copy / link).rename(copy.parent / "elsewhere")
    (copy / link).symlink_to(copy.parent / "elsewhere")
    assert f"names a file outside of itself: '{link}" in refusal(copy)


def test_a_link_to_itself(copy: Path) -> None:
    (copy / "vae.safetensors").unlink()
    (copy / "vae.safetensors").symlink_to("vae.safetensors")
    refusal(copy)


def test_a_link_to_the_bundle_is_fine(copy: Path) -> None:
    (copy.parent / "link").symlink_to(copy)
    Bundle.open(copy.parent / "link")


def put(*keys: str, value: Any) -> Callable[[Description], None]:
    def change(description: Description) -> None:
        for key in keys[:-1]:
            description = description[key]
        description[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(lambda d, key=key: d.pop(key) for key in ("files", "components", "family", "limits", "dtype")),
        *(put(key, value=None) for key in ("files", "components", "family", "dtype")),
        *(put(key, value=["a"]) for key in ("files", "components", "family", "limits")),
        put("files", "vae.safetensors", value=None),
        put("files", "vae.safetensors", value={"bytes": "12", "sha256": ""}),
        put("files", "vae.safetensors", "bytes", value=True),
        put("files", "vae.safetensors", "bytes", value=10**400),
        put("components", "vae", value="vae.safetensors"),
        put("components", "vae", value={"config": {}}),
        put("components", "vae", "config", value=[]),
        *(put("components", "vae", "weights", value=value) for value in (7, "vae.safetensors", [], [7], ["a", None])),
        put("components", "vae", "class", value=None),
        put("prompt", value="text"),
        put("schedule", value=[]),
        put("limits", "side_step", value=0),
        put("limits", "width", value=1.5),
        put("limits", "novel", value=1),
        put("limits", value={}),
    ],
)
def test_a_malformed_description(copy: Path, change: Callable[[Description], None]) -> None:
    rewrite(copy, change)
    refusal(copy)


def engine_refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the caller looks at the message
        Engine.load(folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) <= 300, message
    return message


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_a_component_that_is_not_there(copy: Path, component: str) -> None:
    rewrite(copy, lambda d: d["components"].pop(component))
    assert f"has no {component}" in engine_refusal(copy)


@pytest.mark.parametrize(
    "change",
    [
        put("components", "vae", "weights", value=["../vae.safetensors"]),
        put("components", "vae", "weights", value=["tokenizer/tokenizer.json"]),
        put("components", "vae", "weights", value=["vae.safetensors", "vae.safetensors"]),
        put("components", "vae", "class", value="AutoencoderMystery"),
        put("components", "transformer", "class", value="x" * 999),
        put("components", "vae", "config", value={}),
        put("components", "vae", "config", "latents_mean", value=[1.0]),
        put("components", "vae", "config", "latents_std", value=["1", "1", "1", "1"]),
        put("components", "transformer", "config", value={}),
        put("components", "transformer", "config", "width", value="wide"),
        put("components", "transformer", "config", "depth", value=-1),
        put("components", "text_encoder", "config", "hidden_size", value="wide"),
        lambda d: d["files"].pop("tokenizer/tokenizer.json"),
    ],
)
def test_a_component_that_cannot_be_used(copy: Path, change: Callable[[Description], None]) -> None:
    rewrite(copy, change)
    engine_refusal(copy)


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_tensors_that_are_missing_unused_or_misshapen(copy: Path, component: str) -> None:
    weights = {name: tensor.clone() for name, tensor in Bundle.open(copy).weights(component).items()}
    some = sorted(weights)[3]
    for changed, said in (
        ({k: v for k, v in weights.items() if k != some}, f"lacks the tensor '{some}'"),
        ({**weights, "novel": torch.zeros(1)}, "has a tensor that nothing uses: 'novel'"),
        ({**weights, some: torch.zeros(1, 2, 3)}, f"tensor '{some}' is (1, 2, 3) instead of "),
    ):
        file = copy / f"{component}.safetensors"
        save_file(changed, file)
        entry = {"bytes": file.stat().st_size, "sha256": file_hash(file)}
        rewrite(copy, put("files", file.name, value=entry))
        assert said in engine_refusal(copy)
