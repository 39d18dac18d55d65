"""The command `packdit bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Measure ops and models against references, the machine's ceilings and the peers found on it.",
)

Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="All rows, as JSON.")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="A row each, written as soon as it is known.")]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="A picture, .png or .svg.")]
Commit = Annotated[str, typer.Option(help="The commit to name in the rows; by default git is asked.")]


@app.callback()
def bench() -> None:
    """A callback makes a group of `app` also while it has one command."""


def check_plot(file: Path | None) -> None:
    """ValueError where a picture is asked for that cannot be drawn."""
    from .plot import can_plot

    if file and not can_plot():
        raise ValueError("--plot needs matplotlib, which is not installed")


@app.command()
def kernels(
    json: Json = None,
    csv: Csv = None,
    plot: Plot = None,
    op: Annotated[list[str] | None, typer.Option(help="Only this op; may be repeated.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "auto",
    seconds: Annotated[float, typer.Option(help="How long to time each case.")] = 1.0,
    compile: Annotated[bool, typer.Option(help="Whether torch.compile is a peer; it compiles every case.")] = True,
    commit: Commit = "",
    scale: Annotated[str, typer.Option(help="The shapes: cpu, gpu or tiny; by default after the device.")] = "",
) -> None:
    """Every op on shapes of real models: checked, then timed against ceilings and peers."""
    from ..runtime.load import pick_device
    from ..runtime.request import quote
    from .kernels import Options, run
    from .shapes import SCALES

    if scale not in ("", *SCALES):
        raise ValueError(f"--scale must be one of {', '.join(SCALES)}, got {quote(scale)}")
    check_plot(plot)
    options = Options(
        device=pick_device(device),
        ops=tuple(op or ()),
        scale=scale,
        seconds=seconds,
        compile=compile,
        commit=commit,
        csv=csv,
        json=json,
        plot=plot,
    )
    if not run(options, typer.echo):
        raise typer.Exit(1)


@app.command()
def peers(
    json: Json = None,
    csv: Csv = None,
    plot: Plot = None,
    family: Annotated[
        list[str] | None, typer.Option(help="Only this, by the beginning of diffusers' name, as wan; may be repeated.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to time each case.")] = 5.0,
    compile: Annotated[
        bool, typer.Option(help="Whether torch.compile and OpenVINO are peers; they compile every shape.")
    ] = True,
    commit: Commit = "",
) -> None:
    """Each family of models beside diffusers: checked, then timed on one clip and on a mixed pack."""
    from importlib.util import find_spec

    if not find_spec("diffusers"):
        raise ValueError("packdit bench peers compares with diffusers, which is not installed")
    check_plot(plot)
    from .peers import Options, run

    options = Options(
        families=tuple(family or ()),
        seconds=seconds,
        compile=compile,
        commit=commit,
        csv=csv,
        json=json,
        plot=plot,
    )
    if not run(options, typer.echo):
        raise typer.Exit(1)
