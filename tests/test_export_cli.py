"""packdit export: a checkpoint becomes a bundle, or nothing at all."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

from packdit.runtime.bundle import Bundle
from packdit.runtime.cli import app


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_a_pipeline_becomes_a_verified_bundle(pipeline_dir: Path, tmp_path: Path) -> None:
    result = call(pipeline_dir, tmp_path / "made", "--dtype", "fp16")
    assert result.exit_code == 0
    assert result.stderr == "reading ...\nwriting ...\nverifying ...\n"
    assert re.fullmatch(
        rf"{tmp_path}/made: a bundle of family shapes, fp16, 0\.\d MB, verified: largest relative errors "
        r"transformer \S+, vae \S+; allowed 0\.0001\n",
        result.stdout,
    )
    assert Bundle.open(tmp_path / "made").description["dtype"] == "fp16"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_int8_says_what_it_changes(pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packdit.export.quantize.MIN_WIDTH", 40)
    result = call(pipeline_dir, tmp_path / "made", "--quantize", "int8")
    assert (result.exit_code, result.stderr) == (0, "reading ...\nwriting ...\nverifying ...\n")
    assert " a bundle of family shapes, int8 and fp32, " in result.stdout
    assert re.search(r"; int8 changes the output of the transformer by \d\.\d%\n$", result.stdout)
    refused = call(pipeline_dir, tmp_path / "other", "--quantize", "int2")
    assert (refused.exit_code, refused.stderr) == (2, "Error: quantize must be one of none, int8, got 'int2'\n")


def test_a_component_becomes_a_bundle_that_generates_nothing(pipeline_dir: Path, tmp_path: Path) -> None:
    result = call(pipeline_dir / "vae", tmp_path / "made")
    assert result.exit_code == 0
    assert re.search(
        r"a bundle of family shapes_vae, fp32, 0\.\d MB, verified: largest relative errors vae ", result.stdout
    )
    assert Bundle.open(tmp_path / "made").components == ["vae"]
    generated = CliRunner().invoke(app, ["generate", "a circle", "--model", str(tmp_path / "made")])
    assert generated.exit_code == 2
    said = r"Error: the bundle '[^\n]* holds no pipeline, only its vae; to generate, export the whole [^\n]*\n"
    assert re.fullmatch(said, generated.stderr)


def test_models_that_are_too_large_to_run_are_still_checked(
    pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("packdit.export.verify.free_bytes", lambda: 0)
    result = call(pipeline_dir, tmp_path / "made")
    assert result.stdout.endswith(" MB, every tensor verified, none of the models run: they do not fit into memory\n")


def test_what_exists_is_replaced_only_by_force(pipeline_dir: Path, bundle_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "made"
    shutil.copytree(bundle_dir, target)
    refused = call(pipeline_dir, target)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert re.fullmatch(r"Error: [^\n]*--force\n", refused.stderr)
    assert Bundle.open(target).description == Bundle.open(bundle_dir).description
    replaced = call(pipeline_dir, target, "--force", "--dtype", "bf16", "--no-verify")
    assert replaced.exit_code == 0
    assert replaced.stdout.endswith(" MB, not verified\n")
    assert Bundle.open(target).description["dtype"] == "bf16"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def only_a_pickle(source: Path) -> None:
    (source / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (source / "vae" / "pytorch_model.bin").write_bytes(b"")


def unknown_class(source: Path) -> None:
    config = source / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "Mystery"}))


@pytest.mark.parametrize(
    ("damage", "options", "words"),
    [
        (shutil.rmtree, [], "is missing"),
        (lambda source: (source / "vae" / "config.json").write_text("{"), [], "cannot be read as JSON"),
        (lambda source: (source / "tokenizer" / "tokenizer.json").unlink(), [], "needs its tokenizer"),
        (lambda source: os.truncate(source / "vae" / "diffusion_pytorch_model.safetensors", 999), [], "truncated"),
        (only_a_pickle, [], "is a pickle"),
        (unknown_class, [], "'Mystery' is not known"),
        (lambda source: None, ["--to", "stone"], "--to must be one of bundle, got 'stone'"),
        (lambda source: None, ["--dtype", "fp4"], "dtype must be one of fp32, bf16, fp16, got 'fp4'"),
    ],
    ids=["no source", "no JSON", "no tokenizer", "truncated", "pickle", "class", "to", "dtype"],
)
def test_a_mistake_is_one_sentence_and_nothing_is_left(
    damage: Callable[[Path], None], options: list[str], words: str, pipeline_dir: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(pipeline_dir, source)
    damage(source)
    (tmp_path / "place").mkdir()
    result = call(source, tmp_path / "place" / "made", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert words in last
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "could not be written: No space left on device"),
        (KeyboardInterrupt(), 130, "Interrupted."),
    ],
)
def test_what_stops_it_leaves_the_old_bundle(
    error: BaseException,
    code: int,
    shown: str,
    pipeline_dir: Path,
    bundle_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object) -> None:
        raise error

    target = tmp_path / "made"
    shutil.copytree(bundle_dir, target)
    monkeypatch.setattr("packdit.export.checkpoint.verify_bundle", stop)
    result = call(pipeline_dir, target, "--force")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.endswith(f"{shown}\n")
    assert "Traceback" not in result.stderr
    assert Bundle.open(target).description == Bundle.open(bundle_dir).description
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
