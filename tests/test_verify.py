"""Verification finds what an export got wrong: planted mistakes, one a component."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from packdit.export import checkpoint, convert, shapes

Weights = dict[str, Tensor]


def swap_two_modulation_matrices(fused: Weights) -> None:
    """Of the first and the second block, 6 x 44 rows each."""
    for name in ("modulation.weight", "modulation.bias"):
        first, second, rest = fused[name].split([264, 264, 88])
        fused[name] = torch.cat([second, first, rest])


def swap_shift_and_scale(fused: Weights) -> None:
    """Of the head."""
    for name in ("modulation.weight", "modulation.bias"):
        blocks, shift, scale = fused[name].split([528, 44, 44])
        fused[name] = torch.cat([blocks, scale, shift])


def turn_one_sign(fused: Weights) -> None:
    """The largest bias of the modulation."""
    bias = fused["modulation.bias"] = fused["modulation.bias"].clone()
    bias[bias.abs().argmax()] *= -1


@pytest.mark.parametrize("mistake", [swap_two_modulation_matrices, swap_shift_and_scale, turn_one_sign])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_mistake_in_fusing_is_found(
    pipeline_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[Weights], None],
    dtype: str,
) -> None:
    fuse = shapes.fuse_transformer

    def wrong(*arguments: Any) -> Weights:
        fused = fuse(*arguments)
        mistake(fused)
        return fused

    monkeypatch.setattr(shapes, "fuse_transformer", wrong)
    with pytest.raises(
        ValueError, match=r"the exported transformer differs from its source by [^n].*, more than 0.0001"
    ):
        convert(pipeline_dir, tmp_path / "made", dtype)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("component", "name"), [("vae", "vae"), ("text_encoder", "text_encoder")])
def test_a_file_that_was_written_wrong_is_found(
    pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, component: str, name: str
) -> None:
    save = checkpoint.save_file

    def wrong(weights: Weights, file: Path) -> None:
        if file.stem == component:
            key = max(weights, key=lambda k: weights[k].numel())
            weights = {**weights, key: weights[key].flip(0).contiguous()}
        save(weights, file)

    monkeypatch.setattr(checkpoint, "save_file", wrong)
    with pytest.raises(ValueError, match=f"the exported {name} differs from its source by "):
        convert(pipeline_dir, tmp_path / "made")


def test_a_fused_matrix_holds_the_blocks_in_order_and_the_head_last() -> None:
    def tensors(i: int) -> dict[str, Tensor]:
        return {"modulation.weight": torch.full((6, 1), i), "modulation.bias": torch.full((6,), i)}

    source = {f"blocks.{i}.{name}": t for i in range(2) for name, t in tensors(i).items()}
    head = {"modulation.weight": torch.full((2, 1), 9), "modulation.bias": torch.full((2,), 9)}
    fused = shapes.fuse_transformer({"depth": 2}, {**source, **head, "embed.weight": torch.ones(1)})
    assert sorted(fused) == ["embed.weight", "modulation.bias", "modulation.weight"]
    assert fused["modulation.bias"].tolist() == [0] * 6 + [1] * 6 + [9] * 2
    assert fused["modulation.weight"].shape == (14, 1)
