"""A trained checkpoint becomes a bundle: read, fused, verified, and written atomically."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..runtime.bundle import FORMAT, Bundle, digest, file_hash
from ..runtime.load import DTYPES
from ..runtime.models import vae_class
from ..runtime.request import quote
from . import shapes
from .source import Component, read_json, read_pipeline
from .verify import verify_bundle

CLASSES = {shapes.TRANSFORMER: "shapes"}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

Progress = Callable[[str], None]


def convert(
    source: str | Path,
    bundle: str | Path,
    dtype: str = "fp32",
    *,
    verify: bool = True,
    force: bool = False,
    progress: Progress = lambda what: None,
) -> Bundle:
    """Makes a bundle of a trained pipeline in diffusers' layout, weights stored in `dtype` (fp32, bf16 or fp16).

    With `verify` the bundle is run against the unfused float32 source, and the error is kept in it. ValueError, before
    anything is written, for a source that is incomplete, unknown or contradicts itself, and for a target that exists
    (`force` replaces a bundle, and nothing but a bundle).
    """
    source, target = Path(source), Path(bundle)
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {quote(dtype)}")
    check_target(target, force)
    progress("reading")
    parts = read_pipeline(source)
    name = parts["transformer"].config.get("_class_name")
    if name not in CLASSES:
        raise ValueError(f"the transformer class {quote(name)} is not known; known are: {', '.join(CLASSES)}")
    scheduler = read_json(source / "scheduler" / "scheduler_config.json")
    progress("fusing")
    tensors = {
        "transformer": shapes.fuse_transformer(parts["transformer"].config, parts["transformer"].tensors()),
        "vae": _vae_tensors(parts["vae"]),
        "text_encoder": {k.removeprefix("text_model."): v for k, v in parts["text_encoder"].tensors().items()},
    }
    description = {
        "format": FORMAT,
        "packdit": version("packdit"),
        "family": CLASSES[name],
        "dtype": dtype,
        "quantization": "none",
        "components": {k: {"config": p.config, "weights": f"{k}.safetensors"} for k, p in parts.items()},
        "limits": shapes.limits(parts["transformer"].config, scheduler),
        "fused": list(shapes.FUSED),
        "source": {str(p.file.relative_to(source)): file_hash(p.file) for p in parts.values()},
    }
    return write_bundle(target, description, tensors, source / "tokenizer", verify, progress)


def _vae_tensors(part: Component) -> dict[str, Tensor]:
    if part.config.get("_class_name") != shapes.VAE:
        raise ValueError(f"the VAE class {quote(part.config.get('_class_name'))} is not known; known is {shapes.VAE}")
    with torch.device("meta"):
        module = vae_class("shapes")({**part.config, "latents_mean": [0.0], "latents_std": [1.0]})
    return shapes.reshape_vae({k: tuple(v.shape) for k, v in module.state_dict().items()}, part.tensors())


def check_target(target: Path, force: bool) -> None:
    """ValueError unless a bundle may be written at `target`."""
    if target.exists() and not force:
        raise ValueError(f"{quote(str(target))} exists already; name another directory, or replace it with --force")
    if target.exists() and not (target / "bundle.json").is_file():
        raise ValueError(f"{quote(str(target))} exists and is no bundle, so it is not replaced; name another directory")
    parent = target.absolute().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(f"{quote(str(target))} cannot be written: {quote(str(parent))} is no folder that can be")


def write_bundle(
    target: Path,
    description: dict[str, Any],
    tensors: dict[str, dict[str, Tensor]],
    tokenizer: Path,
    verify: bool,
    progress: Progress,
) -> Bundle:
    """Writes beside the target, opens the result as a user would, verifies it, and moves it into place."""
    target = target.absolute()
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        progress("writing")
        kind = DTYPES[description["dtype"]]
        for component, weights in tensors.items():
            file = work / f"{component}.safetensors"
            save_file({k: v.to(kind).contiguous() for k, v in weights.items()}, file)
            file.chmod(0o644)  # safetensors makes it private
        (work / "tokenizer").mkdir()
        for name in TOKENIZER_FILES:
            if not (tokenizer / name).is_file():
                raise ValueError(f"{quote(str(tokenizer / name))} is missing; the prompt needs its tokenizer")
            shutil.copyfile(tokenizer / name, work / "tokenizer" / name)
        names = sorted(str(p.relative_to(work)) for p in work.rglob("*") if p.is_file())
        description["files"] = {n: {"bytes": (work / n).stat().st_size, "sha256": file_hash(work / n)} for n in names}
        description["verified"] = None
        _write_description(work, description)
        if verify:
            progress("verifying")
            description["verified"] = verify_bundle(Bundle.open(work), tensors)
            _write_description(work, description)
        work.chmod(0o755)
        if target.exists():
            old = work.with_name(work.name + ".old")
            target.rename(old)
            work.rename(target)
            shutil.rmtree(old)
        else:
            work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Bundle.open(target)


def _write_description(folder: Path, description: dict[str, Any]) -> None:
    description["digest"] = digest(description)
    (folder / "bundle.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
