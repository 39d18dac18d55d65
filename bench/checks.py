"""Checks without timing: accuracy on every backend; a pack's segments are alone; replayed graphs; memory given back.

Each gives rows; the last two need a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from ..kernels import (
    gated_residual,
    linear,
    linear_fp8,
    modulate,
    norm_silu,
    qk_norm_rope,
    varlen_attention,
    varlen_attention_fp8,
)
from ..kernels.fp8 import quantize_rows
from ..kernels.testing import offsets
from ..kernels.tuning import invariant
from .ceilings import name
from .measure import OURS, backends_on, judged, refuses
from .problem import Case, Judge, Problem
from .rows import OpRow
from .streaming import Draw

LENGTHS = (37, 50, 0, 41, 128)
UNBOUND = ("reference", "flash")  # libraries: they may look at the whole pack, and bake integers of it into a graph
NUM_TOKENS, WIDTH, HEADS = sum(LENGTHS), 96, 2


def row_of(section: str, op: str, shape: str, dtype: torch.dtype, backend: str) -> OpRow:
    """A row without a verdict yet."""
    return OpRow(section=section, op=op, shape=shape, dtype=name(dtype), by=OURS + backend, outcome="ok")


def accuracy(section: str, case: Case, device: torch.device) -> Iterator[OpRow]:
    """The op on every backend that takes it."""
    problem = case.build(device)
    judge = Judge(problem, case.dtype)
    for backend in backends_on(device):
        row = replace(row_of(section, case.op, case.shape, case.dtype, backend), allowed=judge.allowed)
        if not refuses(lambda backend=backend: problem.run(backend)):  # type: ignore[misc]
            yield judged(judge, lambda backend=backend: problem.run(backend), row)  # type: ignore[misc]


class Company:
    """Random inputs for ops on a pack of LENGTHS, and what each op makes of any choice of its tokens."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        draw = Draw(dtype, device, 0)
        self.x, self.y = draw(NUM_TOKENS, WIDTH), draw(NUM_TOKENS, WIDTH)
        self.qkv = draw(NUM_TOKENS, 3, HEADS, WIDTH // HEADS)
        self.tables, self.row = draw(5, 3 * WIDTH).chunk(3, 1), draw.index(NUM_TOKENS, 5)
        angles = draw(NUM_TOKENS, WIDTH // HEADS // 2, wide=True)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.weight = draw(2 * WIDTH, WIDTH)
        self.bytes, self.scale = quantize_rows(self.weight.float())

    def run(self, op: str, tokens: Tensor, lengths: tuple[int, ...], backend: str) -> Tensor:
        """The op's result for these tokens, which make segments of these lengths."""
        if "attention" in op or op == "qk_norm_rope":
            return self.run_heads(op, tokens, lengths, backend)
        x, y, row = self.x[tokens], self.y[tokens], self.row[tokens]
        gate, shift, scale = self.tables
        if op == "modulate":
            return modulate(x, shift, scale, row, backend=backend)
        if op == "gated_residual":
            return gated_residual(x, y, gate, row, shift=shift, scale=scale, backend=backend)[1]
        if op == "norm_silu":
            return norm_silu(x, gate[0], backend=backend)
        if op == "linear_fp8":
            return linear_fp8(x, self.bytes, self.scale, activation="silu", backend=backend)
        with invariant():
            return linear(x, self.weight, activation="silu", backend=backend)

    def run_heads(self, op: str, tokens: Tensor, lengths: tuple[int, ...], backend: str) -> Tensor:
        """`run` of an op on queries, keys and values."""
        q, k, v = self.qkv[tokens].unbind(1)
        if op == "qk_norm_rope":
            return qk_norm_rope(q, k, self.cos[tokens], self.sin[tokens], backend=backend)[1]
        cu_seqlens = offsets(lengths).to(q.device)
        if op == "varlen_attention_fp8":
            return varlen_attention_fp8(q, k, v, cu_seqlens, backend=backend)
        return varlen_attention(q, k, v, cu_seqlens, max_seqlen=max(lengths), backend=backend)


COMPANY_OPS = (
    *("varlen_attention", "varlen_attention_fp8", "modulate", "gated_residual", "norm_silu", "qk_norm_rope"),
    *("linear", "linear_fp8"),
)


def invariance(section: str, op: str, dtype: torch.dtype, device: torch.device) -> Iterator[OpRow]:
    """Each segment alone and in another order has the same bits, and a neighbour's NaN changes none of them.

    UNBOUND backends are left out: they promise neither.
    """
    company = Company(dtype, device)
    starts = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]
    pieces = [torch.arange(a, b, device=device) for a, b in pairwise(starts)]
    order = [3, 0, 4, 2, 1]
    for backend in backends_on(device):
        if backend in UNBOUND or refuses(lambda b=backend: (company.run(op, torch.cat(pieces), LENGTHS, b),)):  # type: ignore[misc]
            continue
        whole = company.run(op, torch.cat(pieces), LENGTHS, backend)
        mixed = company.run(op, torch.cat([pieces[i] for i in order]), tuple(LENGTHS[i] for i in order), backend)
        alone = [company.run(op, p, (len(p),), backend) for p in pieces if len(p)]
        poisoned = Company(dtype, device)
        for x in (poisoned.x, poisoned.y, poisoned.qkv):
            x[pieces[1]] = float("nan")
        beside = poisoned.run(op, torch.cat(pieces), LENGTHS, backend)
        others = torch.cat([pieces[i] for i in (0, 2, 3, 4)])
        for shape, same in (
            ("alone", torch.equal(torch.cat(alone), whole)),
            ("in another order", torch.equal(mixed, whole[torch.cat([pieces[i] for i in order])])),
            ("beside NaN", torch.equal(beside[others], whole[others]) and bool(beside[pieces[1]].isnan().all())),
        ):
            row = row_of(section, op, shape, dtype, backend)
            yield row if same else replace(row, outcome="wrong", note="other bits")


def graph(section: str, case: Case, device: torch.device) -> Iterator[OpRow]:
    """The op captured once, replayed on other inputs and, where it takes a pack, another cut of it: the bits of a
    plain call. Capturing also refuses what waits for the device."""
    for backend in backends_on(device):
        row = row_of(section, case.op, case.shape, case.dtype, backend)
        problem = case.build(device)
        if backend in UNBOUND or refuses(lambda b=backend, p=problem: p.run(b)):  # type: ignore[misc]
            continue
        same = replayed(problem, backend)
        yield row if same else replace(row, outcome="wrong", note="a replay gives other bits than a call")


def replayed(problem: Problem, backend: str) -> bool:
    """Whether a captured call, replayed after its inputs changed, gives what a plain call gives then."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        problem.run(backend)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = problem.run(backend)
    for x in problem.inputs:
        x.copy_(torch.randn_like(x))
    for cu_seqlens in problem.packs:
        middle = cu_seqlens[1:-1].flip(0)
        cu_seqlens[1:-1] = cu_seqlens[-1] - middle  # the segments in reverse order
    state = [x.clone() for x in problem.inputs]
    graph.replay()
    got = [result.clone() for result in results]
    for x, before in zip(problem.inputs, state, strict=True):  # of an op that changes its input
        x.copy_(before)
    want = problem.run(backend)
    return all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def memory(section: str, case: Case, device: torch.device) -> Iterator[OpRow]:
    """After a call an op holds nothing but its results."""
    problem = case.build(device)
    for backend in backends_on(device):
        row = row_of(section, case.op, case.shape, case.dtype, backend)
        if refuses(lambda b=backend: problem.run(b)):  # type: ignore[misc]
            continue
        before = torch.cuda.memory_allocated(device)
        for _ in range(3):
            problem.run(backend)
        held = torch.cuda.memory_allocated(device) - before
        yield row if held == 0 else replace(row, outcome="wrong", note=f"{held} bytes stay allocated")
