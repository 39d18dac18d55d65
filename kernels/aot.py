"""The compile gate: what every Triton kernel becomes on each GPU, found on a machine that has none.

`python -m packdit.kernels.aot FILE.csv [ARCH...]` compiles the cases of aot_cases.py for the compute capabilities given
(all of LIMITS) and writes one row a kernel: registers, spills, shared memory, matrix instructions, 16-byte accesses. It
exits with 1 where a kernel spills, asks for more shared memory than the chip has (the compiler does not check),
multiplies without the chip's fastest instructions, streams in narrow pieces, or has the copy engine fill a buffer of
another size than it fetches. Needs triton, whose wheel carries the disassembler, and no TRITON_INTERPRET.
"""

import csv
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import triton
from triton.backends.compiler import GPUTarget

from .aot_cases import CASES

LIMITS = {80: 166912, 90: 232448, 100: 232448, 120: 101376}  # bytes of shared memory that one program may have
# The fastest matrix instruction of 16-bit numbers, and of 8-bit ones
PRODUCTS = {80: ("HMMA", ""), 90: ("HGMMA", "QGMMA"), 100: ("UTCHMMA", "UTCQMMA"), 120: ("HMMA", "QMMA")}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kernel on one GPU. `products`: matrix instructions of the chip's fastest kind, `slower`: of others; spills:
    loads and stores; `bulk_loads`: by the copy engine, `misfits`: of those that fill a buffer of another size."""

    case: str
    kernel: str
    arch: int
    triton: str
    warps: int
    registers: int
    spills: int
    stack: int
    shared_bytes: int
    products: int
    slower: int
    loads_16_bytes: int
    stores_16_bytes: int
    bulk_loads: int
    misfits: int
    instructions: int

    def faults(self) -> Iterator[str]:
        """What the gate refuses."""
        case = CASES[self.case]
        if self.spills or self.stack:
            yield f"{self.spills} spills, stack of {self.stack} bytes"
        if self.shared_bytes > LIMITS[self.arch]:
            yield f"{self.shared_bytes} bytes of shared memory; allowed: {LIMITS[self.arch]}"
        if self.kernel in case.multiplies and (self.slower or not self.products):
            yield f"{self.products} {PRODUCTS[self.arch][case.fp8]}, {self.slower} slower products"
        if self.kernel not in case.narrow_loads and not (self.loads_16_bytes or self.bulk_loads):
            yield "no 16-byte loads"
        if self.kernel not in case.narrow_stores and not self.stores_16_bytes:
            yield "no 16-byte stores"
        if self.misfits:
            yield f"{self.misfits} copies of another size than their buffer"


class Compiler:
    """In the place of triton's GPU driver: names a target, launches nothing."""

    def __init__(self, arch: int) -> None:
        self.target = GPUTarget("cuda", arch, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


def compiled(launch: Callable[[], object], arch: int) -> list[tuple[str, Any]]:
    """The kernels that launch would run on such a GPU, with their names."""
    kernels: list[tuple[str, Any]] = []
    run = triton.JITFunction.run

    def compile_only(self: Any, *args: Any, warmup: bool, **kwargs: Any) -> None:
        self.device_caches.clear()  # keyed by device alone
        kernels.append((self.__name__, run(self, *args, warmup=True, **kwargs)))

    triton.runtime.driver.set_active(Compiler(arch))
    with patch.object(triton.JITFunction, "run", compile_only):
        launch()
    return kernels


def misfits(ttgir: str) -> int:
    """Copies by the engine that fetch another number of elements than their buffer holds."""
    shapes = re.findall(
        r"async_tma_copy_global_to_local.*tensordesc<(?:tensor<)?([0-9x]+)x[a-z].*-> !ttg\.memdesc<([0-9x]+)x[a-z]",
        ttgir,
    )
    fetched, held = ([math.prod(map(int, pair[i].split("x"))) for pair in shapes] for i in (0, 1))
    return sum(one != other for one, other in zip(fetched, held, strict=True))


def measure(case: str, arch: int) -> list[Row]:
    """Compiles a case and reads its kernels' machine code."""
    return [read(case, arch, name, kernel) for name, kernel in compiled(CASES[case].launch, arch)]


def read(case: str, arch: int, name: str, kernel: Any) -> Row:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        resources, code = (
            subprocess.run([TOOLS / "cuobjdump", option, file.name], check=True, capture_output=True, text=True).stdout
            for option in ("--dump-resource-usage", "-sass")
        )
    operation = r"^\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)"
    found = re.findall(operation, code, re.MULTILINE)

    def count(pattern: str) -> int:
        return sum(bool(re.match(pattern, name)) for name in found)

    def resource(name: str) -> int:
        match = re.search(rf"{name}:(\d+)", resources)
        assert match, resources
        return int(match[1])

    products = count(PRODUCTS[arch][CASES[case].fp8])
    return Row(
        case=case,
        kernel=name,
        arch=arch,
        triton=triton.__version__,
        warps=kernel.metadata.num_warps,
        registers=resource("REG"),
        spills=count("STL|LDL"),
        stack=resource("STACK"),
        shared_bytes=kernel.metadata.shared,
        products=products,
        slower=count(r"\w*MMA") - products,
        loads_16_bytes=count(r"LDG.*\.128|LDGSTS.*\.128"),
        stores_16_bytes=count(r"STG.*\.128"),
        bulk_loads=count("UTMALDG"),
        misfits=misfits(kernel.asm["ttgir"]),
        instructions=len(found),
    )


def main(file: Path, archs: list[int], cases: list[str]) -> int:
    """Writes a row for every kernel of the cases on every GPU that has them; 1 where the gate refuses one."""
    jobs = [(case, arch) for arch in archs for case in cases if arch in CASES[case].archs]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), multiprocessing.get_context("fork")) as pool:
        measured = [row for rows in pool.map(measure, *zip(*jobs, strict=True)) for row in rows]
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, measured))
    faults = [f"sm_{row.arch} {row.case}, {row.kernel}: {fault}" for row in measured for fault in row.faults()]
    print("\n".join(faults) or f"{len(measured)} kernels pass", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [int(arch) for arch in sys.argv[2:]] or list(LIMITS), list(CASES)))
