"""A bundle on disk: `bundle.json` and the files it names. Read-only, and never executable.

`bundle.json` holds: format, family, dtype, quantization, components (name -> class, config, weights file), limits,
files (name -> bytes, sha256), source (what it was made from), fused, verified, and the digest of all of that.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

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
    if not (folder / "bundle.json").is_file():
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
        except (OSError, ValueError) as error:
            raise ValueError(f"the bundle.json of {where} cannot be read; export the bundle again") from error
        if not isinstance(description, dict) or not isinstance(description.get("format"), int):
            raise ValueError(f"the bundle.json of {where} is not a bundle's description; export the bundle again")
        if description["format"] > FORMAT:
            raise ValueError(
                f"the bundle {where} has format {description['format']}, this packdit reads up to {FORMAT}: update it"
            )
        if description.get("digest") != digest(description):
            raise ValueError(f"the bundle.json of {where} was altered after it was written; export the bundle again")
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
        from safetensors.torch import load_file

        return load_file(self.path(self._component(component)["weights"]))

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


def _check_file(folder: Path, name: str, entry: dict[str, Any]) -> None:
    parts = PurePosixPath(name).parts
    inside = bool(parts) and ".." not in parts and not name.startswith("/") and "\\" not in name
    path = folder / name
    if not inside or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the bundle {quote(str(folder))} names a file outside of itself: {quote(name)}")
    if not path.is_file():
        raise ValueError(f"the bundle {quote(str(folder))} lacks its file {quote(name)}; copy or export it again")
    if path.stat().st_size != entry["bytes"]:
        raise ValueError(
            f"{quote(name)} of the bundle {quote(str(folder))} has {path.stat().st_size} bytes instead of "
            f"{entry['bytes']}: it is truncated or altered; copy or export it again"
        )
    if file_hash(path) != entry["sha256"]:
        raise ValueError(f"{quote(name)} of the bundle {quote(str(folder))} was altered; copy or export it again")
