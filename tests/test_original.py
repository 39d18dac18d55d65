"""Checkpoints of the models' own repositories, held to diffusers' converters, which know the same names."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import save_file
from torch import Tensor

from packdit.export import convert
from packdit.export.families import hunyuan_video_original, wan_original
from packdit.export.original import count, translate
from packdit.export.source import Component, open_source, read_file, read_header
from packdit.export.testing import randomize
from packdit.runtime.bundle import Bundle

WAN = {"num_attention_heads": 1, "in_channels": 5, "out_channels": 4, "text_dim": 22, "freq_dim": 24, "ffn_dim": 70}
IMAGE = {"image_dim": 26, "added_kv_proj_dim": 128, "pos_embed_seq_len": 6}
HUNYUAN = {"num_layers": 2, "num_single_layers": 3, "num_refiner_layers": 1, "in_channels": 33}

WAN_NAMES = {  # diffusers -> the repository, in this order
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.pos_embed": "img_emb.emb_pos",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    ".attn1.": ".self_attn.",
    ".attn2.": ".cross_attn.",
    ".to_out.0.": ".o.",
    ".norm2.": ".norm3.",
    ".norm_added_k.": ".norm_k_img.",
    ".add_k_proj.": ".k_img.",
    ".add_v_proj.": ".v_img.",
    ".to_q.": ".q.",
    ".to_k.": ".k.",
    ".to_v.": ".v.",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "proj_out": "head.head",
    "scale_shift_table": "modulation",
}


def wan_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' tensors as Wan's repository calls them."""
    renamed = {}
    for key, tensor in tensors.items():
        for theirs, own in WAN_NAMES.items():
            key = key.replace(theirs, own)
        renamed["head.modulation" if key == "modulation" else key] = tensor
    return renamed


def hunyuan_names(width: int, rows: Callable[[int], Tensor]) -> dict[str, Tensor]:
    """HunyuanVideo's repository's names, of tensors that `rows(height)` makes."""
    linear = {
        "img_in.proj": 1,
        "vector_in.in_layer": 1,
        "vector_in.out_layer": 1,
        "txt_in.input_embedder": 1,
        **{f"{part}.mlp.{i}": 1 for part in ("time_in", "guidance_in", "txt_in.t_embedder") for i in (0, 2)},
        **{f"txt_in.c_embedder.linear_{i}": 1 for i in (1, 2)},
        "final_layer.linear": 64 / width,
        "final_layer.adaLN_modulation.1": 2,
    }
    norms = []
    for i in range(HUNYUAN["num_refiner_layers"]):
        block = f"txt_in.individual_token_refiner.blocks.{i}"
        linear |= {f"{block}.norm1": 1, f"{block}.norm2": 1, f"{block}.self_attn_qkv": 3, f"{block}.self_attn_proj": 1}
        linear |= {f"{block}.mlp.fc1": 4, f"{block}.mlp.fc2": 1, f"{block}.adaLN_modulation.1": 2}
    for i in range(HUNYUAN["num_layers"]):
        for part in (f"double_blocks.{i}.img", f"double_blocks.{i}.txt"):
            linear |= {f"{part}_mod.linear": 6, f"{part}_attn_qkv": 3, f"{part}_attn_proj": 1}
            linear |= {f"{part}_mlp.fc1": 4, f"{part}_mlp.fc2": 1}
            norms += [f"{part}_attn_q_norm", f"{part}_attn_k_norm"]
    for i in range(HUNYUAN["num_single_layers"]):
        block = f"single_blocks.{i}"
        linear |= {f"{block}.linear1": 7, f"{block}.linear2": 1, f"{block}.modulation.linear": 3}
        norms += [f"{block}.q_norm", f"{block}.k_norm"]
    tensors = {f"{k}.{part}": rows(round(n * width)) for k, n in linear.items() for part in ("weight", "bias")}
    return tensors | {f"{name}.weight": rows(128) for name in norms}


@pytest.fixture(scope="module")
def wan() -> Any:
    return randomize(diffusers.WanTransformer3DModel(num_layers=2, **WAN, **IMAGE), seed=0)


def save(tensors: Mapping[str, Tensor], file: Path, prefix: str = "") -> Path:
    save_file({prefix + key: tensor.contiguous() for key, tensor in tensors.items()}, file)
    return file


def assert_equal(got: Component, want: Mapping[str, Tensor]) -> None:
    assert got.tensors.keys() == want.keys()
    for key, tensor in want.items():
        assert torch.equal(got.tensors[key].read(), tensor), key
        assert got.tensors[key].shape == tuple(tensor.shape)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_wan(wan: Any, tmp_path: Path, prefix: str) -> None:
    tensors = wan_names(wan.state_dict())
    theirs = {k: t for k, t in tensors.items() if k != "img_emb.emb_pos"}  # which diffusers' converter does not know
    converted = single_file_utils.convert_wan_transformer_to_diffusers(dict(theirs))
    positions = {"condition_embedder.image_embedder.pos_embed": tensors["img_emb.emb_pos"]}
    got = read_file(save(tensors, tmp_path / "wan2.1_i2v.safetensors", prefix))
    assert_equal(got, converted | positions)
    config = {key: list(v) if isinstance(v, tuple) else v for key, v in wan.config.items() if not key.startswith("_")}
    assert got.settings == config


@pytest.mark.parametrize(
    "config",
    [
        {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
        {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
        {"in_channels": 48, "out_channels": 48, "num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30},
    ],
    ids=["1.3B", "14B I2V", "2.2 5B"],
)
def test_the_configs_of_published_sizes(config: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = diffusers.WanTransformer3DModel(**config)
    shapes = {key: tuple(tensor.shape) for key, tensor in wan_names(model.state_dict()).items()}
    want = {key: value for key, value in model.config.items() if not key.startswith("_")}
    assert wan_original.config(shapes, {}) == want | {"patch_size": [1, 2, 2]}


def test_a_single_file_becomes_the_bundle_that_the_directory_becomes(wan: Any, tmp_path: Path) -> None:
    wan.save_pretrained(tmp_path / "directory")
    file = save(wan_names(wan.state_dict()), tmp_path / "wan2.1_i2v_fp16.safetensors", "model.diffusion_model.")
    want = convert(tmp_path / "directory", tmp_path / "want", verify=False).weights("transformer")
    made = convert(file, tmp_path / "made")
    assert made.description["source"].keys() == {"wan2.1_i2v_fp16.safetensors"}
    assert made.description["verified"]["against"]["transformer"].startswith("diffusers")
    got = Bundle.open(tmp_path / "made").weights("transformer")
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_a_repository_of_their_own(wan: Any, tmp_path: Path) -> None:
    """Whose config.json names a class of theirs, and how many heads there are."""
    config = {"_class_name": "WanModel", "num_heads": 2, "eps": 1e-5, "dim": 128}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save(wan_names(wan.state_dict()), tmp_path / "diffusion_pytorch_model.safetensors")
    got = open_source(tmp_path).components["transformer"]
    assert got.class_name == "WanTransformer3DModel"
    assert [got.settings[key] for key in ("num_attention_heads", "attention_head_dim", "eps")] == [2, 64, 1e-5]


def test_hunyuan_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With matrices of one column, because diffusers' converter knows the full width only; rows tell their numbers."""
    width = 3072
    tensors = hunyuan_names(width, lambda height: torch.arange(height).float()[:, None])
    heads = {"num_attention_heads": 24, "attention_head_dim": 128}
    monkeypatch.setattr(hunyuan_video_original, "config", lambda shapes, told: heads)
    want = single_file_utils.convert_hunyuan_video_transformer_to_diffusers(dict(tensors))
    found = translate(read_header(save(tensors, tmp_path / "hunyuan.safetensors")), {})
    assert found
    assert (found[0], found[1]) == ("HunyuanVideoTransformer3DModel", heads)
    assert_equal(Component(name="transformer", class_name=found[0], config=heads, tensors=found[2]), want)
    with torch.device("meta"):
        model = diffusers.HunyuanVideoTransformer3DModel(**HUNYUAN)
    assert found[2].keys() == model.state_dict().keys()


def test_hunyuan_video_s_config() -> None:
    changes = {**HUNYUAN, "image_condition_type": "latent_concat"}
    with torch.device("meta"):
        model = diffusers.HunyuanVideoTransformer3DModel(**changes)
    shapes = {key: (t.shape[0],) for key, t in hunyuan_names(3072, torch.empty).items()}
    shapes |= {
        "img_in.proj.weight": tuple(model.x_embedder.proj.weight.shape),
        "txt_in.input_embedder.weight": tuple(model.context_embedder.proj_in.weight.shape),
        "vector_in.in_layer.weight": tuple(model.time_text_embed.text_embedder.linear_1.weight.shape),
    }
    want = {key: value for key, value in model.config.items() if not key.startswith("_")}
    assert hunyuan_video_original.config(shapes, {}) == want | {"rope_axes_dim": [16, 56, 56]}


def test_what_no_model_is_known_by(tmp_path: Path) -> None:
    file = save({"some.weight": torch.zeros(1)}, tmp_path / "some.safetensors")
    with pytest.raises(ValueError, match=r"single file, and its tensors have the names of none .*: WanTransformer3DM"):
        open_source(file)


def test_what_is_more_than_the_model(wan: Any, tmp_path: Path) -> None:
    tensors = {**wan_names(wan.state_dict()), "vace_blocks.0.after_proj.bias": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"^the transformer has a tensor that nothing uses: 'vace_blocks.0.after_proj"):
        convert(save(tensors, tmp_path / "vace.safetensors"), tmp_path / "made")


def test_shapes_that_make_no_config(wan: Any, tmp_path: Path) -> None:
    tensors = {**wan_names(wan.state_dict()), "patch_embedding.weight": torch.zeros(3)}
    with pytest.raises(
        ValueError, match=r"has names of WanTransformer3DModel, but its tensors make no config: \w+"
    ) as e:
        convert(save(tensors, tmp_path / "wan.safetensors"), tmp_path / "made")
    assert len(str(e.value)) <= 300


def test_a_quantized_single_file(wan: Any, tmp_path: Path) -> None:
    tensors = {**wan_names(wan.state_dict())}
    tensors["blocks.0.ffn.0.weight"] = tensors["blocks.0.ffn.0.weight"].to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"'blocks.0.ffn.0.weight' is stored as F8_E4M3: quantized"):
        convert(save(tensors, tmp_path / "wan2.1_t2v_fp8_scaled.safetensors"), tmp_path / "made")


def test_blocks_are_counted_by_their_numbers() -> None:
    assert count({"blocks.0.a": (), "blocks.11.a": (), "blocksome.99.a": ()}, "blocks") == 12
