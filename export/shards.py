"""Writes tensors into safetensors files, which hold a header and then one tensor after another.

A tensor is written as soon as it is made, so memory holds one, or one of its parts. safetensors' own writer wants all
tensors of a file at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .plan import DTYPES, Piece

SHARD_BYTES = 2_000_000_000  # a file holds no more, unless one tensor does
ALIGNMENT = 64  # bytes, of the first tensor in its file: a cache line, and the widest vector
NAMES = {dtype: name for name, dtype in DTYPES.items()} | {torch.int8: "I8"}


def split(pieces: Sequence[Piece], limit: int) -> list[list[Piece]]:
    """The pieces in files of at most `limit` bytes, in their order; a larger one has a file of its own."""
    files: list[list[Piece]] = [[]]
    size = 0
    for piece in pieces:
        if files[-1] and size + piece.num_bytes > limit:
            files.append([])
            size = 0
        files[-1].append(piece)
        size += piece.num_bytes
    return files


def file_names(component: str, count: int) -> list[str]:
    """Of a component's files."""
    if count == 1:
        return [f"{component}.safetensors"]
    return [f"{component}-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]


def write_shard(path: Path, pieces: Sequence[Piece]) -> dict[str, Any]:
    """Makes and writes the tensors of one file. Returns its size and hash, as bundle.json has them.

    ValueError as `Piece.parts`, OSError as the file system.
    """
    digest = hashlib.sha256()
    with path.open("wb") as file:
        header = _header(pieces)
        digest.update(header)
        file.write(header)
        for piece in pieces:
            end = file.tell() + piece.num_bytes
            for part in piece.parts():
                data = part.view(torch.uint8).numpy().data
                digest.update(data)
                file.write(data)
            assert file.tell() == end, f"{piece.target} has another size than was planned"
        size = file.tell()
    return {"bytes": size, "sha256": digest.hexdigest()}


def _header(pieces: Sequence[Piece]) -> bytes:
    """The length of the JSON that follows, and for each tensor its dtype, shape and place."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for piece in pieces:
        end = start + piece.num_bytes
        entries[piece.target] = {"dtype": NAMES[piece.dtype], "shape": piece.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
