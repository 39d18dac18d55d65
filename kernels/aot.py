"""The compile gate: what every Triton kernel becomes on each GPU, found on a machine that has none.

`python -m packdit.kernels.aot FILE.csv [ARCH...]` compiles each case below for the compute capabilities given (all of
LIMITS) and writes one row a kernel: registers, spills, shared memory, matrix instructions, 16-byte accesses. It exits
with 1 where a kernel spills, asks for more shared memory than the chip has (the compiler does not check), multiplies
without the chip's fastest instructions, or streams in narrow pieces. Needs triton, whose wheel carries the
disassembler, and no TRITON_INTERPRET.
"""

import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget

from .triton_attention import launch_attention
from .triton_guided_step import launch_guided_step
from .triton_qk_norm_rope import launch_norm_rope
from .triton_rows import launch_modulate, launch_norm_silu
from .varlen_attention import QUERY_BLOCK

LIMITS = {80: 166912, 90: 232448, 100: 232448, 120: 101376}  # bytes of shared memory that one program may have
PRODUCTS = {80: "HMMA", 90: "HGMMA", 100: "UTC.*MMA", 120: "HMMA"}  # the fastest matrix instruction of 16-bit numbers
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
HALF = torch.bfloat16
WIDTH, HEADS, TOKENS = 3072, 4, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One kernel on one GPU. `products`: matrix instructions of the chip's fastest kind; spills: loads and stores."""

    case: str
    arch: int
    triton: str
    warps: int
    registers: int
    spills: int
    stack: int
    shared_bytes: int
    products: int
    loads_16_bytes: int
    stores_16_bytes: int
    instructions: int

    def faults(self) -> Iterator[str]:
        """What the gate refuses."""
        if self.spills or self.stack:
            yield f"{self.spills} spills, stack of {self.stack} bytes"
        if self.shared_bytes > LIMITS[self.arch]:
            yield f"{self.shared_bytes} bytes of shared memory; allowed: {LIMITS[self.arch]}"
        if self.case.startswith("attention") and "float32" not in self.case and not self.products:
            yield f"no {PRODUCTS[self.arch]}"
        if not (self.loads_16_bytes and self.stores_16_bytes):
            yield "no 16-byte loads or stores"


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


def attention(dtype: torch.dtype, head_dim: int, causal: bool) -> None:
    q, k, v = torch.empty(TOKENS, 3, HEADS, head_dim, dtype=dtype).unbind(1)
    offsets, work = torch.zeros(2, dtype=torch.int32), torch.zeros(1, 2, dtype=torch.int32)
    launch_attention(q, k, v, offsets, offsets, work, causal, 1.0, None, QUERY_BLOCK)


def rope(layout: str, across_heads: bool) -> None:
    q, angles = torch.empty(TOKENS, 3, 24, 128, dtype=HALF)[:, 0], torch.empty(TOKENS, 64)
    weight = torch.empty(WIDTH if across_heads else 128, dtype=HALF)
    launch_norm_rope(q, angles, angles, weight, "rms", across_heads, layout, 1e-6)


def rows(gated: bool) -> None:
    x, table = torch.empty(TOKENS, WIDTH, dtype=HALF), torch.empty(4, 3 * WIDTH, dtype=HALF).chunk(3, 1)
    row = torch.zeros(TOKENS, dtype=torch.int32)
    more = {"y": x, "gate": table[2]} if gated else {}
    launch_modulate(x, row, table[0], table[1], "layer", 1e-6, **more)


def norm_silu() -> None:
    launch_norm_silu(torch.empty(TOKENS, 96, dtype=HALF), torch.empty(96, dtype=HALF), None, "rms", True, 1e-6)


def guided_step() -> None:
    index = torch.zeros(TOKENS, dtype=torch.int32)
    state, out = torch.empty(3, TOKENS, 64), torch.empty(TOKENS, 64, dtype=HALF)
    launch_guided_step(state, out, index, index, torch.empty(4), torch.empty(4, 3, 4), index)


CASES: dict[str, Callable[[], None]] = {
    "modulate": partial(rows, False),
    "gated_residual": partial(rows, True),
    "norm_silu": norm_silu,
    "guided_step": guided_step,
    **{
        f"qk_norm_rope {layout}{' across' * across}": partial(rope, layout, across)
        for layout in ("interleaved", "half")
        for across in (False, True)
    },
    **{
        f"attention {str(dtype).removeprefix('torch.')} {dim}{' causal' * causal}": partial(
            attention, dtype, dim, causal
        )
        for dtype in (torch.bfloat16, torch.float32)
        for dim in (32, 64, 72, 80, 96, 128, 256)
        for causal in (False, True)
    },
}


def compiled(launch: Callable[[], None], arch: int) -> Any:
    """The kernel that launch would run on such a GPU."""
    kernels: list[Any] = []
    run = triton.JITFunction.run

    def compile_only(self: Any, *args: Any, warmup: bool, **kwargs: Any) -> None:
        self.device_caches.clear()  # keyed by device alone
        kernels.append(run(self, *args, warmup=True, **kwargs))

    triton.runtime.driver.set_active(Compiler(arch))
    with patch.object(triton.JITFunction, "run", compile_only):
        launch()
    (kernel,) = kernels
    return kernel


def measure(case: str, arch: int) -> Row:
    """Compiles a case and reads its machine code."""
    kernel = compiled(CASES[case], arch)
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

    return Row(
        case=case,
        arch=arch,
        triton=triton.__version__,
        warps=kernel.metadata.num_warps,
        registers=resource("REG"),
        spills=count("STL|LDL"),
        stack=resource("STACK"),
        shared_bytes=kernel.metadata.shared,
        products=count(PRODUCTS[arch]),
        loads_16_bytes=count(r"LDG.*\.128|LDGSTS.*\.128"),
        stores_16_bytes=count(r"STG.*\.128"),
        instructions=len(found),
    )


def main(file: Path, archs: list[int], cases: list[str]) -> int:
    """Writes a row for every case and GPU; 1 where the gate refuses one."""
    measured = [measure(case, arch) for arch in archs for case in cases]
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, measured))
    faults = [f"sm_{row.arch} {row.case}: {fault}" for row in measured for fault in row.faults()]
    print("\n".join(faults) or f"{len(measured)} kernels pass", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [int(arch) for arch in sys.argv[2:]] or list(LIMITS), list(CASES)))
