"""A trained pipeline becomes a bundle, whole and verified, or nothing at all."""

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from packdit.export import convert
from packdit.runtime import Engine, Request, load_transformer
from packdit.runtime.bundle import Bundle, file_hash

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def source(pipeline_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pipeline_dir, tmp_path / "source")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def refusal(source: Path, target: Path, **options: Any) -> str:
    """What `convert` says: one short line, and the folder of the target is as before."""
    before = sorted(target.parent.rglob("*"))
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the caller looks at the message
        convert(source, target, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) <= 300, message
    assert sorted(target.parent.rglob("*")) == before
    return message


def change_config(source: Path, component: str, **changes: Any) -> None:
    """None removes a key."""
    path = source / component / ("scheduler_config.json" if component == "scheduler" else "config.json")
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def change_weights(file: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(weights)
    save_file(weights, file)


def test_a_bundle_says_what_it_is_made_from(pipeline_dir: Path, bundle_dir: Path) -> None:
    description = Bundle.open(bundle_dir).description
    assert (description["family"], description["dtype"], description["quantization"]) == ("shapes", "fp32", "none")
    name = f"transformer/{WEIGHTS}"
    assert description["source"][name] == file_hash(pipeline_dir / name)
    assert description["verified"]["limit"] == 1e-4
    assert description["verified"]["rounding"] == {"transformer": 0.0, "vae": 0.0, "text_encoder": None}
    assert description["components"]["vae"]["weights"] == ["vae.safetensors"]
    assert str(pipeline_dir) not in (bundle_dir / "bundle.json").read_text()
    assert description["limits"]["shift"] == 2.0


def test_files_can_be_read_by_others(bundle_dir: Path) -> None:
    for path in (bundle_dir, *bundle_dir.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444, path


@pytest.mark.parametrize(("dtype", "kind", "rounding"), [("fp16", torch.float16, 0.01), ("bf16", torch.bfloat16, 0.1)])
def test_half_precision(pipeline_dir: Path, place: Path, dtype: str, kind: torch.dtype, rounding: float) -> None:
    bundle = convert(pipeline_dir, place / "made", dtype)
    assert all(tensor.dtype == kind for tensor in bundle.weights("vae").values())
    verified = bundle.description["verified"]
    for component in ("transformer", "vae"):
        assert 0 < verified["relative_error"][component] <= 1e-4
        assert 0 < verified["rounding"][component] < rounding
    assert verified["relative_error"]["text_encoder"] is None
    assert "the source's own tensors" in verified["against"]["text_encoder"]
    with Engine.load(place / "made") as engine:
        assert engine.generate([Request(steps=1, frames=1)])[0].frames.shape == (1, 64, 64, 3)


def test_without_verification(pipeline_dir: Path, place: Path) -> None:
    seen: list[str] = []
    bundle = convert(str(pipeline_dir), str(place / "made"), verify=False, progress=seen.append)
    assert bundle.description["verified"] is None
    assert seen == ["reading", "writing"]
    assert [path.name for path in place.iterdir()] == ["made"]


def test_a_shift_that_is_not_said_is_diffusers_own(source: Path, place: Path) -> None:
    change_config(source, "scheduler", shift=None)
    assert convert(source, place / "made", verify=False).limits.shift == 1.0


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_missing_tokenizer(source: Path, place: Path, name: str) -> None:
    (source / "tokenizer" / name).unlink()
    assert "is missing; the prompt needs its tokenizer" in refusal(source, place / "made")


@pytest.mark.parametrize(
    ("component", "changes", "said"),
    [
        ("transformer", {"_class_name": "Mystery"}, "the transformer class 'Mystery' is not known"),
        ("text_encoder", {"architectures": ["T5EncoderModel"]}, "the text encoder lacks the tensor 'shared.weight'"),
        ("transformer", {"depth": None}, "the transformer's config cannot be used: KeyError('depth')"),
        ("transformer", {"width": "wide"}, "the transformer's config cannot be used: TypeError("),
        ("transformer", {"depth": 3}, "the transformer lacks the tensor 'blocks.2."),
        ("transformer", {"depth": 1}, "the transformer has a tensor that nothing uses: 'blocks.1."),
        ("transformer", {"mlp": 71}, "'blocks.0.fc1.weight' (70, 44) cannot make 'blocks.0.fc1.weight' (71, 44)"),
        ("vae", {"encoder_channels": None}, "the VAE's config cannot be used: KeyError('encoder_channels')"),
        ("vae", {"decoder_channels": [6, 11]}, "the VAE's config and tensors contradict one another: 'decoder."),
        ("vae", {"latents_mean": None}, "the VAE's latents_mean must be 4 numbers, got None"),
        ("vae", {"latents_std": [1.0]}, "the VAE's latents_std must be 4 numbers, got [1.0]"),
        ("text_encoder", {"hidden_size": "wide"}, "the text encoder's config cannot be used"),
        ("text_encoder", {"num_hidden_layers": 1}, "the text encoder has a tensor that nothing uses"),
        ("scheduler", {"shift": 0}, "limits: shift must be a number from 0.01 to 100, got 0"),
        ("scheduler", {"shift": "two"}, "limits: shift must be a number"),
    ],
)
def test_a_config_that_cannot_be_used(
    source: Path, place: Path, component: str, changes: dict[str, Any], said: str
) -> None:
    change_config(source, component, **changes)
    assert said in refusal(source, place / "made")


def test_components_that_do_not_fit_one_another(
    source: Path, place: Path, shapes: Any, models: Any, tmp_path: Path
) -> None:
    for channels, text_width, said in ((3, 24, "takes 3 latent channels"), (4, 23, "takes 23 text features")):
        dit = shapes.dit.VideoDiT(in_channels=channels, width=44, depth=1, heads=2, mlp=8, text_width=text_width)
        shapes.train.write_component(source / "transformer", dit)
        assert said in refusal(source, place / "made", verify=False)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (f"transformer/{WEIGHTS}", "blocks.1.modulation.weight"),
        (f"vae/{WEIGHTS}", "decoder.grow.0.time.weight"),
        ("text_encoder/model.safetensors", "final_layer_norm.weight"),
    ],
)
def test_tensors_that_are_missing_unused_or_misshapen(source: Path, place: Path, file: str, name: str) -> None:
    weights = load_file(source / file)
    key = next(k for k in weights if k.endswith(name))
    for change, said in (
        (lambda w: w.pop(key), "lacks the tensor '"),
        (lambda w: w.update(novel=torch.zeros(1)), "has a tensor that nothing uses: 'novel'"),
        (lambda w: w.update({key: torch.zeros(2)}), "config and tensors contradict one another: '"),
    ):
        save_file(weights, source / file)
        change_weights(source / file, change)
        assert said in refusal(source, place / "made", verify=False)


def test_weights_that_do_not_fit_the_dtype(source: Path, place: Path) -> None:
    change_weights(source / "vae" / WEIGHTS, lambda w: w["decoder.up.weight"].fill_(1e6))
    said = "the tensor 'decoder.up.weight' has values that are too large for float16"
    assert said in refusal(source, place / "made", dtype="fp16", verify=False)
    change_weights(source / "vae" / WEIGHTS, lambda w: w["decoder.up.weight"][3, 3].fill_(float("nan")))
    assert "values that are NaN or infinite" in refusal(source, place / "made", verify=False)


@pytest.mark.parametrize("dtype", ["fp8", "", "float32"])
def test_an_unknown_dtype(pipeline_dir: Path, place: Path, dtype: str) -> None:
    assert f"dtype must be one of fp32, bf16, fp16, got '{dtype}'" in refusal(pipeline_dir, place / "made", dtype=dtype)


def test_a_bundle_is_replaced_only_by_force(pipeline_dir: Path, bundle_dir: Path, place: Path) -> None:
    target = shutil.copytree(bundle_dir, place / "made")
    assert "exists already" in refusal(pipeline_dir, target)
    assert convert(pipeline_dir, target, "bf16", verify=False, force=True).description["dtype"] == "bf16"
    assert [path.name for path in place.iterdir()] == ["made"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_bundle_is_never_replaced(pipeline_dir: Path, place: Path, kind: str) -> None:
    target = place / "precious"
    if kind == "folder":
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
    else:
        target.write_text("years of work")
    assert "exists already" in refusal(pipeline_dir, target)
    assert "exists and is no bundle, so it is not replaced" in refusal(pipeline_dir, target, force=True)


def test_a_target_in_no_folder(pipeline_dir: Path, place: Path) -> None:
    assert "cannot be written" in refusal(pipeline_dir, place / "nowhere" / "made")


def test_a_disk_that_is_full_is_found_before_the_first_byte(
    pipeline_dir: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    said = refusal(pipeline_dir, place / "made")
    assert "the bundle takes 0.0 GB, but '" in said
    assert said.endswith(" has only 0.0 GB free")


def test_a_component_alone(pipeline_dir: Path, place: Path) -> None:
    bundle = convert(pipeline_dir / "transformer", place / "made")
    assert (bundle.family, bundle.components) == ("shapes", ["transformer"])
    assert [bundle.description[key] for key in ("prompt", "schedule", "limits")] == [None] * 3
    assert load_transformer(place / "made").model.in_channels == 4
    with pytest.raises(ValueError, match="holds no pipeline, only its transformer; to generate, export the whole"):
        Engine.load(place / "made")


def test_a_link_to_a_bundle_is_followed(pipeline_dir: Path, bundle_dir: Path, place: Path) -> None:
    target = shutil.copytree(bundle_dir, place / "made")
    (place / "link").symlink_to(target)
    convert(pipeline_dir, place / "link", "bf16", verify=False, force=True)
    assert (place / "link").is_symlink()
    assert Bundle.open(target).description["dtype"] == "bf16"
    assert sorted(path.name for path in place.iterdir()) == ["link", "made"]


@pytest.mark.parametrize("where", ["shards.write_shard", "write_tokenizers", "verify_bundle", "_write_description"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_crash_in_the_middle_leaves_nothing_behind(
    pipeline_dir: Path, place: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    def crash(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(f"packdit.export.checkpoint.{where}", crash)
    with pytest.raises(type(error)):
        convert(pipeline_dir, place / "made")
    assert list(place.iterdir()) == []


def test_a_crash_while_it_is_moved_leaves_the_old_bundle(
    pipeline_dir: Path, bundle_dir: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rename = shutil.copytree(bundle_dir, place / "made"), Path.rename

    def crash(path: Path, to: Path) -> Path:
        if path.parent == place and path.suffix != ".old" and to == target:
            raise OSError("disk full")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(OSError, match="disk full"):
        convert(pipeline_dir, target, verify=False, force=True)
    assert [path.name for path in place.iterdir()] == ["made"]
    assert Bundle.open(target).description == Bundle.open(bundle_dir).description
