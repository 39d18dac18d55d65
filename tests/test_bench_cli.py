from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

from packdit.bench import kernels
from packdit.runtime.cli import app


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["bench", *arguments])


def test_help() -> None:
    result = call("--help")
    assert result.exit_code == 0
    for name in ("kernels", "peers"):
        assert f"\n  {name}  " in result.stdout
        assert call(name, "--help").exit_code == 0


@pytest.mark.parametrize(("accurate", "code"), [(True, 0), (False, 1)])
def test_options_arrive_and_the_verdict_is_the_exit_code(
    accurate: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[kernels.Options] = []

    def run(options: kernels.Options, say: Any) -> bool:
        given.append(options)
        say("done")
        return accurate

    monkeypatch.setattr(kernels, "run", run)
    result = call("kernels", "--op", "linear", "--op", "modulate", "--no-compile", "--json", str(tmp_path / "x"))
    assert (result.exit_code, result.stdout) == (code, "done\n")
    assert given[0].ops == ("linear", "modulate")
    assert given[0].json == tmp_path / "x"
    assert not given[0].compile


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--scale", "huge"), "Error: --scale must be one of tiny, cpu, gpu, got 'huge'\n"),
        (("--op", "softmax"), "Error: there is no op 'softmax'; known are varlen_attention, "),
        (("--device", "tpu"), "Error: device must be auto, cpu or cuda"),
    ],
)
def test_mistakes_are_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    result = call("kernels", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(said)


def test_peers_need_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = call("peers")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: packdit bench peers compares with diffusers, which is not installed\n",
    )
