"""A checkpoint with the names of HunyuanVideo's own repository becomes the bundle that diffusers' directory becomes."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from packdit.export import convert
from packdit.export.testing import randomize
from packdit.runtime.bundle import Bundle

SMALL = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "num_layers": 2,
    "num_single_layers": 2,
    "num_refiner_layers": 1,
    "text_embed_dim": 22,
    "pooled_projection_dim": 26,
    "rope_axes_dim": (4, 14, 14),
}
CONFIGS = {
    "text to video": {},
    "image to video": {"in_channels": 9, "image_condition_type": "latent_concat", "guidance_embeds": False},
}
QKV, ADDED = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")


def layers(config: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """The repository's layers -> those of diffusers that are in each, from the top."""
    condition, refiner = "time_text_embed", "context_embedder"
    found: dict[str, tuple[str, ...]] = {
        "img_in.proj": ("x_embedder.proj",),
        "time_in.mlp.0": (f"{condition}.timestep_embedder.linear_1",),
        "time_in.mlp.2": (f"{condition}.timestep_embedder.linear_2",),
        "vector_in.in_layer": (f"{condition}.text_embedder.linear_1",),
        "vector_in.out_layer": (f"{condition}.text_embedder.linear_2",),
        "txt_in.input_embedder": (f"{refiner}.proj_in",),
        "txt_in.t_embedder.mlp.0": (f"{refiner}.{condition}.timestep_embedder.linear_1",),
        "txt_in.t_embedder.mlp.2": (f"{refiner}.{condition}.timestep_embedder.linear_2",),
        "txt_in.c_embedder.linear_1": (f"{refiner}.{condition}.text_embedder.linear_1",),
        "txt_in.c_embedder.linear_2": (f"{refiner}.{condition}.text_embedder.linear_2",),
        "final_layer.linear": ("proj_out",),
    }
    if config.get("guidance_embeds", True):
        found["guidance_in.mlp.0"] = (f"{condition}.guidance_embedder.linear_1",)
        found["guidance_in.mlp.2"] = (f"{condition}.guidance_embedder.linear_2",)
    for i in range(SMALL["num_refiner_layers"]):
        own, theirs = f"txt_in.individual_token_refiner.blocks.{i}", f"{refiner}.token_refiner.refiner_blocks.{i}"
        found |= {f"{own}.{norm}": (f"{theirs}.{norm}",) for norm in ("norm1", "norm2")}
        found[f"{own}.self_attn_qkv"] = tuple(f"{theirs}.attn.{part}" for part in QKV)
        found[f"{own}.self_attn_proj"] = (f"{theirs}.attn.to_out.0",)
        found |= {f"{own}.mlp.fc1": (f"{theirs}.ff.net.0.proj",), f"{own}.mlp.fc2": (f"{theirs}.ff.net.2",)}
        found[f"{own}.adaLN_modulation.1"] = (f"{theirs}.norm_out.linear",)
    for i in range(SMALL["num_layers"]):
        found |= dual(f"double_blocks.{i}", f"transformer_blocks.{i}")
    for i in range(SMALL["num_single_layers"]):
        own, theirs = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        found[f"{own}.linear1"] = (*(f"{theirs}.attn.{part}" for part in QKV), f"{theirs}.proj_mlp")
        found |= {f"{own}.linear2": (f"{theirs}.proj_out",), f"{own}.modulation.linear": (f"{theirs}.norm.linear",)}
        found |= {f"{own}.{n}_norm": (f"{theirs}.attn.norm_{n}",) for n in "qk"}
    return found


def dual(own: str, theirs: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for stream, suffix, added, qkv, out in (
        ("img", "", "", QKV, "to_out.0"),
        ("txt", "_context", "added_", ADDED, "to_add_out"),
    ):
        found[f"{own}.{stream}_mod.linear"] = (f"{theirs}.norm1{suffix}.linear",)
        found[f"{own}.{stream}_attn_qkv"] = tuple(f"{theirs}.attn.{part}" for part in qkv)
        found[f"{own}.{stream}_attn_proj"] = (f"{theirs}.attn.{out}",)
        found |= {f"{own}.{stream}_attn_{n}_norm": (f"{theirs}.attn.norm_{added}{n}",) for n in "qk"}
        found[f"{own}.{stream}_mlp.fc1"] = (f"{theirs}.ff{suffix}.net.0.proj",)
        found[f"{own}.{stream}_mlp.fc2"] = (f"{theirs}.ff{suffix}.net.2",)
    return found


def original(tensors: Mapping[str, Tensor], config: Mapping[str, object]) -> dict[str, Tensor]:
    """diffusers' tensors as the repository holds them."""
    left, made = dict(tensors), {}
    for own, sources in layers(config).items():
        for part in ("weight", "bias"):
            if f"{sources[0]}.{part}" in left:  # norms of queries and keys have no bias
                made[f"{own}.{part}"] = torch.cat([left.pop(f"{source}.{part}") for source in sources])
    for part in ("weight", "bias"):
        scale, shift = left.pop(f"norm_out.linear.{part}").chunk(2)
        made[f"final_layer.adaLN_modulation.1.{part}"] = torch.cat((shift, scale))
    assert not left
    return made


@pytest.mark.parametrize("name", CONFIGS)
def test_a_single_file_becomes_the_bundle_that_the_directory_becomes(name: str, tmp_path: Path) -> None:
    config = {**SMALL, **CONFIGS[name]}
    model = randomize(HunyuanVideoTransformer3DModel(**config), seed=2)
    model.save_pretrained(tmp_path / "directory")
    tensors = {f"model.diffusion_model.{k}": t for k, t in original(model.state_dict(), config).items()}
    save_file(tensors, tmp_path / "hunyuan_video.safetensors")
    want = convert(tmp_path / "directory", tmp_path / "want", verify=False)
    made = convert(tmp_path / "hunyuan_video.safetensors", tmp_path / "made")
    assert made.description["verified"]["against"]["transformer"].startswith("diffusers")
    assert made.description["verified"]["relative_error"]["transformer"] <= 1e-4
    configs = [bundle.description["components"]["transformer"]["config"] for bundle in (made, want)]
    assert all(configs[0][key] == value for key, value in configs[1].items() if not key.startswith("_"))
    got = Bundle.open(tmp_path / "made").weights("transformer")
    weights = want.weights("transformer")
    assert got.keys() == weights.keys()
    assert all(torch.equal(got[key], weights[key]) for key in weights)
