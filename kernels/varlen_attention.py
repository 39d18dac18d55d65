"""softmax(scale Q Kᵀ + key_bias) V within each segment of a pack.

Source: attention, arXiv 1706.03762, section 3.2.1, over segments as in FlashAttention's varlen call (arXiv 2205.14135),
whose convention is kept: causal aligns the last query with the last key (bottom right). A query that sees no key, and a
row that lies in no segment, gives 0. A key that stands for n equal ones, as the rows of a model's padding are, has
key_bias log(n): exp(score + log(n)) is what the n would sum to.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .backend import WIDE, choose, native
from .op import custom_op
from .tensors import INT32, accurate, address, check_offsets, check_tensor, dense_rows, heads, readable

MAX_HEAD_DIM = 256  # of the Triton kernel
QUERY_BLOCK = 128  # the unit of query blocks in a work table


Rounding = Callable[[Tensor], Tensor]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor,
    scale: float,
    key_bias: Tensor | None = None,
    rounding: Rounding | None = None,
) -> Tensor:
    """Dense attention of q [Tq, H, D] to k, v [Tk, Hk, D] where visible [Tq, Tk]; no key visible gives 0.

    key_bias [Tk] is added to the scaled scores of each key; rounding is applied to the weights [H, Tq, Tk].
    """
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    if key_bias is not None:
        scores = scores + key_bias
    sees_a_key = visible.any(-1, keepdim=True)
    scores = scores.masked_fill(~visible, -torch.inf).masked_fill(~sees_a_key, 0)
    weights = scores.softmax(-1).masked_fill(~sees_a_key, 0)
    if rounding is not None:
        weights = rounding(weights)
    return torch.einsum("hqk,khd->qhd", weights, v)


def varlen_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    causal: bool,
    scale: float,
    key_bias: Tensor | None = None,
    rounding: Rounding | None = None,
) -> Tensor:
    """The definition, in plain PyTorch; differentiable. Arguments as in `varlen_attention` and `attend`.

    Where Python may read the offsets, segments run one after another. On a GPU, and in a traced graph, the whole pack
    is one masked attention, which needs no lengths on the host but lets a NaN of one segment reach the others.
    """
    wide = accurate(q), accurate(k), accurate(v)
    if readable(cu_seqlens_q) and readable(cu_seqlens_k):
        starts = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
        return _segment_by_segment(*wide, *starts, causal, scale, key_bias, rounding).to(q.dtype)
    visible = _visible(q, k, cu_seqlens_q, cu_seqlens_k, causal)
    return attend(*wide, visible, scale, key_bias, rounding).to(q.dtype)


def _segment_by_segment(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts_q: list[int],
    starts_k: list[int],
    causal: bool,
    scale: float,
    key_bias: Tensor | None,
    rounding: Rounding | None,
) -> Tensor:
    pieces = [torch.zeros_like(q[: starts_q[0]])]
    for segment in range(len(starts_q) - 1):
        in_q = slice(starts_q[segment], starts_q[segment + 1])
        in_k = slice(starts_k[segment], starts_k[segment + 1])
        num_q, num_k = in_q.stop - in_q.start, in_k.stop - in_k.start
        visible = torch.ones(num_q, num_k, dtype=torch.bool, device=q.device)
        if causal:
            visible = visible.tril(num_k - num_q)
        bias = None if key_bias is None else key_bias[in_k]
        pieces.append(attend(q[in_q], k[in_k], v[in_k], visible, scale, bias, rounding))
    pieces.append(torch.zeros_like(q[starts_q[-1] :]))
    return torch.cat(pieces)


def _visible(q: Tensor, k: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, causal: bool) -> Tensor:
    """Which keys each query of the pack sees, bool [Tq, Tk], from the offsets alone."""
    in_q, to_end_q = segments_of(q.shape[0], cu_seqlens_q)
    in_k, to_end_k = segments_of(k.shape[0], cu_seqlens_k)
    visible = (in_q[:, None] == in_k) & (in_q[:, None] >= 0)
    return visible & (to_end_k >= to_end_q[:, None]) if causal else visible


def segments_of(num_tokens: int, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The segment of each token (-1: none) and the token's distance from that segment's end."""
    token = torch.arange(num_tokens, device=offsets.device)
    segment = (token[:, None] >= offsets).sum(-1) - 1
    last = offsets.shape[0] - 2
    segment = torch.where(segment > last, -1, segment)
    return segment, offsets[segment + 1] - token


@custom_op("varlen_attention")
def _varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    causal: bool,
    scale: float,
    key_bias: Tensor | None = None,
) -> Tensor:
    q, k, v = dense_rows(q), dense_rows(k), dense_rows(v)
    cu_seqlens_q, cu_seqlens_k = cu_seqlens_q.contiguous(), cu_seqlens_k.contiguous()
    key_bias = None if key_bias is None else key_bias.contiguous()
    out = q.new_empty(q.shape)
    native().varlen_attention(
        *(heads(q), heads(k), heads(v), address(cu_seqlens_q), address(cu_seqlens_k), cu_seqlens_q.shape[0] - 1),
        *(q.shape[0], q.shape[2], causal, scale, address(key_bias), address(out), torch.get_num_threads()),
    )
    return out


@torch.library.register_fake("packdit::varlen_attention")
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    causal: bool,
    scale: float,
    key_bias: Tensor | None = None,
) -> Tensor:
    return q.new_empty(q.shape)


@custom_op("varlen_attention_triton", device_types="default")
def _varlen_attention_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    work: Tensor | None,
    causal: bool,
    scale: float,
    key_bias: Tensor | None = None,
) -> Tensor:
    from .triton_attention import launch_attention  # triton is optional
    from .triton_segments import make_work

    if work is None:
        work = make_work(cu_seqlens_q, q.shape[0], QUERY_BLOCK)
    offsets = cu_seqlens_q.contiguous(), cu_seqlens_k.contiguous()
    q, k, v = dense_rows(q), dense_rows(k), dense_rows(v)
    key_bias = None if key_bias is None else key_bias.contiguous()
    return launch_attention(q, k, v, *offsets, work.contiguous(), causal, scale, key_bias, QUERY_BLOCK)


@torch.library.register_fake("packdit::varlen_attention_triton")
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    work: Tensor | None,
    causal: bool,
    scale: float,
    key_bias: Tensor | None = None,
) -> Tensor:
    return q.new_empty(q.shape)


def check_attention(
    op: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None,
    work: Tensor | None,
) -> None:
    """Raises ValueError unless these are as `varlen_attention` says."""
    check_tensor(f"{op}: q", q, (None, None, None))
    heads, head_dim = q.shape[1:]
    check_tensor(f"{op}: k", k, (None, None, head_dim), (q.dtype,), q.device)
    check_tensor(f"{op}: v", v, tuple(k.shape), (q.dtype,), q.device)
    if head_dim < 1:
        raise ValueError(f"{op}: head dim is {head_dim}; allowed: at least 1")
    if k.shape[1] == 0 or heads % k.shape[1]:
        raise ValueError(f"{op}: q has {heads} heads; allowed: multiples of the {k.shape[1]} of k")
    check_tensor(f"{op}: cu_seqlens_q", cu_seqlens_q, (None,), INT32, q.device)
    check_offsets(f"{op}: cu_seqlens_q", cu_seqlens_q, q.shape[0])
    if cu_seqlens_k is not None:
        check_tensor(f"{op}: cu_seqlens_k", cu_seqlens_k, tuple(cu_seqlens_q.shape), INT32, q.device)
    check_offsets(f"{op}: cu_seqlens_k", cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k, k.shape[0])
    if work is not None:
        check_tensor(f"{op}: work", work, (None, 2), INT32, q.device)


def _check_key_bias(key_bias: Tensor, num_keys: int, device: torch.device) -> None:
    check_tensor("varlen_attention: key_bias", key_bias, (num_keys,), (torch.float32, torch.float64), device)
    if readable(key_bias) and not key_bias.isfinite().all():
        index = int(key_bias.isfinite().logical_not().nonzero()[0])
        raise ValueError(f"varlen_attention: key_bias[{index}] is {key_bias[index].item()}; allowed: finite numbers")


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    key_bias: Tensor | None = None,
    work: Tensor | None = None,
    max_seqlen: int | None = None,
    backend: str | None = None,
) -> Tensor:
    """Attention within each segment, [Tq, H, D] in the dtype of q.

    q [Tq, H, D]; k, v [Tk, Hk, D], H a multiple of Hk, also as strided views; Triton: D at most 256; cu_seqlens_q and
    cu_seqlens_k (None: the same) int32 [S + 1], where segment s is rows cu[s] to cu[s + 1]; scale None: 1 / sqrt(D);
    key_bias float32 [Tk], finite: added to the scaled scores of each key, for all heads and queries; float64 with a
    float64 reference; work int32 [N, 2]: all of the planner's (segment, block of QUERY_BLOCK queries) entries, each
    segment's together and in order, then any number of (-1, 0), and max_seqlen: a bound on the lengths, for backends
    that launch from them. ValueError for anything else, and for offsets on the CPU that decrease.
    """
    check_attention("varlen_attention", q, k, v, cu_seqlens_q, cu_seqlens_k, work)
    if cu_seqlens_k is None:
        cu_seqlens_k = cu_seqlens_q
    tensors = [q, k, v]
    if key_bias is not None:
        _check_key_bias(key_bias, k.shape[0], q.device)
        tensors.append(key_bias)
    factor = q.shape[2] ** -0.5 if scale is None else scale
    plain = "varlen_attention" if key_bias is None else "varlen_attention with a key_bias"
    chosen = choose(plain if q.shape[2] <= MAX_HEAD_DIM else WIDE, backend, *tensors)
    if chosen == "reference":
        return varlen_attention_reference(q, k, v, cu_seqlens_q, cu_seqlens_k, causal, factor, key_bias)
    if chosen == "triton":
        return _varlen_attention_triton(q, k, v, cu_seqlens_q, cu_seqlens_k, work, causal, factor, key_bias)
    if chosen == "flash":
        from .flash import varlen_attention_flash  # it registers an op

        return varlen_attention_flash(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen, causal, factor)
    return _varlen_attention(q, k, v, cu_seqlens_q, cu_seqlens_k, causal, factor, key_bias)
