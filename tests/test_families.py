"""What can be exported is known by name, and all that is known can be loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from packdit.export import families
from packdit.export.families import encoders, kind_of, module_of, pipeline_of, shapes, shapes_vae
from packdit.runtime.models import TRANSFORMERS, VAES

CONFIGS: dict[str, dict[str, Any]] = {
    "CLIPTextModel": {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2},
    "CLIPTextModelWithProjection": {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2},
    "T5EncoderModel": {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    "UMT5EncoderModel": {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
    "LlamaModel": {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "CLIPVisionModel": {"hidden_size": 16, "num_attention_heads": 2},
    "CLIPVisionModelWithProjection": {"hidden_size": 16, "num_attention_heads": 2},
}


@pytest.mark.parametrize("kind", families.KINDS)
def test_everything_that_is_known_can_be_loaded(kind: str) -> None:
    for name, family in families.KINDS[kind].items():
        module = module_of(kind, name)
        assert callable(module.entries)
        assert all(isinstance(fact, str) for fact in module.FUSED)
        assert (kind_of(name), families.family_of(kind, name)) == (kind, family)


def test_what_is_exported_can_be_run() -> None:
    assert families.KINDS["transformer"].keys() <= TRANSFORMERS.keys()
    assert families.KINDS["vae"].keys() <= VAES.keys()


def test_pipelines() -> None:
    for name in families.PIPELINES:
        family, describe = pipeline_of(name)
        assert family
        assert callable(describe)
    assert pipeline_of("ShapesPipeline") == ("shapes", shapes.describe)
    for name in ("MysteryPipeline", None, 3, ["ShapesPipeline"]):
        with pytest.raises(ValueError, match=r"^the pipeline .* is not known; known is that of .*Shapes") as caught:
            pipeline_of(name)
        assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "MysteryTransformer3DModel",
            "the transformer class 'MysteryTransformer3DModel' is not known; known is that of ",
        ),
        ("AutoencoderMystery", "the VAE class 'AutoencoderMystery' is not known; known is that of Shapes"),
        (None, "the transformer class None is not known"),
    ],
)
def test_a_class_that_is_not_known(name: Any, said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is looked at
        kind_of(name)
    assert said in str(caught.value)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("name", CONFIGS)
def test_encoders_are_found_in_every_spelling_that_transformers_writes(name: str, tmp_path: Path) -> None:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    from packdit.export.plan import plan
    from packdit.export.source import read_component

    make = getattr(transformers, name)
    model = make(make.config_class(**CONFIGS[name]))
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    pieces = {p.target: p for p in plan(read_component(tmp_path), torch.float32)}
    assert not any(target.startswith(("text_model.", "vision_model.")) for target in pieces)
    prefix = "" if name.startswith(("T5", "UMT5", "Llama")) else "vision_model." if "Vision" in name else "text_model."
    plain = {key.removeprefix(prefix): t for key, t in load_file(file).items()}
    older = {key if "projection" in key and "_proj" not in key else prefix + key: t for key, t in plain.items()}
    if "shared.weight" in older:
        older["encoder.embed_tokens.weight"] = older.pop("shared.weight")
    save_file({**older, f"{prefix}embeddings.position_ids": torch.arange(3)}, file)
    again = {p.target: p for p in plan(read_component(tmp_path), torch.float32)}
    assert {k: p.shape for k, p in again.items()} == {k: p.shape for k, p in pieces.items()}


def test_an_encoder_whose_config_cannot_be_used() -> None:
    with pytest.raises(ValueError, match=r"^the text encoder's config cannot be used: "):
        encoders.entries({"architectures": ["T5EncoderModel"], "d_model": "wide"})


def test_a_fused_matrix_holds_the_blocks_in_order_and_the_head_last(pipeline_dir: Path) -> None:
    config = json.loads((pipeline_dir / "transformer" / "config.json").read_text())
    made = {entry.target: entry.sources for entry in shapes.entries(config)}
    names = ("blocks.0.modulation.weight", "blocks.1.modulation.weight", "modulation.weight")
    assert made["modulation.weight"] == names
    assert made["embed.weight"] == ("embed.weight",)


def test_the_names_of_the_trained_vae() -> None:
    assert shapes_vae.trained("decoder.grow.0.weight") == "decoder.grow.0.time.weight"
    assert shapes_vae.trained("decoder.up.weight") == "decoder.up.weight"
