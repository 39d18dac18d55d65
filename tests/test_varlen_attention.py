from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from packdit.kernels import varlen_attention
from packdit.kernels.backend import using
from packdit.kernels.testing import LENGTHS, assert_accurate, assert_same_bits, check_cpu, offsets
from packdit.kernels.varlen_attention import attend, varlen_attention_reference

MASKED = torch.compile(varlen_attention_reference, backend="eager", fullgraph=True)  # the form of traced graphs


def inputs(tokens: int, keys: int, head_dim: int, heads: int = 4, kv_heads: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(tokens * 1000 + head_dim)
    q = torch.randn(tokens, heads, head_dim, generator=generator) * 2
    k, v = torch.randn(2, keys, kv_heads, head_dim, generator=generator)
    return q, k, v


def per_segment(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, causal: bool
) -> torch.Tensor:
    """PyTorch's attention, segment by segment."""
    out = torch.zeros_like(q)
    for (q0, q1), (k0, k1) in zip(pairwise(cu_q.tolist()), pairwise(cu_k.tolist()), strict=True):
        visible = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool)
        if causal:
            visible = visible.tril(k1 - k0 - (q1 - q0))
        seen = visible.any(1)
        queries, keys, values = (t.transpose(0, 1)[None] for t in (q[q0:q1], k[k0:k1], v[k0:k1]))
        result = F.scaled_dot_product_attention(queries[:, :, seen], keys, values, visible[seen], enable_gqa=True)
        out[q0:q1][seen] = result[0].transpose(0, 1)
    return out


CROSS = [(0, 5), (1, 1), (7, 0), (13, 40), (40, 13), (130, 129), (3, 300), (2, 2)]


@pytest.mark.parametrize("causal", [False, True])
def test_the_reference_is_pytorchs_attention(causal: bool) -> None:
    cu_q, cu_k = (offsets(lengths) for lengths in zip(*CROSS, strict=True))
    q, k, v = (t.double() for t in inputs(int(cu_q[-1]), int(cu_k[-1]), 24))
    expected = per_segment(q, k, v, cu_q, cu_k, causal)
    torch.testing.assert_close(varlen_attention(q, k, v, cu_q, cu_k, causal=causal), expected)
    torch.testing.assert_close(MASKED(q, k, v, cu_q, cu_k, causal, 24**-0.5), expected)


def test_the_reference_computes_in_float32_and_differentiates() -> None:
    q, k, v = inputs(9, 9, 8)
    cu = offsets([4, 0, 4])
    half = [t.bfloat16() for t in (q, k, v)]
    exact = varlen_attention(*(t.float() for t in half), cu, backend="reference")
    assert torch.equal(varlen_attention(*half, cu), exact.bfloat16())
    wide = [t.double().requires_grad_() for t in inputs(5, 5, 3, heads=2, kv_heads=1)]
    cu_q, cu_k = offsets([3, 0, 1]), offsets([2, 0, 2])  # the first query sees no key, the last lies in no segment
    bias = torch.randn(5).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *t: varlen_attention_reference(*t[:3], cu_q, cu_k, True, 0.3, t[3]), (*wide, bias)
    )


def test_the_scale_is_optional() -> None:
    q, k, v = inputs(6, 6, 16)
    cu, everything = offsets([6]), torch.ones(6, 6, dtype=torch.bool)
    for backend in ("reference", "cpu"):
        for scale in (None, 0.5, -0.25):
            got = varlen_attention(q, k, v, cu, scale=scale, backend=backend)
            torch.testing.assert_close(got, attend(q, k, v, everything, 0.25 if scale is None else scale))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", [32, 64, 72, 80, 96, 128, 256])
def test_cpu_of_the_tuned_head_dims(head_dim: int, causal: bool) -> None:
    cu = offsets([0, 1, 17, 130, 97])
    check_cpu(varlen_attention, *inputs(245, 245, head_dim), cu, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", [1, 17])
def test_cpu_of_ragged_lengths(head_dim: int, causal: bool) -> None:
    cu = offsets(LENGTHS)
    check_cpu(varlen_attention, *inputs(int(cu[-1]), int(cu[-1]), head_dim), cu, causal=causal)
    cu_q, cu_k = (offsets(lengths) for lengths in zip(*CROSS, strict=True))
    check_cpu(varlen_attention, *inputs(int(cu_q[-1]), int(cu_k[-1]), head_dim), cu_q, cu_k, causal=causal)


def test_cpu_of_wide_heads() -> None:
    check_cpu(varlen_attention, *inputs(150, 150, 521, heads=1, kv_heads=1), offsets([113, 37]))


def test_triton_has_no_wide_heads() -> None:
    arguments = *inputs(3, 3, 257), offsets([3])
    with pytest.raises(ValueError, match="there is no Triton kernel of varlen_attention of wide heads"):
        varlen_attention(*arguments, backend="triton")
    with using("triton"):
        assert torch.equal(varlen_attention(*arguments), varlen_attention(*arguments, backend="reference"))


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
def test_cpu_groups_heads(kv_heads: int) -> None:
    check_cpu(varlen_attention, *inputs(60, 60, 16, heads=6, kv_heads=kv_heads), offsets([20, 40]))


@pytest.mark.parametrize("causal", [False, True])
def test_cpu_adds_a_bias_to_each_key(causal: bool) -> None:
    cu_q, cu_k = (offsets(lengths) for lengths in zip(*CROSS, strict=True))
    q, k, v = inputs(int(cu_q[-1]), int(cu_k[-1]), 17)
    bias = torch.randn(len(k), generator=torch.Generator().manual_seed(0)) * 3
    biased = check_cpu(varlen_attention, q, k, v, cu_q, cu_k, causal=causal, key_bias=bias)[0]
    strided = torch.stack((bias, bias), 1)[:, 0]
    assert_same_bits(varlen_attention(q, k, v, cu_q, cu_k, causal=causal, key_bias=strided, backend="cpu"), biased)
    plain = varlen_attention(q, k, v, cu_q, cu_k, causal=causal, backend="cpu")
    for constant in (0.0, -0.0):
        zeros = torch.full_like(bias, constant)
        got = varlen_attention(q, k, v, cu_q, cu_k, causal=causal, key_bias=zeros, backend="cpu")
        assert_same_bits(got, plain, f"bias {constant}")
    masked = MASKED(q, k, v, cu_q, cu_k, causal, 17**-0.5, bias)
    torch.testing.assert_close(masked, biased)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_bias_log_n_stands_for_n_equal_keys(backend: str) -> None:
    q, k, v = inputs(20, 30, 32)
    counts = torch.ones(30, dtype=torch.int64)
    counts[12], counts[29] = 7, 400
    cu_q, cu_k = offsets([9, 11]), offsets([13, 17])
    repeated = (k.repeat_interleave(counts, 0), v.repeat_interleave(counts, 0))
    expected = varlen_attention(q, *repeated, cu_q, offsets([19, 416]), backend="reference")
    got = varlen_attention(q, k, v, cu_q, cu_k, key_bias=counts.log(), backend=backend)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_rows_outside_every_segment_are_zero(backend: str) -> None:
    q, k, v = inputs(20, 20, 8)
    out = varlen_attention(q, k, v, offsets([4, 6], start=3), offsets([2, 9], start=5), backend=backend)
    assert not out[:3].any()
    assert not out[13:].any()
    assert out[3:13].all()
    assert not varlen_attention(q, k, v, offsets([]), backend=backend).any()
    assert not varlen_attention(q, k[:0], v[:0], offsets([20]), offsets([0]), backend=backend).any()
    late = varlen_attention(q, k, v, offsets([20]), offsets([8]), causal=True, backend=backend)
    assert not late[:12].any()  # causal aligns the last query with the last key
    assert late[12:].all()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_nan_stays_in_its_segment(backend: str) -> None:
    lengths = [40, 130, 1, 60]
    cu = offsets(lengths)
    clean = [t.clone() for t in inputs(231, 231, 32)]
    expected = varlen_attention(*clean, cu, backend=backend)
    for value in (torch.nan, torch.inf):
        q, k, v = (t.clone() for t in clean)
        for t in (q, k, v):
            t[40:170] = value
        got = varlen_attention(q, k, v, cu, backend=backend)
        assert_same_bits(got[:40], expected[:40])
        assert_same_bits(got[170:], expected[170:])
        assert got[40:170].isnan().all()


def test_cpu_passes_on_nan_and_inf_within_a_segment() -> None:
    cu = offsets([30, 150])
    for place in range(3):
        for value in (torch.nan, torch.inf, -torch.inf):
            tensors = list(inputs(180, 180, 16))
            tensors[place][45, 1, 3] = value
            check_cpu(varlen_attention, *tensors, cu)
    q, k, v = inputs(180, 180, 16)
    k[30:170] = -torch.inf  # whole key blocks whose every score is -inf
    check_cpu(varlen_attention, q.abs(), k, v, cu)


def test_cpu_causal_queries_see_nothing_of_the_future() -> None:
    q, k, v = inputs(300, 300, 32)
    whole = varlen_attention(q, k, v, offsets([300]), causal=True, backend="cpu")
    for end in (1, 13, 14, 127, 128, 129, 200):
        k_past, v_past = k.clone(), v.clone()
        k_past[end:], v_past[end:] = torch.nan, torch.inf
        blind = varlen_attention(q, k_past, v_past, offsets([300]), causal=True, backend="cpu")
        assert_same_bits(blind[:end], whole[:end], f"first {end} of 300")
        last = varlen_attention(
            q[end - 1 : end], k[:end], v[:end], offsets([1]), offsets([end]), causal=True, backend="cpu"
        )
        assert_same_bits(last[0], whole[end - 1], f"query {end - 1} alone")


@pytest.mark.parametrize("causal", [False, True])
def test_cpu_segments_alone_together_and_in_any_order(causal: bool) -> None:
    cu = offsets(LENGTHS)
    q, k, v = inputs(int(cu[-1]), int(cu[-1]), 64)
    whole = varlen_attention(q, k, v, cu, causal=causal, backend="cpu")
    pieces = [slice(a, b) for a, b in pairwise(cu.tolist())]
    for piece in pieces:
        alone = (q[piece], k[piece], v[piece], offsets([piece.stop - piece.start]))
        assert_same_bits(varlen_attention(*alone, causal=causal, backend="cpu"), whole[piece])
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(0)).tolist()
    index = torch.cat([torch.arange(pieces[s].start, pieces[s].stop) for s in order])
    mixed = varlen_attention(
        q[index], k[index], v[index], offsets([LENGTHS[s] for s in order]), causal=causal, backend="cpu"
    )
    assert_same_bits(mixed, whole[index])


def test_cpu_queries_do_not_depend_on_each_other() -> None:
    q, k, v = inputs(250, 300, 72)
    whole = varlen_attention(q, k, v, offsets([250]), offsets([300]), backend="cpu")
    for first, last in ((0, 1), (5, 19), (100, 250), (249, 250)):
        some = varlen_attention(q[first:last], k, v, offsets([last - first]), offsets([300]), backend="cpu")
        assert_same_bits(some, whole[first:last])


def test_cpu_reads_a_fused_projection_in_place() -> None:
    q, k, v = inputs(70, 70, 24, kv_heads=4)
    cu = offsets([30, 40])
    expected = varlen_attention(q, k, v, cu, backend="cpu")
    for dim in (1, 2):
        views = torch.stack((q, k, v), dim).unbind(dim)
        assert_same_bits(varlen_attention(*views, cu, backend="cpu"), expected)
    last_strided = [t.transpose(0, 2).contiguous().transpose(0, 2) for t in (q, k, v)]
    assert_same_bits(varlen_attention(*last_strided, cu, backend="cpu"), expected)


def test_a_work_table_changes_nothing_on_the_cpu() -> None:
    q, k, v = inputs(70, 70, 24)
    cu = offsets([30, 40])
    work = torch.tensor([[1, 0], [0, 0]], dtype=torch.int32)
    assert_same_bits(varlen_attention(q, k, v, cu, work=work, max_seqlen=64), varlen_attention(q, k, v, cu))


def test_large_scores_stay_accurate() -> None:
    q, k, v = inputs(200, 200, 64)
    cu = offsets([200])
    exact = varlen_attention((q * 20).double(), k.double(), v.double(), cu)
    plain = varlen_attention(q * 20, k, v, cu, backend="reference")
    assert_accurate(varlen_attention(q * 20, k, v, cu, backend="cpu"), plain, exact)


def test_bad_arguments() -> None:
    q, k, v = inputs(10, 12, 8)
    cu_q, cu_k = offsets([4, 6]), offsets([5, 7])
    for arguments, options, message in [
        ((q[0], k, v, cu_q, cu_k), {}, r"q is float32 \[4, 8\]"),
        ((q, k[..., :7], v, cu_q, cu_k), {}, r"k is float32 \[12, 2, 7\] on cpu; allowed: float32 \[any, any, 8\]"),
        ((q, k, v[:11], cu_q, cu_k), {}, r"v is float32 \[11, 2, 8\] on cpu; allowed: float32 \[12, 2, 8\]"),
        ((q, k, v.half(), cu_q, cu_k), {}, "v is float16"),
        ((q[:, :3], k, v, cu_q, cu_k), {}, "q has 3 heads; allowed: multiples of the 2 of k"),
        ((q, k, v, cu_q.long(), cu_k), {}, r"cu_seqlens_q is int64 \[3\] on cpu; allowed: int32 \[any\]"),
        ((q, k, v, offsets([6, -2]), cu_k), {}, r"cu_seqlens_q\[2\] is 4; allowed: 6 to 10"),
        ((q, k, v, offsets([4, 7]), cu_k), {}, r"cu_seqlens_q\[2\] is 11; allowed: 4 to 10"),
        ((q, k, v, cu_q, offsets([12])), {}, r"cu_seqlens_k is int32 \[2\] on cpu; allowed: int32 \[3\]"),
        ((q, k, v, cu_q, offsets([12, 1])), {}, r"cu_seqlens_k\[2\] is 13"),
        ((q, k, v, cu_q, cu_k), {"work": torch.zeros(3, dtype=torch.int32)}, r"work is int32 \[3\]"),
        ((*inputs(3, 3, 0), offsets([3])), {}, "head dim is 0; allowed: at least 1"),
        (
            (q, k, v, cu_q, cu_k),
            {"key_bias": torch.zeros(10)},
            r"key_bias is float32 \[10\] on cpu; allowed: .* \[12\]",
        ),
        ((q, k, v, cu_q, cu_k), {"key_bias": torch.zeros(12).half()}, "key_bias is float16"),
        ((q, k, v, cu_q, cu_k), {"key_bias": torch.zeros(12) / 0}, r"key_bias\[0\] is nan; allowed: finite numbers"),
    ]:
        with pytest.raises(ValueError, match=f"^varlen_attention: {message}"):
            varlen_attention(*arguments, **options)


def test_op() -> None:
    arguments = (*inputs(10, 10, 8), offsets([4, 6]), offsets([4, 6]), True, 0.3)
    torch.library.opcheck(torch.ops.packdit.varlen_attention.default, arguments)
    torch.library.opcheck(torch.ops.packdit.varlen_attention.default, (*arguments, torch.zeros(10)))
