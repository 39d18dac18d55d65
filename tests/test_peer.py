"""What a packed model is compared with: diffusers' own where it is there, else the references."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from packdit.export import convert
from packdit.export.families import wan
from packdit.export.peer import clips_of, diffusers_model
from packdit.export.source import read_component
from packdit.export.testing import randomize
from packdit.runtime.bundle import Bundle

CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 20,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 22,
    "freq_dim": 24,
    "ffn_dim": 70,
    "num_layers": 2,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Wan transformer as diffusers saves it."""
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("wan")
    randomize(diffusers.WanTransformer3DModel(**CONFIG), seed=0).save_pretrained(folder, max_shard_size="40KB")
    return folder


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_against_diffusers(checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    bundle = convert(checkpoint, tmp_path / "made", dtype)
    verified = bundle.description["verified"]
    assert verified["against"]["transformer"].startswith("diffusers 0.")
    assert 0 < verified["relative_error"]["transformer"] <= verified["limit"] == 1e-4
    assert (verified["rounding"]["transformer"] > 1e-4) == (dtype == "bf16")
    assert (bundle.family, bundle.components, bundle.description["limits"]) == ("wan", ["transformer"], None)
    assert len(list(checkpoint.glob("*.safetensors"))) == len(bundle.description["source"]) > 2
    with pytest.raises(ValueError, match="holds no pipeline, only its transformer; to generate, export the whole"):
        _ = Bundle.open(tmp_path / "made").limits


def test_a_vae_against_diffusers(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.AutoencoderKLWan(base_dim=4, num_res_blocks=1, latents_mean=[0.5] * 16)
    randomize(model, seed=0).save_pretrained(tmp_path / "source")
    verified = convert(tmp_path / "source", tmp_path / "made").description["verified"]
    assert verified["against"]["vae"].startswith("diffusers 0.")
    assert 0 < verified["relative_error"]["vae"] <= 1e-4


def test_a_mistake_is_found(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wan, "_modulation", lambda tensors: torch.cat(tuple(tensors[1:])).flatten(1))
    with pytest.raises(ValueError, match=r"^the exported transformer differs from its source by .*, more than 0.0001$"):
        convert(checkpoint, tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_without_diffusers_against_the_references(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    verified = convert(checkpoint, tmp_path / "made", "bf16").description["verified"]
    assert verified["against"]["transformer"] == "op references in float64 on the fused weights"
    assert 0 < verified["relative_error"]["transformer"] <= 1e-4


def test_a_class_that_diffusers_does_not_have(pipeline_dir: Path) -> None:
    assert diffusers_model(read_component(pipeline_dir / "transformer")) is None


def test_clips_are_of_several_shapes_and_fit_the_model(checkpoint: Path, tmp_path: Path) -> None:
    clips = clips_of(read_component(checkpoint))
    assert [list(clip) for clip in clips] == [["latents", "timesteps", "text"]] * 3
    assert len({clip["latents"].shape for clip in clips}) == 3
    again = clips_of(read_component(checkpoint))
    assert all(torch.equal(a["latents"], b["latents"]) for a, b in zip(clips, again, strict=True))


def test_clips_that_diffusers_takes_in_a_form_of_its_own(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    config: dict[str, Any] = {**CONFIG, "image_dim": 26, "added_kv_proj_dim": 40, "pos_embed_seq_len": 10}
    randomize(diffusers.WanTransformer3DModel(**config), seed=0).save_pretrained(tmp_path / "source")
    for clip in clips_of(read_component(tmp_path / "source")):
        assert (clip["text"].shape, clip["image"].shape) == ((512, 22), (10, 26))
    verified = convert(tmp_path / "source", tmp_path / "made").description["verified"]
    assert 0 < verified["relative_error"]["transformer"] <= 1e-4
    shutil.rmtree(tmp_path / "made")
