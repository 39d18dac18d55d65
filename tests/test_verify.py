"""Verification finds what an export got wrong: planted mistakes, in what is fused and in what is written."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from packdit.export import convert, shards, verify
from packdit.export.entry import Entry
from packdit.export.families import shapes
from packdit.export.plan import Piece


def swap_two_modulation_matrices(names: list[str]) -> list[str]:
    """Of the first and the second block."""
    return [names[1], names[0], *names[2:]]


def swap_the_last_two(names: list[str]) -> list[str]:
    """The head's matrix, and the last block's: other shapes, the same rows in all."""
    return [*names[:-2], names[-1], names[-2]]


@pytest.mark.parametrize("mistake", [swap_two_modulation_matrices, swap_the_last_two])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_mistake_in_fusing_is_found(
    pipeline_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[list[str]], list[str]],
    dtype: str,
) -> None:
    def wrong(config: dict[str, Any]) -> list[Entry]:
        return [
            Entry(e.target, tuple(mistake(list(e.sources))) if len(e.sources) > 1 else e.sources, e.make)
            for e in entries(config)
        ]

    entries = shapes.entries
    monkeypatch.setattr(shapes, "entries", wrong)
    with pytest.raises(
        ValueError, match=r"the exported transformer differs from its source by [^n].*, more than 0.0001"
    ):
        convert(pipeline_dir, tmp_path / "made", dtype)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_a_tensor_that_was_written_wrong_is_found(
    pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, component: str
) -> None:
    write = shards.write_shard

    def wrong(path: Path, pieces: Sequence[Piece]) -> dict[str, Any]:
        if path.stem == component:
            first = max(pieces, key=lambda piece: piece.num_bytes)
            turned = replace(first, make=lambda tensors: first.make(tensors).flip(0))
            pieces = [turned if piece is first else piece for piece in pieces]
        return write(path, pieces)

    monkeypatch.setattr(shards, "write_shard", wrong)
    said = f"the {'VAE' if component == 'vae' else component.replace('_', ' ')}'s tensor '.*' was not written as its"
    with pytest.raises(ValueError, match=said):
        convert(pipeline_dir, tmp_path / "made")


def test_what_does_not_fit_into_memory_does_not_run(
    pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "free_bytes", lambda: 1000)
    verified = convert(pipeline_dir, tmp_path / "made").description["verified"]
    assert verified["relative_error"] == verified["rounding"] == dict.fromkeys(("transformer", "vae", "text_encoder"))
    assert "tensor by tensor; it did not run: running takes 0 GB and 0 GB are free" in verified["against"]["vae"]


def test_free_memory() -> None:
    assert 2**24 < verify.free_bytes() < 2**50
