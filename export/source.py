"""Reads a checkpoint, a tensor at a time: a pipeline's directory in diffusers' layout, that of one component, or a
component's single file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..runtime.request import quote
from . import original
from .families import is_known, kind_of, module_of

COMPONENTS = {  # name in a pipeline -> kind
    **dict.fromkeys(("transformer", "transformer_2"), "transformer"),
    "vae": "vae",
    **dict.fromkeys(("text_encoder", "text_encoder_2", "text_encoder_3"), "text_encoder"),
    "image_encoder": "image_encoder",
}
UNUSED = ("safety_checker",)
SETTINGS = ("config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json")
WEIGHTS = ("diffusion_pytorch_model.safetensors", "model.safetensors")
UNREADABLE = {
    **dict.fromkeys(
        (".bin", ".ckpt", ".pt", ".pth", ".pkl"),
        "a pickle, which can run code when it is read; save the weights as safetensors and try again",
    ),
    ".gguf": "quantized; use the safetensors checkpoint that it was made from",
}

Config = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A tensor in a file, not read yet."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors calls it
    rows: tuple[tuple[int, int], ...] = ()  # what it takes of the file's tensor, from and to; none: all of it

    def read(self) -> Tensor:
        """The tensor, memory-mapped. The file is opened for it alone, so that memory holds no other."""
        try:
            with safe_open(self.file, framework="pt") as file:
                parts = [file.get_slice(self.key)[start:end] for start, end in self.rows]
                tensor: Tensor = torch.cat(parts) if parts else file.get_tensor(self.key)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{quote(str(self.file))} cannot be read any more: {quote(error)}") from error
        return tensor

    def take(self, *rows: tuple[int, int]) -> Stored:
        """Rows of it, from and to, one below the other."""
        height = sum(end - start for start, end in rows)
        return replace(self, shape=(height, *self.shape[1:]), rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One component of a checkpoint: its class, its config, and where its tensors are."""

    name: str
    class_name: str
    config: Config
    tensors: dict[str, Stored]

    @property
    def kind(self) -> str:
        return COMPONENTS[self.name]

    @property
    def settings(self) -> Config:
        """The config without what diffusers and transformers note for themselves."""
        return {name: value for name, value in self.config.items() if not name.startswith("_")}

    @property
    def title(self) -> str:
        """What messages call it."""
        return "VAE" if self.name == "vae" else self.name.replace("_", " ")

    @property
    def module(self) -> Any:
        """The module of `export.families` that describes it."""
        return module_of(self.kind, self.class_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A checkpoint. `configs` has what each folder of a pipeline says of itself, by the folder's name."""

    folder: Path
    index: Config | None  # model_index.json, where it is a pipeline
    components: dict[str, Component]
    configs: dict[str, Config]

    @property
    def files(self) -> list[Path]:
        """All files with weights."""
        return sorted({tensor.file for part in self.components.values() for tensor in part.tensors.values()})


def open_source(path: Path) -> Source:
    """The checkpoint at `path`, of which nothing but headers is read.

    ValueError, in one sentence, for what cannot be: a class that is not known, a part that is missing, truncated or
    outside of it, a pickle, quantized weights.
    """
    try:
        is_pipeline, is_component = ((path / name).exists() for name in ("model_index.json", "config.json"))
    except OSError as error:
        raise ValueError(f"{quote(str(path))} cannot be read: {error.strerror}") from error
    if is_pipeline:
        return _read_pipeline(path)
    if is_component or path.suffix == ".safetensors":
        component = read_component(path) if is_component else read_file(path)
        folder = path if is_component else path.parent
        return Source(folder=folder, index=None, components={component.name: component}, configs={})
    _refuse([path, *sorted(path.iterdir())] if path.is_dir() else [path])
    raise ValueError(f"model_index.json is missing in {quote(str(path))}; give a directory in diffusers' layout")


def _read_pipeline(folder: Path) -> Source:
    index = read_json(folder / "model_index.json")
    names = [name for name, value in index.items() if isinstance(value, list) and all(value) and name not in UNUSED]
    parts = {name: read_component(folder / name, name) for name in COMPONENTS if name in names}
    for name in ("transformer", "vae"):
        if name not in parts:
            raise ValueError(f"{quote(str(folder / 'model_index.json'))} names no {name}")
    for name in names:
        if name not in parts and (folder / name / "config.json").exists():
            raise ValueError(f"the pipeline has a component {quote(name)}; known are {', '.join(COMPONENTS)}")
    paths = {name: [p for file in SETTINGS if (p := folder / name / file).exists()] for name in names}
    configs = {name: read_json(found[0]) for name, found in paths.items() if found}
    return Source(folder=folder, index=index, components=parts, configs=configs)


def read_component(folder: Path, name: str | None = None) -> Component:
    """The component in `folder`, called by its kind where it has no name. ValueError as `open_source`."""
    config = read_json(folder / "config.json")
    if config.get("quantization_config"):
        raise ValueError(f"the weights in {quote(str(folder))} are quantized; use those that they were made from")
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    told: Any = config.get("_class_name", first)
    if name is None and not is_known(told) and (found := _translated(_find_tensors(folder), config)):
        return found
    if name is None:
        name = kind_of(told)
    module_of(COMPONENTS[name], told)
    return Component(name=name, class_name=told, config=config, tensors=_find_tensors(folder))


def read_file(file: Path) -> Component:
    """The component in a single file, with the names that its own repository gave it. ValueError for other names."""
    if found := _translated(read_header(file), {}):
        return found
    known = ", ".join(module.CLASS for module in original.modules())
    raise ValueError(
        f"{quote(str(file))} is a single file, and its tensors have the names of none that are known: {known}; "
        "give a directory in diffusers' layout"
    )


def _translated(tensors: dict[str, Stored], told: Config) -> Component | None:
    if (found := original.translate(tensors, told)) is None:
        return None
    class_name, config, renamed = found
    return Component(
        name=kind_of(class_name), class_name=class_name, config={"_class_name": class_name, **config}, tensors=renamed
    )


def read_json(path: Path) -> Config:
    """A JSON object. ValueError, in one sentence, where it is missing or is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{quote(str(path))} is missing; give a directory in diffusers' layout") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{quote(str(path))} cannot be read as JSON") from error
    if not isinstance(value, dict):
        raise ValueError(f"{quote(str(path))} must hold a JSON object")
    return value


def _find_tensors(folder: Path) -> dict[str, Stored]:
    """Those that an index of shards names, else those of one file; of the usual name, else the only one: a variant."""
    for name in WEIGHTS:
        if (folder / f"{name}.index.json").is_file():
            return _read_index(folder / f"{name}.index.json")
    for name in WEIGHTS:
        if (folder / name).is_file():
            return read_header(folder / name)
    for pattern, read in (("*.safetensors.index*.json", _read_index), ("*.safetensors", read_header)):
        paths = sorted(folder.glob(pattern))
        if len(paths) > 1:
            raise ValueError(f"{quote(str(folder))} holds {len(paths)} {pattern} and no index that says which to take")
        if paths:
            return read(paths[0])
    _refuse(sorted(folder.iterdir()))
    raise ValueError(f"no weights in {quote(str(folder))}; expected {' or '.join(WEIGHTS)}")


def _refuse(paths: list[Path]) -> None:
    """ValueError with the reason where one of the files is of a kind that is never read."""
    for path in paths:
        if path.suffix in UNREADABLE and path.is_file():
            raise ValueError(f"{quote(str(path))} is {UNREADABLE[path.suffix]}")


def _read_index(index: Path) -> dict[str, Stored]:
    """The tensors of all shards. ValueError where the index names what is not there, or is outside."""
    where, places = quote(str(index)), read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or set(map(type, places.values())) != {str}:
        raise ValueError(f"{where} has no weight_map from tensors to files")
    tensors: dict[str, Stored] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ValueError(f"{where} names {quote(name)}, which is no safetensors file beside it")
        if not (index.parent / name).is_file():
            raise ValueError(f"{where} names the shard {quote(name)}, which is missing; fetch it and try again")
        tensors |= read_header(index.parent / name)
    for key, name in places.items():
        if key not in tensors or tensors[key].file.name != name:
            raise ValueError(f"{where} says that {quote(name)} holds {quote(key)}, but it does not")
    return tensors


def read_header(file: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file. ValueError where it is truncated or is none."""
    try:
        with safe_open(file, framework="pt") as opened:
            parts = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118  # it is no mapping
            return {
                key: Stored(file=file, key=key, shape=tuple(part.get_shape()), dtype=part.get_dtype())
                for key, part in parts.items()
            }
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{quote(str(file))} is truncated or no safetensors file: {quote(error)}") from error
