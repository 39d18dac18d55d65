"""The command packdit: which commands there are, what a failure looks like, and how little is loaded."""

import errno
import json
import re
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

from packdit.kernels.backend import BACKENDS
from packdit.runtime.cli import app
from packdit.runtime.errors import Failure
from packdit.runtime.sampler import SAMPLERS

# Calls the command line several times in a fresh interpreter; prints exit codes and the heavy modules that were loaded.
FRESH = """
import json, sys
from packdit.runtime.cli import main
codes = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["packdit", *arguments]
    try:
        main()
    except SystemExit as end:
        codes.append(end.code)
heavy = ["torch", "transformers", "av.container"]
print(json.dumps([codes, [name for name in heavy if name in sys.modules]]))
"""


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def raising(error: BaseException) -> Any:
    def command() -> None:
        """Fail."""
        raise error

    return command


class Entry:
    """A stand-in for an entry point."""

    def __init__(self, command: Any) -> None:
        self.command = command

    def load(self) -> Any:
        return self.command


def call_that(command: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("packdit.runtime.cli.entry_points", lambda **_: [Entry(command)])
    return call("fail")


def test_help_lists_the_commands_of_all_folders() -> None:
    result = call("--help")
    assert result.exit_code == 0
    for name in ("export", "generate", "info"):
        assert f"\n  {name}  " in result.stdout
        assert call(name, "--help").exit_code == 0


def test_help_names_every_sampler_and_backend() -> None:
    text = call("generate", "--help").stdout
    for name in (*SAMPLERS, *BACKENDS):
        assert re.search(rf"\b{name}\b", text), name


def test_version() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout.split()[:2]) == (0, ["packdit", f"{version('packdit')},"])


def test_an_unknown_command_or_option_is_the_users_mistake() -> None:
    for arguments in (
        ["frobnicate"],
        ["generate"],
        ["generate", "a", "--frobnicate"],
        ["generate", "a", "--steps", "x"],
    ):
        result = call(*arguments)
        assert result.exit_code == 2
        assert "Error: " in result.stderr
        assert result.stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (ValueError("size must be\neven"), 2, "Error: size must be even\n"),
        (Failure("the disk is full"), 1, "Error: the disk is full\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
    ],
)
def test_what_is_expected_to_happen_is_one_line(
    error: BaseException, code: int, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = call_that(raising(error), monkeypatch)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", shown)


def test_our_own_bugs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    result = call_that(raising(OSError(errno.EIO, "a bug")), monkeypatch)
    assert result.exit_code == 1
    assert isinstance(result.exception, OSError)


def test_a_warning_is_one_line_without_a_place_in_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        """Warn."""
        warnings.warn("the prompt is cut", stacklevel=1)

    result = call_that(command, monkeypatch)
    assert (result.exit_code, result.stderr) == (0, "Warning: the prompt is cut\n")


def test_neither_help_nor_a_mistake_loads_torch(bundle_dir: Path, tmp_path: Path) -> None:
    calls = [
        ["--help"],
        ["generate", "--help"],
        ["info", "--help"],
        ["export", "--help"],
        ["generate", "a", "--guidance", "nan"],
        ["generate", "a", "--model", str(bundle_dir), "--size", "65x64"],
        ["export", "a", "b", "--to", "frobnicate"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, json.dumps(calls)], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    codes, heavy = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0, 0, 0, 0, 2, 2, 2]
    assert heavy == []
    assert list(tmp_path.iterdir()) == []
