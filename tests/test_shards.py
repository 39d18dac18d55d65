"""Files of tensors: what safetensors reads is what was planned; memory holds one tensor however large the model is."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from packdit.export import convert, shards
from packdit.export.entry import rows
from packdit.export.plan import Piece
from packdit.export.shards import file_names, split, write_shard
from packdit.export.source import read_header
from packdit.runtime import load_transformer
from packdit.runtime.bundle import Bundle


def pieces(folder: Path, tensors: dict[str, Tensor], dtype: torch.dtype) -> list[Piece]:
    """Of one tensor each, which keeps its name."""
    save_file(tensors, folder / "source.safetensors")
    stored = read_header(folder / "source.safetensors")
    return [
        Piece(target=name, shape=tuple(t.shape), dtype=dtype, make=rows, sources=(stored[name],))
        for name, t in tensors.items()
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_file_is_what_safetensors_reads(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"matrix": torch.randn(5, 3), "scalar": torch.tensor(2.5), "none": torch.ones(0, 4), "é": torch.ones(7)}
    facts = write_shard(tmp_path / "made.safetensors", pieces(tmp_path, tensors, dtype))
    data = (tmp_path / "made.safetensors").read_bytes()
    assert facts == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    read = load_file(tmp_path / "made.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], t.to(dtype)) for name, t in tensors.items())
    assert (8 + int.from_bytes(data[:8], "little")) % 64 == 0


def test_files_are_filled_in_order(tmp_path: Path) -> None:
    some = pieces(tmp_path, {str(i): torch.ones(n) for i, n in enumerate((1, 2, 1, 9, 1))}, torch.float32)
    assert [[p.target for p in file] for file in split(some, 12)] == [["0", "1"], ["2"], ["3"], ["4"]]
    assert [len(file) for file in split(some, 1000)] == [5]
    assert file_names("vae", 1) == ["vae.safetensors"]
    assert file_names("vae", 2) == ["vae-00001-of-00002.safetensors", "vae-00002-of-00002.safetensors"]


def test_a_bundle_in_shards_is_the_same_model(
    pipeline_dir: Path, bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 60_000)
    seen: list[str] = []
    bundle = convert(pipeline_dir, tmp_path / "made", progress=seen.append)
    files = bundle.description["components"]["transformer"]["weights"]
    assert len(files) > 3
    assert seen[2] == "writing transformer-00001-of-0000" + f"{len(files)}.safetensors"
    assert max(bundle.description["files"][name]["bytes"] for name in files) < 2 * 60_000
    got, want = Bundle.open(tmp_path / "made").weights("transformer"), Bundle.open(bundle_dir).weights("transformer")
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert load_transformer(bundle).model.in_channels == 4


CONVERT = """
import resource, sys
from packdit.export import convert, verify
verify.free_bytes = lambda: 0  # too large to run: its tensors are checked
small, large, made = sys.argv[1:]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
convert(small, made + "-small", "bf16")
before = peak()
convert(large, made, "bf16")
print(peak() - before)
"""


def sparse(folder: Path, config: dict[str, Any], count: int) -> int:
    """A checkpoint of zeros that take no room on the disk, in `count` shards. Returns the bytes of its tensors."""
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        model = diffusers.WanTransformer3DModel(**config)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanTransformer3DModel", **model.config}))
    names, places, total = list(model.state_dict()), {}, 0
    for i in range(count):
        header: dict[str, Any] = {}
        size = 0
        for name in names[i::count]:
            shape = list(model.state_dict()[name].shape)
            end = size + 2 * model.state_dict()[name].numel()
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [size, end]}
            places[name] = f"{i}.safetensors"
            size = end
        text = json.dumps(header).encode()
        with (folder / f"{i}.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + size)
        total += size
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return total


def test_memory_holds_a_tensor_and_not_the_model(tmp_path: Path) -> None:
    """What is made of all blocks' keys and values is a fifth of the model, and no tensor that is read a thirtieth."""
    config = {"num_attention_heads": 8, "ffn_dim": 3072, "num_layers": 10}
    sparse(tmp_path / "small", {"num_attention_heads": 1, "ffn_dim": 64, "num_layers": 1}, 1)
    total = sparse(tmp_path / "large", config, 3)
    arguments = [str(tmp_path / name) for name in ("small", "large", "made")]
    result = subprocess.run([sys.executable, "-c", CONVERT, *arguments], capture_output=True, text=True, check=True)
    growth = int(result.stdout)
    assert total > 280e6
    assert growth < 0.25 * total, f"{growth / 1e6:.0f} MB for a model of {total / 1e6:.0f} MB"
