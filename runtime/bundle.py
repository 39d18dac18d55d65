"""A bundle on disk: `bundle.json` and the files it names. Read-only, and never executable.

`bundle.json` holds: format, family, dtype, quantization, components (name -> class, config, weights files), files
(name -> bytes, sha256), source (what it was made from), fused, verified, and the digest of all of that. A whole
pipeline's also holds, as data, prompt (how text becomes states), schedule (of its noise) and limits; a single
component's has null there.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .request import Limits, quote

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
SHIPPED = Path(__file__).parent / "bundles"


def digest(description: dict[str, Any]) -> str:
    """sha256 of a bundle's description without its own digest."""
    text = json.dumps({k: v for k, v in description.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shipped() -> list[str]:
    """Names of the bundles that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/bundle.json"))


def find(model: str | Path) -> Path:
    """The directory of a name that ships, or of a path. ValueError where there is no bundle."""
    if str(model) in shipped():
        return SHIPPED / str(model)
    folder = Path(model)
    if not os.path.isfile(folder / "bundle.json"):  # Path.is_file raises for names that cannot be
        names = ", ".join(shipped()) or "none"
        raise ValueError(f"no bundle at {quote(str(model))}: give a directory with a bundle.json, or one of: {names}")
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An opened and checked bundle."""

    folder: Path
    description: dict[str, Any]

    @classmethod
    def open(cls, model: str | Path) -> Bundle:
        """Opens the bundle called `model`, or in that directory, and checks every file against its hash.

        ValueError, in one sentence, where it is missing, truncated, altered, newer, or names a file outside.
        """
        folder = find(model)
        where = quote(str(folder))
        try:
            description = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"the bundle.json of {where} cannot be read; export the bundle again") from error
        if not isinstance(description, dict) or not _is_format(description.get("format")):
            raise ValueError(f"the bundle.json of {where} is not a bundle's description; export the bundle again")
        if description["format"] > FORMAT:
            raise ValueError(
                f"the bundle {where} has format {quote(description['format'])}, this packdit reads {FORMAT}: update it"
            )
        if description["format"] < FORMAT:
            raise ValueError(
                f"the bundle {where} has format {description['format']}, this packdit reads {FORMAT}: "
                "export it again from its source"
            )
        if description.get("digest") != digest(description):
            raise ValueError(f"the bundle.json of {where} was altered after it was written; export the bundle again")
        _check_description(where, description)
        _check_files(folder, description["files"])
        return cls(folder=folder, description=description)

    @property
    def family(self) -> str:
        return str(self.description["family"])

    @property
    def limits(self) -> Limits:
        """The sizes that it can do. ValueError where it is no whole pipeline."""
        if self.description["limits"] is None:
            raise ValueError(
                f"the bundle {quote(str(self.folder))} holds no pipeline, only its {', '.join(self.components)}; "
                "to generate, export the whole pipeline's directory"
            )
        return Limits(**self.description["limits"])

    @property
    def components(self) -> list[str]:
        """The names of those it holds, "transformer", "vae", ..."""
        return list(self.description["components"])

    def class_name(self, component: str) -> str:
        """The class of a component, as its checkpoint names it."""
        return str(self._component(component)["class"])

    def config(self, component: str) -> dict[str, Any]:
        """The config of a component, as its checkpoint has it."""
        return dict(self._component(component)["config"])

    def weights(self, component: str) -> dict[str, Tensor]:
        """The component's tensors, memory-mapped, in the dtype they are stored in."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        weights: dict[str, Tensor] = {}
        for path in map(self.path, self._component(component)["weights"]):
            try:
                shard = load_file(path)
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{quote(str(path))} is no safetensors file; export the bundle again") from error
            for name in shard.keys() & weights.keys():
                raise ValueError(f"{quote(str(path))} holds {quote(name)} a second time; export the bundle again")
            weights |= shard
        return weights

    def path(self, name: str) -> Path:
        """The path of one of the bundle's files."""
        if name not in self.description["files"]:
            raise ValueError(f"the bundle {quote(str(self.folder))} does not list its file {quote(name)}")
        return self.folder / name

    def _component(self, component: str) -> dict[str, Any]:
        components = self.description["components"]
        if component not in components:
            raise ValueError(f"the bundle {quote(str(self.folder))} has no {component}; it has {', '.join(components)}")
        return dict(components[component])


def _is_format(value: Any) -> bool:
    return type(value) is int and value >= 1


def _check_description(where: str, description: dict[str, Any]) -> None:
    """ValueError unless every field that is used later is there and of its type."""
    files: Any = description.get("files")
    components: Any = description.get("components")
    fits = (
        _are(files, {"bytes": int, "sha256": str})
        and _are(components, {"class": str, "config": dict, "weights": list})
        and all(c["weights"] and set(map(type, c["weights"])) == {str} for c in components.values())
        and all(isinstance(description.get(field), str) for field in ("family", "dtype"))
        and all(isinstance(description.get(field, 0), dict | None) for field in ("prompt", "schedule", "limits"))
    )
    if not fits:
        raise ValueError(f"the bundle.json of {where} lacks what a bundle must say; export the bundle again")
    if description["limits"] is None:
        return
    try:
        Limits(**description["limits"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"the bundle.json of {where} has limits that cannot be used: {str(error)[:150]}") from error


def _are(entries: Any, types: dict[str, type]) -> bool:
    """Whether `entries` is an object whose values are objects with fields of these types."""
    return isinstance(entries, dict) and all(
        isinstance(entry, dict) and all(type(entry.get(field)) is kind for field, kind in types.items())
        for entry in entries.values()
    )


def _is_inside(folder: Path, name: str) -> bool:
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/") or "\\" in name:
        return False
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name that cannot be
        return False


def open_bundle(bundle: Bundle | str | Path) -> Bundle:
    """`Bundle.open`, unless it is open already: checking every file again takes time."""
    return bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)


def _check_files(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Names and sizes of all, which is quick, before the first byte is hashed; then all of them in parallel."""
    for name, entry in files.items():
        _check_size(folder, name, entry["bytes"])
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        list(pool.map(partial(_check_hash, folder), files, [entry["sha256"] for entry in files.values()]))


def _check_size(folder: Path, name: str, size: int) -> None:
    path, where = folder / name, quote(str(folder))
    if not _is_inside(folder, name):
        raise ValueError(f"the bundle {where} names a file outside of itself: {quote(name)}")
    if not os.path.isfile(path):
        raise ValueError(f"the bundle {where} lacks its file {quote(name)}; copy or export it again")
    if path.stat().st_size != size:
        raise ValueError(
            f"{quote(name)} of the bundle {where} has {path.stat().st_size} bytes instead of {quote(size)}: "
            "it is truncated or altered; copy or export it again"
        )


def _check_hash(folder: Path, name: str, sha256: str) -> None:
    where = quote(str(folder))
    try:
        same = file_hash(folder / name) == sha256
    except OSError as error:
        raise ValueError(f"{quote(name)} of the bundle {where} cannot be read: {error.strerror}") from error
    if not same:
        raise ValueError(f"{quote(name)} of the bundle {where} was altered; copy or export it again")
