"""`varlen_attention` as a problem, and the libraries that compute it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import flash, varlen_attention
from ..kernels.testing import offsets
from ..kernels.varlen_attention import attend, segments_of
from .problem import Make, Problem, Results

ROWS_COMPARED = 512  # of a large pack: exact attention in float64 of all rows would take minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """A pack of segments; key_lengths: of a cross-attention."""

    lengths: Sequence[int]
    heads: int
    head_dim: int
    kv_heads: int | None = None
    key_lengths: Sequence[int] | None = None
    causal: bool = False

    @property
    def keys(self) -> Sequence[int]:
        return self.lengths if self.key_lengths is None else self.key_lengths

    @property
    def pairs(self) -> int:
        """Of a query and a key that it sees, in one head."""
        if not self.causal:
            return sum(q * k for q, k in zip(self.lengths, self.keys, strict=True))
        return sum(sum(max(0, k - q + i + 1) for i in range(q)) for q, k in zip(self.lengths, self.keys, strict=True))

    def moved(self, dtype: torch.dtype) -> int:
        """Bytes of queries, output, keys and values."""
        rows = 2 * self.heads * sum(self.lengths) + 2 * (self.kv_heads or self.heads) * sum(self.keys)
        return rows * self.head_dim * dtype.itemsize


def attention(
    shape: AttentionShape, dtype: torch.dtype, device: torch.device, rows_compared: int = ROWS_COMPARED
) -> Problem:
    """q, k and v as strided views, as a fused projection gives them where queries and keys are as many."""
    generator = torch.Generator(device).manual_seed(sum(shape.lengths) + shape.head_dim)
    kv_heads = shape.kv_heads or shape.heads

    def draw(tokens: int, heads: int) -> Tensor:
        return torch.randn(tokens, heads, shape.head_dim, generator=generator, device=device).to(dtype)

    if shape.key_lengths is None and kv_heads == shape.heads:
        q, k, v = draw(sum(shape.lengths), 3 * shape.heads).unflatten(1, (3, shape.heads)).unbind(1)
    else:
        q = draw(sum(shape.lengths), shape.heads)
        k, v = draw(sum(shape.keys), 2 * kv_heads).unflatten(1, (2, kv_heads)).unbind(1)
    cu_q, cu_k = offsets(shape.lengths).to(device), offsets(shape.keys).to(device)
    rows = [compared_rows(length, max(rows_compared // len(shape.lengths), 8)) for length in shape.lengths]
    picked = torch.cat([r + start for r, start in zip(rows, offsets(shape.lengths).tolist(), strict=False)]).to(device)
    return Problem(
        run=lambda backend: (
            varlen_attention(
                q, k, v, cu_q, cu_k, causal=shape.causal, max_seqlen=max(*shape.lengths, *shape.keys), backend=backend
            ),
        ),
        exact=lambda: definition(q, k, v, shape, rows, torch.float64),
        plain=lambda: definition(q, k, v, shape, rows, dtype),
        flops=4 * shape.heads * shape.head_dim * shape.pairs,
        moved=shape.moved(dtype),
        peers=peers(q, k, v, cu_q, cu_k, shape) if kv_heads == shape.heads else {},
        select=lambda results: (torch.cat(results)[picked],),
        compiled=None if shape.causal else partial(flex, q, k, v, cu_q, cu_k),
        inputs=(q, k, v),
        packs=(cu_q, cu_k),
    )


def compared_rows(length: int, count: int) -> Tensor:
    """Queries of a segment that are compared: all of a short one, else evenly spaced ones, both ends among them."""
    return torch.linspace(0, length - 1, min(count, length)).round().long()


def definition(
    q: Tensor, k: Tensor, v: Tensor, shape: AttentionShape, rows: Sequence[Tensor], dtype: torch.dtype
) -> Results:
    """`attend`, which defines the op, for these queries of each segment; in float32 where dtype is a smaller one."""
    wide = torch.promote_types(dtype, torch.float32)
    pieces, start_q, start_k = [], 0, 0
    for num_q, num_k, picked in zip(shape.lengths, shape.keys, rows, strict=True):
        queries = q[start_q : start_q + num_q][picked.to(q.device)].to(wide)
        keys, values = (x[start_k : start_k + num_k].to(wide) for x in (k, v))
        visible = torch.ones(len(picked), num_k, dtype=torch.bool)
        if shape.causal:
            visible = torch.arange(num_k) <= picked[:, None] + num_k - num_q
        pieces.append(attend(queries, keys, values, visible.to(q.device), shape.head_dim**-0.5).to(dtype))
        start_q, start_k = start_q + num_q, start_k + num_k
    return (torch.cat(pieces),)


def sdpa(q: Tensor, k: Tensor, v: Tensor, pieces: Sequence[tuple[slice, slice]], causal: bool) -> Results:
    """PyTorch's scaled_dot_product_attention, one segment after another; the results are not joined."""
    outs = []
    for in_q, in_k in pieces:
        queries, keys, values = (x.transpose(0, 1)[None] for x in (q[in_q], k[in_k], v[in_k]))
        out = F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
        outs.append(out[0].transpose(0, 1))
    return tuple(outs)


def peers(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, shape: AttentionShape) -> dict[str, Make]:
    """Those that can run here. SDPA's causal mask starts at the top left, so it is one of equal lengths only."""
    found: dict[str, Make] = {}
    ends = [[slice(*pair) for pair in pairwise(offsets.tolist())] for offsets in (cu_q, cu_k)]
    pieces = list(zip(*ends, strict=True))
    if not shape.causal or list(shape.lengths) == list(shape.keys):
        found["eager"] = partial(sdpa, q, k, v, pieces, shape.causal)
        if q.is_cuda:
            found["cudnn"] = partial(sdpa_cudnn, q, k, v, pieces, shape.causal)
    if q.is_cuda and q.dtype in flash.DTYPES:
        limits = max(shape.lengths), max(shape.keys)
        for name, library in flash.LIBRARIES.items():
            if flash.found()[name] == "ok":
                found[name] = partial(by_library, library, q, k, v, cu_q, cu_k, limits, shape.causal)
    return found


def flex(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor) -> Make:
    """PyTorch's FlexAttention, which is nothing without torch.compile: one call for the pack, the segments as a mask of
    blocks that is made beforehand."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    segment_q, segment_k = (segments_of(len(x), offsets)[0] for x, offsets in ((q, cu_q), (k, cu_k)))

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return segment_q[query] == segment_k[key]

    torch.compiler.reset()
    blocks = create_block_mask(visible, None, None, len(q), len(k), device=q.device.type)
    compiled = torch.compile(flex_attention, dynamic=False)
    queries, keys, values = (x.transpose(0, 1)[None] for x in (q, k, v))
    return lambda: (compiled(queries, keys, values, block_mask=blocks)[0].transpose(0, 1),)


def sdpa_cudnn(q: Tensor, k: Tensor, v: Tensor, pieces: Sequence[tuple[slice, slice]], causal: bool) -> Results:
    """`sdpa` by cuDNN's kernels."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return sdpa(q, k, v, pieces, causal)


def by_library(
    library: flash.Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    limits: tuple[int, int],
    causal: bool,
) -> Results:
    """One of FlashAttention's, told the longest segments."""
    return (library(q, k, v, cu_q, cu_k, *limits, causal, q.shape[2] ** -0.5),)
