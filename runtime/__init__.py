"""The packed runtime: a request becomes a video. Public names load their files, and torch, when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import Engine as Engine
    from .job import Cancelled as Cancelled
    from .load import load_transformer as load_transformer
    from .load import load_vae as load_vae
    from .request import Condition as Condition
    from .request import Request as Request
    from .video import Video as Video

_FILE_OF = {
    "Cancelled": "job",
    "Condition": "request",
    "Engine": "engine",
    "Request": "request",
    "Video": "video",
    "load_transformer": "load",
    "load_vae": "load",
}


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_FILE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILE_OF})
