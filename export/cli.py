"""The command `packdit export`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..runtime.cli import Failure

TARGETS = ("bundle",)


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A trained pipeline, or one component of it: a directory in diffusers' layout, or a safetensors file "
            "with the names of Wan's or HunyuanVideo's own repository.",
        ),
    ],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="The directory to write.")],
    to: Annotated[str, typer.Option(help="What to write: bundle.")] = "bundle",
    dtype: Annotated[str, typer.Option(help="How to store the weights: fp32, bf16 or fp16.")] = "fp32",
    quantize: Annotated[
        str,
        typer.Option(help="none, or int8: a transformer's large layers in 8 bits, for CPUs; a GPU runs it in floats."),
    ] = "none",
    verify: Annotated[bool, typer.Option(help="Run the result against its source before it takes its place.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that exists.")] = False,
) -> None:
    """Turn a trained checkpoint into a bundle, fused and verified."""
    from ..runtime.request import quote

    if to not in TARGETS:
        raise ValueError(f"--to must be one of {', '.join(TARGETS)}, got {quote(to)}")
    from .checkpoint import convert  # here torch is loaded

    def progress(what: str) -> None:
        typer.echo(f"{what} ...", err=True)

    try:
        bundle = convert(source, dest, dtype, quantize=quantize, verify=verify, force=force, progress=progress)
    except OSError as error:
        raise Failure(f"{quote(dest)} could not be written: {error.strerror or error}") from error
    description = bundle.description
    size = sum(entry["bytes"] for entry in description["files"].values())
    kinds = dtype if quantize == "none" else f"{quantize} and {dtype}"
    typer.echo(f"{dest}: a bundle of family {bundle.family}, {kinds}, {size / 1e6:.1f} MB, {verdict(description)}")


def verdict(description: dict[str, Any]) -> str:
    """What `verified` of a bundle's description says."""
    verified = description["verified"]
    if verified is None:
        return "not verified"
    errors = [f"{name} {error:.1g}" for name, error in verified["relative_error"].items() if error is not None]
    if not errors:
        return "every tensor verified, none of the models run: they do not fit into memory"
    said = f"verified: largest relative errors {', '.join(errors)}; allowed {verified['limit']:g}"
    quantization = description["quantization"]
    if quantization == "none":
        return said
    changes = [f"{name} by {error:.1%}" for name, error in quantization["relative_error"].items() if error is not None]
    return f"{said}; {quantization['method']} changes the output of the {', '.join(changes) or 'models: not measured'}"
