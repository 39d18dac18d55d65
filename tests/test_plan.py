"""A plan is made of headers alone, and finds what is wrong before anything is written."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from packdit.export import plan as plans
from packdit.export.entry import Entry, rows
from packdit.export.plan import Piece, plan, renamed
from packdit.export.source import Component, Stored, read_component, read_header

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(pipeline_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pipeline_dir / "transformer", tmp_path / "transformer")


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., list[Stored]]:
    """Writes tensors into a file."""

    def call(*tensors: Tensor) -> list[Stored]:
        save_file({str(i): t for i, t in enumerate(tensors)}, tmp_path / "some.safetensors")
        return [read_header(tmp_path / "some.safetensors")[str(i)] for i in range(len(tensors))]

    return call


def piece(sources: list[Stored], shape: tuple[int, ...], dtype: torch.dtype, make: Any = rows) -> Piece:
    return Piece(target="some", shape=shape, dtype=dtype, make=make, sources=tuple(sources))


def refusal(component: Component) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the caller looks at the message
        plan(component, torch.float32)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) <= 300, message
    return message


def test_nothing_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(stored: Stored) -> Tensor:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr(Stored, "read", read)
    made = {p.target: p for p in plan(read_component(folder), torch.bfloat16)}
    assert made["modulation.weight"].shape == ((2 * 6 + 2) * 44, 44)
    assert made["modulation.weight"].num_bytes == 2 * 14 * 44 * 44
    assert {p.dtype for p in made.values()} == {torch.bfloat16}


def test_rows_are_converted_source_by_source_and_part_by_part(
    store: Callable[..., list[Stored]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "CHUNK", 4)
    tensors = [torch.randn(2, 3), torch.randn(1, 3)]
    some = piece(store(*tensors), (3, 3), torch.float16)
    parts = list(some.parts())
    assert [len(part) for part in parts] == [4, 2, 3]
    assert torch.equal(torch.cat(parts).view(3, 3), torch.cat(tensors).half())
    assert torch.equal(some.exact(), torch.cat(tensors))


def test_a_tensor_is_made_before_it_is_rounded(store: Callable[..., list[Stored]]) -> None:
    halves = [torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([2.0**-9], dtype=torch.bfloat16)]
    some = piece(store(*halves), (1,), torch.float32, lambda tensors: tensors[0] + tensors[1])
    assert next(some.parts()).item() == 1 + 2.0**-9
    wide = piece(store(torch.tensor([1 + 1e-12], dtype=torch.float64)), (1,), torch.float32)
    assert wide.exact().item() == 1 + 1e-12


@pytest.mark.parametrize(
    ("value", "said"), [(70_000.0, "too large for float16"), (float("nan"), "NaN or inf"), (float("inf"), "NaN or inf")]
)
def test_values_that_cannot_be_stored(store: Callable[..., list[Stored]], value: float, said: str) -> None:
    with pytest.raises(ValueError, match=f"^the tensor 'some' has values that are {said}"):
        list(piece(store(torch.tensor([1.0, value])), (2,), torch.float16).parts())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8, torch.int64, torch.bool])
def test_quantized_tensors(folder: Path, dtype: torch.dtype) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["time1.weight"] = weights["time1.weight"].to(dtype)
    save_file(weights, folder / WEIGHTS)
    said = refusal(read_component(folder))
    assert said.startswith("the transformer's tensor 'time1.weight' is stored as ")
    assert "quantized weights are not read; use the checkpoint in float32, float16 or bfloat16" in said


def test_a_config_that_contradicts_the_tensors(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "text_width": 23}))
    assert "config and tensors contradict one another: 'text1.weight' (44, 24) cannot make 'text1.weight' (44, 23)" in (
        refusal(read_component(folder))
    )


def test_names_in_more_than_one_spelling(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    component = read_component(folder)
    prefixed = {f"model.{name}": stored for name, stored in component.tensors.items()} | {"step": Stored}
    other = replace(component, tensors=prefixed)
    assert "lacks the tensor" in refusal(other)
    monkeypatch.setattr(component.module, "RENAMED", ((r"^model\.", ""),), raising=False)
    assert "nothing uses: 'step'" in refusal(other)
    monkeypatch.setattr(component.module, "IGNORED", (r"^step$",), raising=False)
    assert [p.sources for p in plan(other, torch.float32)] == [p.sources for p in plan(component, torch.float32)]
    both = replace(other, tensors={**prefixed, "time1.bias": prefixed["model.time2.bias"]})
    assert renamed(both)["time1.bias"].key == "time2.bias"  # its own name goes first


def test_entries_that_do_not_make_the_model_are_a_mistake_of_ours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    component = read_component(folder)
    entries = component.module.entries
    monkeypatch.setattr(component.module, "entries", lambda config: [*entries(config), Entry("more", ("novel",))])
    novel = replace(component, tensors={**component.tensors, "novel": component.tensors["time1.bias"]})
    with pytest.raises(AssertionError, match=r"entries and model differ: .'more'"):
        plan(novel, torch.float32)
