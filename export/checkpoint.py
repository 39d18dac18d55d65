"""A trained checkpoint becomes a bundle: read, fused, written, verified, and moved into place."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..runtime.bundle import FORMAT, Bundle, digest, file_hash
from ..runtime.load import DTYPES, empty_module
from ..runtime.models import vae_class
from ..runtime.prompts import Classes, understand
from ..runtime.request import Limits, quote
from ..runtime.schedule import Schedule
from ..runtime.vae import StreamingVAE
from . import shards
from .families import family_of, pipeline_of
from .plan import Piece, plan
from .quantize import METHODS, quantized
from .quantize import describe as describe_quantization
from .source import Source, open_source
from .tokenizer import write_tokenizers
from .verify import verify_bundle

Progress = Callable[[str], None]
Plans = dict[str, list[Piece]]  # by component


def convert(
    source: str | Path,
    bundle: str | Path,
    dtype: str = "fp32",
    *,
    quantize: str = "none",
    verify: bool = True,
    force: bool = False,
    progress: Progress = lambda what: None,
) -> Bundle:
    """Makes a bundle of a trained pipeline in diffusers' layout, or of one component's directory.

    Weights are stored in `dtype`: fp32, bf16 or fp16; with `quantize` "int8" a transformer's large layers in int8, for
    which the error that it makes is kept in the bundle. Memory holds one tensor at a time.

    With `verify` the bundle is run against its source, and the error is kept in it. ValueError, and nothing is left
    behind, for a source that is incomplete, unknown or contradicts itself, and for a target that exists (`force`
    replaces a bundle, and nothing but a bundle).
    """
    target = Path(bundle).resolve()
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {quote(dtype)}")
    if quantize not in METHODS:
        raise ValueError(f"quantize must be one of {', '.join(METHODS)}, got {quote(quantize)}")
    check_target(target, force)
    progress("reading")
    opened = open_source(Path(source))
    exact = {name: plan(part, DTYPES[dtype]) for name, part in opened.components.items()}
    plans = exact if quantize == "none" else quantized(opened.components, exact)
    description = describe(opened, plans, dtype)
    description["quantization"] = describe_quantization(quantize, plans)
    check_space(target, plans)
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        hashes = list(pool.map(file_hash, opened.files))
    names = [file.relative_to(opened.folder).as_posix() for file in opened.files]
    description["source"] = dict(zip(names, hashes, strict=True))
    return write_bundle(target, description, opened, plans, exact if verify else None, progress)


def describe(source: Source, plans: Plans, dtype: str) -> dict[str, Any]:
    """What bundle.json says, all but the hashes and the verification.

    ValueError for a pipeline that is unknown, whose configs cannot be used, or whose limits contradict themselves.
    """
    parts = source.components
    if "vae" in parts:  # made as the runtime makes it, for its checks of the config
        model = empty_module(vae_class(parts["vae"].class_name), parts["vae"].settings, "VAE")
        StreamingVAE(model, parts["vae"].settings, torch.device("cpu"), torch.float32, None)
    pipeline: dict[str, Any] = {"prompt": None, "schedule": None, "limits": None}
    if source.index is None:
        (part,) = parts.values()
        family = family_of(part.kind, part.class_name)
    else:
        family, explain = pipeline_of(source.index.get("_class_name"))
        try:
            pipeline = explain(source.index, source.configs)
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"the pipeline's configs cannot be used: {quote(error)}") from error
        pipeline["limits"] = asdict(Limits(**pipeline["limits"]))
        check_pipeline(pipeline, parts)
    return {
        "format": FORMAT,
        "packdit": version("packdit"),
        "family": family,
        "dtype": dtype,
        "components": {
            name: {
                "class": part.class_name,
                "config": part.settings,
                "weights": shards.file_names(name, len(shards.split(plans[name], shards.SHARD_BYTES))),
            }
            for name, part in parts.items()
        },
        **pipeline,
        "fused": list(dict.fromkeys(fact for part in parts.values() for fact in part.module.FUSED)),
    }


def check_pipeline(pipeline: dict[str, Any], parts: Collection[str]) -> None:
    """ValueError where the schedule cannot be reproduced, or a prompt would be read by an encoder that is not there."""
    if pipeline["schedule"]:
        Schedule(data=pipeline["schedule"])
    prompt = understand(pipeline["prompt"])
    for name in [] if isinstance(prompt, Classes) else prompt.components:
        if name not in parts:
            raise ValueError(f"the pipeline has no {name}, which reads its prompts; export one that is complete")


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


def check_space(target: Path, plans: Plans) -> None:
    """ValueError unless the disk has room for the weights."""
    needed = sum(piece.num_bytes for pieces in plans.values() for piece in pieces)
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise ValueError(
            f"the bundle takes {needed / 1e9:.1f} GB, but {quote(str(target.parent))} has only {free / 1e9:.1f} GB free"
        )


def write_bundle(
    target: Path, description: dict[str, Any], source: Source, plans: Plans, exact: Plans | None, progress: Progress
) -> Bundle:
    """Writes beside the target, opens the result as a user would, verifies it against `source`, moves it into place.

    exact: the plans without quantization, for the verification; None: none is wanted.
    """
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        progress("writing")
        files = write_weights(work, description, plans, progress)
        for path in write_tokenizers(source, work):
            files[path.relative_to(work).as_posix()] = {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        description["files"] = dict(sorted(files.items()))
        description["verified"] = None
        _write_description(work, description)
        bundle = Bundle.open(work)
        if exact is not None:
            progress("verifying")
            description["verified"] = verified = verify_bundle(bundle, source, plans, exact)
            if description["quantization"] != "none":
                layers = description["quantization"]["layers"]
                description["quantization"]["relative_error"] = {k: verified["rounding"][k] for k in layers}
            _write_description(work, description)
        work.chmod(0o755)
        _move(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return Bundle(folder=target, description=description)


def write_weights(folder: Path, description: dict[str, Any], plans: Plans, progress: Progress) -> dict[str, Any]:
    """Writes all components' files. Returns what bundle.json says of them."""
    files: dict[str, Any] = {}
    for component, pieces in plans.items():
        names = description["components"][component]["weights"]
        for name, part in zip(names, shards.split(pieces, shards.SHARD_BYTES), strict=True):
            if len(names) > 1:
                progress(f"writing {name}")
            files[name] = shards.write_shard(folder / name, part)
    return files


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
