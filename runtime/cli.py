"""The command `packdit`, and what it does with a model: generate and info.

Each folder's commands are entry points of the group `packdit.commands`, found by name and loaded when they are called;
files that hold commands import what is heavy inside their functions. A command raises ValueError for a user's mistake
(exit code 2) and `Failure` for what went wrong outside of the program (exit code 1); both are shown as one sentence.
"""

from __future__ import annotations

import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .errors import Failure

GROUP = "packdit.commands"

_IMAGE_HELP = "A picture to show at this frame: 0 if none is named, @last or @-1 is the last. Repeatable."
_OUT_HELP = (
    "Output: .mp4, .gif, .webp or .png. For several prompts FILE-1, FILE-2 ... By default a new file named after the "
    "prompt."
)


class Commands(TyperGroup):
    """The commands of all folders of packdit that are installed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(entry_points(group=GROUP).names)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        for entry in entry_points(group=GROUP, name=cmd_name):
            loaded = entry.load()
            if isinstance(loaded, typer.Typer):  # a command with commands of its own
                return typer.main.get_group(loaded)
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(cmd_name)(loaded)
            return typer.main.get_command(app)
        return None

    def invoke(self, ctx: Any) -> Any:
        try:
            with _plain_warnings():
                return super().invoke(ctx)
        except ValueError as error:
            _say(f"Error: {error}")
            raise typer.Exit(2) from error
        except Failure as error:
            _say(f"Error: {error}")
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            _say("Interrupted.")
            raise typer.Exit(130) from error


def _say(text: str) -> None:
    """One line on stderr."""
    from .progress import say

    say(" ".join(text.split()), sys.stderr)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Within it a warning is one line on stderr, without the place in the code that gave it."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _say(f"Warning: {message}")
        warnings.simplefilter("default", UserWarning)
        yield


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"packdit {version('packdit')}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def packdit(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Text to video and images of any size and duration."""


def generate(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT", help="What to show; several are made together.")],
    model: Annotated[str, typer.Option(help="A model that ships, or the directory of a bundle.")] = "shapes",
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Width and height in pixels.")] = None,
    frames: Annotated[int | None, typer.Option(help="Number of frames; 1 makes an image.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Duration instead of frames: the nearest possible one.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How closely to follow the prompt; 1 is off.")] = None,
    negative: Annotated[str, typer.Option(metavar="TEXT", help="What not to show.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the first prompt; the next ones take seed+1, seed+2 ...")] = 0,
    sampler: Annotated[str | None, typer.Option(help="euler, heun, dpmpp_2m, unipc or the model's default.")] = None,
    image: Annotated[list[str] | None, typer.Option(metavar="FILE[@FRAME]", help=_IMAGE_HELP)] = None,
    video: Annotated[str | None, typer.Option(metavar="FILE", help="A video whose first frames to begin with.")] = None,
    strength: Annotated[float | None, typer.Option(help="How closely to keep --image and --video, 0 to 1.")] = None,
    backend: Annotated[str, typer.Option(help="The kernels: auto, reference, cpu, triton or flash.")] = "auto",
    out: Annotated[str | None, typer.Option(metavar="FILE", help=_OUT_HELP)] = None,
) -> None:
    """Make a video or an image of each prompt."""
    given = locals()
    from .generate import Options, run

    run(Options(**given))


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the machine, the backends and the models that come along."""
    from .info import describe, gather

    if as_json:
        import json

        typer.echo(json.dumps(gather(), indent=2))
    else:
        typer.echo(describe(gather()))


def main() -> None:
    """The command line's entry point."""
    app(prog_name="packdit")
