"""`packdit bench peers`: each family at a stated shape beside diffusers, on one clip and on a mixed pack, in float32.

The weights are random and the same for all. Everybody's output is compared with that of diffusers first. A mixed pack
is one call of packdit's; the others take its clips one by one, which is all that they can do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..export.families import KINDS, module_of
from ..export.peer import Clip, call_transformer, random_clip
from ..export.testing import LIMIT, call, pack, randomize
from ..export.testing import error as worst
from ..runtime.load import PackedTransformer
from ..runtime.memory import reuse_freed_memory
from ..runtime.pack import Grid
from ..runtime.request import quote
from . import facts
from .ceilings import Ceilings
from .ceilings import measure as measure_ceilings
from .families import FAMILIES, TEXT_STATES, Family
from .measure import OURS, one_line, timed
from .openvino_peer import converted
from .plot import speedups
from .rows import OpRow, Table, write_json
from .show import accurate, show, summarize
from .timing import interleaved

CPU = torch.device("cpu")
Outputs = list[Tensor]
Call = Callable[[], Outputs]
BARS = {"clip": 1.0, "mix": 1.5}  # of diffusers' eager time, at least
AVERAGE_BAR = 1.25  # over the families, on one clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """families: some, by the beginnings of their classes' names, or all where it is empty. compile: whether peers that
    compile each shape are there."""

    families: tuple[str, ...] = ()
    seconds: float = 5.0
    compile: bool = True
    commit: str = ""
    csv: Path | None = None
    json: Path | None = None
    plot: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Models:
    """The same weights twice. peer calls diffusers' for one clip, `one(model, **clip)`."""

    packed: PackedTransformer
    diffusers: Any
    one: Callable[..., Tensor]
    adapt: Callable[[Any, Clip], Clip]

    def clips(self, grids: Sequence[Grid]) -> list[Clip]:
        """Random clips of these grids of tokens, as far as the family can do them; equal grids have equal timesteps."""
        generator = torch.Generator().manual_seed(len(grids))
        clips = []
        for grid in grids:
            clip = random_clip(self.packed.model, grid, 900.0 - 100 * grids.index(grid), generator)
            if self.packed.model.text_width:
                clip["text"] = torch.randn(TEXT_STATES, self.packed.model.text_width, generator=generator)
            clips.append(self.adapt(dict(self.diffusers.config), clip))
        return clips


def load(name: str, family: Family) -> Models:
    """diffusers' class with random weights and the packed model of it."""
    import diffusers

    module = module_of("transformer", name)
    reference = randomize(getattr(diffusers, name)(**family.config), seed=0)
    return Models(
        packed=pack(reference, module.entries(dict(reference.config))),
        diffusers=reference,
        one=getattr(module, "peer", call_transformer),
        adapt=getattr(module, "adapt", lambda config, clip: clip),
    )


def contenders(models: Models, clips: list[Clip], compile: bool) -> Iterator[tuple[str, Callable[[], Call]]]:
    """By name; each is made when it is its turn, which takes some of them long. The first is what others are compared
    with."""
    one = models.one
    yield "diffusers", lambda: lambda: [one(models.diffusers, **clip) for clip in clips]
    yield OURS + "cpu", lambda: lambda: call(models.packed, clips)
    if not compile:
        return

    def compiled() -> Call:
        torch.compiler.reset()
        faster = torch.compile(models.diffusers, dynamic=False)
        return lambda: [one(faster, **clip) for clip in clips]

    yield "compile", compiled
    yield "openvino", partial(converted, models.diffusers, one, clips)


def measure(
    name: str, what: str, models: Models, grids: Sequence[Grid], ceilings: Ceilings, options: Options
) -> list[OpRow]:
    """A row for each contender on these clips, and one for the bar. what: "clip" or "mix"."""
    clips = models.clips(grids)
    sizes = [math.prod(clip["latents"].shape[1:]) // math.prod(models.packed.model.patch) for clip in clips]
    shape = f"{what}, {sum(sizes)} tokens" if len(sizes) == 1 else f"{what} of {len(sizes)}, {sum(sizes)} tokens"
    start = OpRow(section="peers", op=name, shape=shape, dtype="float32", by="", outcome="ok", allowed=LIMIT)
    rows, calls, want = list[OpRow](), dict[str, Call](), Outputs()
    with torch.inference_mode():
        for who, make in contenders(models, clips, options.compile):
            row, made = checked(replace(start, by=who), make, want)
            if made is not None:
                want = want or made()
                calls[who] = made
            rows.append(row)
        with FlopCounterMode(display=False) as counter:
            [models.one(models.diffusers, **clip) for clip in clips]
    flops = float(counter.get_total_flops())
    weights = sum(p.numel() for p in models.diffusers.parameters())
    rows = [replace(row, flops=flops, moved=4.0 * weights) for row in rows]
    times = interleaved(calls, CPU, options.seconds, cold=False)
    rows = [timed(row, times[row.by], times.get(OURS + "cpu"), ceilings) if row.by in times else row for row in rows]
    return [*rows, *bar(what, rows)]


def checked(row: OpRow, make: Callable[[], Call], want: Outputs) -> tuple[OpRow, Call | None]:
    """The row with the error against `want` (none yet: it is what others are compared with), and what may be timed."""
    start = time.perf_counter()
    try:
        made = make()
        got = made()
        error = worst(got, want or got)
    except Exception as reason:
        return replace(row, outcome="failed", note=one_line(reason)), None
    note = f"ready after {time.perf_counter() - start:.1f} s" if row.by in ("compile", "openvino") else ""
    fine = error <= LIMIT
    return replace(row, error=error, outcome="ok" if fine else "wrong", note=note), made if fine else None


def bar(what: str, rows: Sequence[OpRow]) -> Iterator[OpRow]:
    """What is promised against diffusers eager."""
    ours, eager = (next((r for r in rows if r.by == by and r.p50_us), None) for by in (OURS + "cpu", "diffusers"))
    if ours is not None and eager is not None and eager.ratio is not None:
        yield judged(ours.op, ours.shape, BARS[what], eager.ratio)


def judged(op: str, shape: str, least: float, reached: float) -> OpRow:
    """A bar's row."""
    return OpRow(
        section="peers",
        op=op,
        shape=shape,
        dtype="float32",
        by=OURS + "cpu",
        outcome="met" if reached >= least else "missed",
        bar=f"at least {least:g}x diffusers eager",
        note=f"reached {reached:.3g}",
    )


def average(rows: Sequence[OpRow]) -> Iterator[OpRow]:
    """The bar over all families, on one clip."""
    ratios = [row.ratio for row in rows if row.by == "diffusers" and row.ratio and row.shape.startswith("clip")]
    if ratios:
        yield judged(f"{len(ratios)} families", "clip, geometric mean", AVERAGE_BAR, geometric_mean(ratios))


def run(options: Options, say: Callable[[str], None]) -> bool:
    """Measures the families asked for, or all; whether packdit's outputs were diffusers'."""
    names = families(options.families)
    reuse_freed_memory()  # as in `packdit bench kernels`
    found = facts.gather(CPU, options.commit)
    ceilings = measure_ceilings(CPU, [torch.float32])
    say(f"{found.machine}; {found.threads} threads; torch {found.torch}; {versions()}; commit {found.commit}")
    say(f"ceilings of this run: {ceilings.describe()}; shares are of the FMA peak")
    with Table(OpRow, found, options.csv) as table:
        for name in names:
            models = load(name, FAMILIES[name])
            for what, grids in (("clip", (FAMILIES[name].clip,)), ("mix", FAMILIES[name].mix)):
                rows = measure(name, what, models, grids, ceilings, options)
                for row in rows:
                    table.add(row)
                show(rows, say)
        for row in average(table.rows):
            table.add(row)
    summarize(table.rows, say)
    if options.json:
        write_json(options.json, found, table.rows, ceilings=asdict(ceilings))
    if options.plot:
        speedups(options.plot, table.rows, found)
    return accurate(table.rows)


def versions() -> str:
    """Of the peers."""
    packages = [name for name in ("diffusers", "openvino") if find_spec(name)]
    return ", ".join(f"{name} {version(name)}" for name in packages)


def families(asked: Sequence[str]) -> list[str]:
    """Class names of what was asked for by the beginning of a name. ValueError for one that is not known."""
    known = [name for name in FAMILIES if name in KINDS["transformer"]]
    found = {word: [name for name in known if name.lower().startswith(word.lower())] for word in asked}
    for word, names in found.items():
        if not names:
            raise ValueError(f"--family must be the beginning of one of {', '.join(known)}, got {quote(word)}")
    return list(dict.fromkeys(name for names in found.values() for name in names)) or known
