"""A bundle on disk: `bundle.json` and the files it names. Read-only, and never executable.

`bundle.json` holds: format, family, dtype, quantization, components (name -> class, config, weights file), limits,
files (name -> bytes, sha256), source (what it was made from), fused, verified, and the digest of all of that.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .models import FAMILIES
from .request import Limits, quote

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
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
                f"the bundle {where} has format {quote(description['format'])}, "
                f"this packdit reads up to {FORMAT}: update it"
            )
        if description.get("digest") != digest(description):
            raise ValueError(f"the bundle.json of {where} was altered after it was written; export the bundle again")
        _check_description(where, description)
        for name, entry in description["files"].items():
            _check_file(folder, name, entry)
        return cls(folder=folder, description=description)

    @property
    def family(self) -> str:
        return str(self.description["family"])

    @property
    def limits(self) -> Limits:
        return Limits(**self.description["limits"])

    def config(self, component: str) -> dict[str, Any]:
        """The config of "transformer", "vae" or "text_encoder"."""
        return dict(self._component(component)["config"])

    def weights(self, component: str) -> dict[str, Tensor]:
        """The component's tensors, memory-mapped, in the dtype they are stored in."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path(self._component(component)["weights"])
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{quote(str(path))} is no safetensors file; export the bundle again") from error

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
    files, components = description.get("files"), description.get("components")
    if description.get("family") not in FAMILIES:
        raise ValueError(
            f"the bundle {where} is of the family {quote(description.get('family'))}, "
            f"this packdit knows {', '.join(FAMILIES)}: update it"
        )
    fits = (
        _are(files, {"bytes": int, "sha256": str})
        and _are(components, {"config": dict, "weights": str})
        and isinstance(description.get("dtype"), str)
        and isinstance(description.get("limits"), dict)
    )
    if not fits:
        raise ValueError(f"the bundle.json of {where} lacks what a bundle must say; export the bundle again")
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


def _check_file(folder: Path, name: str, entry: dict[str, Any]) -> None:
    path, where = folder / name, quote(str(folder))
    if not _is_inside(folder, name):
        raise ValueError(f"the bundle {where} names a file outside of itself: {quote(name)}")
    if not os.path.isfile(path):
        raise ValueError(f"the bundle {where} lacks its file {quote(name)}; copy or export it again")
    if path.stat().st_size != entry["bytes"]:
        raise ValueError(
            f"{quote(name)} of the bundle {where} has {path.stat().st_size} bytes instead of {quote(entry['bytes'])}: "
            "it is truncated or altered; copy or export it again"
        )
    try:
        same = file_hash(path) == entry["sha256"]
    except OSError as error:
        raise ValueError(f"{quote(name)} of the bundle {where} cannot be read: {error.strerror}") from error
    if not same:
        raise ValueError(f"{quote(name)} of the bundle {where} was altered; copy or export it again")
