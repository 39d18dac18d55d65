"""What the project promises of its ops, as data: `packdit bench kernels` says of each whether a run reached it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What the project promises of a case: against is a peer's name, "peers" for the fastest found, "ceiling" for the
    measured one, or "TFLOP/s"; at_least the ratio or the rate."""

    op: str
    shape: str
    dtype: torch.dtype
    device: str
    against: str
    at_least: float

    def describe(self) -> str:
        if self.against == "TFLOP/s":
            return f"at least {self.at_least:g} TFLOP/s"
        if self.against == "ceiling":
            return f"at least {100 * self.at_least:g} % of the ceiling"
        whom = "the fastest peer" if self.against == "peers" else self.against
        return f"at least {self.at_least:g}x {whom}"


_CPU = partial(Bar, dtype=torch.float32, device="cpu")
_GPU = partial(Bar, dtype=torch.bfloat16, device="cuda")
_LARGE, _STREAMED = ("clip, 24 x 128", "mix, 24 x 128"), ("wan-1.3b, 32768 x 1536", "wan-14b, 32768 x 5120")
BARS = (
    _CPU(op="varlen_attention", shape="mix, 8 x 64", against="eager", at_least=1.5),
    _CPU(op="varlen_attention", shape="images, 6 x 64", against="eager", at_least=1.5),
    _CPU(op="varlen_attention", shape="clip, 12 x 128", against="eager", at_least=1.2),
    _CPU(op="varlen_attention", shape="clip, 12 x 128", against="ceiling", at_least=0.6),
    _CPU(op="linear_int8", shape="four times as wide, 1536 to 6144", against="eager", at_least=3.0),
    *(
        _CPU(op=op, shape="wan-1.3b, 16384 x 1536", against=against, at_least=least)
        for op in ("modulate", "gated_residual")
        for against, least in (("ceiling", 0.8), ("eager", 2.0))
    ),
    *(
        _GPU(op="varlen_attention", shape=shape, against=against, at_least=least)
        for shape in _LARGE
        for against, least in (("TFLOP/s", 600.0), ("torch.nn.attention.varlen", 1.5), ("peers", 1.0))
    ),
    _GPU(op="varlen_attention_fp8", shape="clip, 24 x 128", against="bf16", at_least=1.3),
    *(
        _GPU(op=op, shape=shape, against="ceiling", at_least=0.9)
        for op in ("modulate", "gated_residual", "qk_norm_rope")
        for shape in _STREAMED
    ),
)
