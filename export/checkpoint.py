"""A trained checkpoint becomes a bundle: read, fused, verified, and written atomically."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..runtime.bundle import FORMAT, Bundle, digest, file_hash
from ..runtime.load import DTYPES, empty_module, fill_module
from ..runtime.models import vae_class
from ..runtime.request import Limits, quote
from ..runtime.text import TextEncoder
from ..runtime.vae import StreamingVAE
from . import shapes
from .source import COMPONENTS, Component, read_json, read_pipeline
from .verify import verify_bundle

CLASSES = {shapes.TRANSFORMER: "shapes"}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

Progress = Callable[[str], None]
Tensors = dict[str, dict[str, Tensor]]  # component -> name -> tensor


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

    With `verify` the bundle is run against the unfused source, and the error is kept in it. ValueError, before anything
    is written, for a source that is incomplete, unknown or contradicts itself, and for a target that exists (`force`
    replaces a bundle, and nothing but a bundle).
    """
    source, target = Path(source), Path(bundle).resolve()
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {quote(dtype)}")
    check_target(target, force)
    progress("reading")
    parts = read_pipeline(source)
    for name in TOKENIZER_FILES:
        if not (source / "tokenizer" / name).is_file():
            raise ValueError(f"{quote(str(source / 'tokenizer' / name))} is missing; the prompt needs its tokenizer")
    tensors = {name: part.tensors() for name, part in parts.items()}
    scheduler = read_json(source / "scheduler" / "scheduler_config.json")
    progress("fusing")
    fused = fuse(parts, tensors, source / "tokenizer")
    description = {
        "format": FORMAT,
        "packdit": version("packdit"),
        "family": CLASSES[parts["transformer"].config["_class_name"]],
        "dtype": dtype,
        "quantization": "none",
        "components": {
            k: {
                "class": p.config.get("_class_name") or p.config["architectures"][0],
                "config": {n: v for n, v in p.config.items() if not n.startswith("_")},
                "weights": [f"{k}.safetensors"],
            }
            for k, p in parts.items()
        },
        "prompt": None,
        "schedule": None,
        "limits": asdict(Limits(**shapes.limits(parts["transformer"].config, scheduler))),
        "fused": list(shapes.FUSED),
        "source": {str(p.file.relative_to(source)): file_hash(p.file) for p in parts.values()},
    }
    return write_bundle(target, description, fused, source / "tokenizer", tensors if verify else None, progress)


def fuse(parts: dict[str, Component], tensors: Tensors, tokenizer: Path) -> Tensors:
    """The tensors as the runtime's modules name and shape them.

    ValueError for a component of another class, a config that cannot be used, components that do not fit one another,
    and for the first tensor that is missing, unused or misshapen.
    """
    transformer, vae, text = (parts[name].config for name in COMPONENTS)
    for what, got, known in (
        ("transformer class", transformer.get("_class_name"), list(CLASSES)),
        ("VAE class", vae.get("_class_name"), [shapes.VAE]),
        ("text encoder's architectures", text.get("architectures"), [["CLIPTextModel"]]),
    ):
        if got not in known:
            raise ValueError(f"the {what} {quote(got)} is not known; known is {', '.join(map(str, known))}")
    fill_module(shapes.UnfusedTransformer, transformer, tensors["transformer"], "transformer")
    vae_shapes = {k: tuple(v.shape) for k, v in empty_module(vae_class(shapes.VAE), vae, "VAE").state_dict().items()}
    fused = {
        "transformer": shapes.fuse_transformer(transformer, tensors["transformer"]),
        "vae": shapes.reshape_vae(vae_shapes, tensors["vae"]),
        "text_encoder": {k.removeprefix("text_model."): v for k, v in tensors["text_encoder"].items()},
    }
    # Made as the runtime makes them, for the checks in that alone.
    model = fill_module(vae_class(shapes.VAE), vae, fused["vae"], "VAE")
    StreamingVAE(model, vae, torch.device("cpu"), torch.float32, None)
    TextEncoder(tokenizer / "tokenizer.json", text, fused["text_encoder"])
    for what, got, want in (
        ("latent channels", transformer["in_channels"], vae["latent_channels"]),
        ("text features", transformer["text_width"], text["hidden_size"]),
    ):
        if got != want:
            raise ValueError(f"the transformer takes {got} {what}, but the other component gives {want}")
    return fused


def check_target(target: Path, force: bool) -> None:
    """ValueError unless a bundle may be written at `target`."""
    if target.exists() and not force:
        raise ValueError(f"{quote(str(target))} exists already; name another directory, or replace it with --force")
    if target.exists() and not (target / "bundle.json").is_file():
        raise ValueError(f"{quote(str(target))} exists and is no bundle, so it is not replaced; name another directory")
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise ValueError(
            f"{quote(str(target))} cannot be written: {quote(str(target.parent))} is no folder that can be"
        )


def write_bundle(
    target: Path,
    description: dict[str, Any],
    tensors: Tensors,
    tokenizer: Path,
    source: Tensors | None,
    progress: Progress,
) -> Bundle:
    """Writes beside the target, opens the result as a user would, verifies it against `source`, moves it into place."""
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
            shutil.copyfile(tokenizer / name, work / "tokenizer" / name)
        names = sorted(str(p.relative_to(work)) for p in work.rglob("*") if p.is_file())
        description["files"] = {n: {"bytes": (work / n).stat().st_size, "sha256": file_hash(work / n)} for n in names}
        description["verified"] = None
        _write_description(work, description)
        if source is not None:
            progress("verifying")
            description["verified"] = verify_bundle(Bundle.open(work), source, tensors)
            _write_description(work, description)
        work.chmod(0o755)
        _move(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Bundle.open(target)


def _move(work: Path, target: Path) -> None:
    """Puts `work` in the place of `target`; whatever fails, a bundle that was there before is there again."""
    if not target.exists():
        work.rename(target)
        return
    old = work.with_name(work.name + ".old")
    target.rename(old)
    try:
        work.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write_description(folder: Path, description: dict[str, Any]) -> None:
    description["digest"] = digest(description)
    (folder / "bundle.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
