import pytest
import torch

from packdit.kernels import varlen_attention
from packdit.kernels.testing import LENGTHS, assert_same_bits, check_triton, offsets
from packdit.kernels.varlen_attention import QUERY_BLOCK
from packdit.runtime.plan import work_table

pytest.importorskip("triton")

from packdit.kernels.interpreter import strict
from packdit.kernels.triton_attention import AttentionKey, tiles

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CROSS = [(0, 5), (1, 1), (7, 0), (13, 40), (40, 13), (130, 129), (3, 200), (2, 2)]


def inputs(
    tokens: int, keys: int, head_dim: int, dtype: torch.dtype = torch.float32, heads: int = 2, kv_heads: int = 1
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(tokens * 1000 + head_dim)
    q = torch.randn(tokens, heads, head_dim, generator=generator) * 2
    k, v = torch.randn(2, keys, kv_heads, head_dim, generator=generator)
    return q.to(dtype), k.to(dtype), v.to(dtype)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ragged_lengths(dtype: torch.dtype, causal: bool) -> None:
    cu = offsets(LENGTHS)
    check_triton(varlen_attention, *inputs(int(cu[-1]), int(cu[-1]), 32, dtype), cu, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross(dtype: torch.dtype, causal: bool) -> None:
    cu_q, cu_k = (offsets(lengths) for lengths in zip(*CROSS, strict=True))
    check_triton(varlen_attention, *inputs(int(cu_q[-1]), int(cu_k[-1]), 24, dtype), cu_q, cu_k, causal=causal)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [1, 17, 64, 72, 80, 96, 128, 256])
def test_head_dims(head_dim: int, dtype: torch.dtype) -> None:
    check_triton(varlen_attention, *inputs(70, 70, head_dim, dtype), offsets([3, 67]), causal=True)


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 6])
def test_groups_of_heads(kv_heads: int) -> None:
    check_triton(varlen_attention, *inputs(30, 30, 16, heads=6, kv_heads=kv_heads), offsets([10, 20]))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_for_each_key(dtype: torch.dtype, causal: bool) -> None:
    cu_q, cu_k = (offsets(lengths) for lengths in zip(*CROSS, strict=True))
    q, k, v = inputs(int(cu_q[-1]), int(cu_k[-1]), 32, dtype)
    bias = torch.randn(len(k), 2, generator=torch.Generator().manual_seed(0))[:, 0] * 4
    check_triton(varlen_attention, q, k, v, cu_q, cu_k, causal=causal, key_bias=bias)


def test_the_bias_log_n_stands_for_n_equal_keys() -> None:
    q, k, v = inputs(20, 30, 32)
    counts = torch.ones(30, dtype=torch.int64)
    counts[12], counts[29] = 7, 400
    repeated = (k.repeat_interleave(counts, 0), v.repeat_interleave(counts, 0))
    expected = varlen_attention(q, *repeated, offsets([9, 11]), offsets([19, 416]), backend="reference")
    with strict():
        got = varlen_attention(
            q, k, v, offsets([9, 11]), offsets([13, 17]), key_bias=counts.log().float(), backend="triton"
        )
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_rows_in_no_segment_are_zero() -> None:
    q, k, v = inputs(20, 30, 16)
    for cu_q, cu_k in ((offsets([6, 5], start=3), offsets([10, 4], start=9)), (offsets([]), offsets([]))):
        got, *_ = check_triton(varlen_attention, q, k, v, cu_q, cu_k)
        assert not got[: cu_q[0]].any()
        assert not got[cu_q[-1] :].any()
    check_triton(varlen_attention, q[:0], k[:0], v[:0], offsets([0, 0]))


@pytest.mark.parametrize("causal", [False, True])
def test_a_neighbours_nan_stays_with_it(causal: bool) -> None:
    cu = offsets([37, 50, 0, 41])
    q, k, v = inputs(128, 128, 32, torch.float16)
    with strict():
        clean = varlen_attention(q, k, v, cu, causal=causal, backend="triton")
        for x in (q, k, v):
            x[37:87] = torch.nan
        got = varlen_attention(q, k, v, cu, causal=causal, backend="triton")
    assert got[37:87].isnan().all()
    assert torch.equal(got[:37], clean[:37])
    assert torch.equal(got[87:], clean[87:])


@pytest.mark.parametrize(("dtype", "head_dim"), [(torch.float32, 32), (torch.bfloat16, 80)])
def test_what_comes_later_stays_later(dtype: torch.dtype, head_dim: int) -> None:
    q, k, v = inputs(150, 150, head_dim, dtype)
    with strict():
        clean = varlen_attention(q, k, v, offsets([150]), causal=True, backend="triton")
        for first, value in ((70, torch.nan), (133, torch.inf)):
            later_k, later_v = k.clone(), v.clone()
            later_k[first:], later_v[first:] = torch.nan, value
            got = varlen_attention(q, later_k, later_v, offsets([150]), causal=True, backend="triton")
            assert torch.equal(got[:first], clean[:first])
            assert got[first:].isnan().all()


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_what_is_not_finite_is_passed_on_to_those_who_see_it(value: float) -> None:
    q, k, v = inputs(150, 150, 80, torch.bfloat16)
    with strict():
        clean = varlen_attention(q, k, v, offsets([150]), causal=True, backend="triton")
        for key, column in ((3, 5), (100, 70), (149, 79)):
            v[key, 0, column] = value
            clean[key:, :, column] = value
        got = varlen_attention(q, k, v, offsets([150]), causal=True, backend="triton")
    torch.testing.assert_close(got, clean, rtol=0, atol=0, equal_nan=True)
    check_triton(varlen_attention, q, k, v, offsets([150]))


@pytest.mark.parametrize("causal", [False, True])
def test_segments_are_alone_in_any_order(causal: bool) -> None:
    lengths = [0, 1, 33, 128, 0, 64]
    cu, order = offsets(lengths), [3, 0, 5, 2, 4, 1]
    q, k, v = inputs(int(cu[-1]), int(cu[-1]), 24)
    index = torch.cat([torch.arange(int(cu[s]), int(cu[s + 1])) for s in order])
    with strict():
        whole = varlen_attention(q, k, v, cu, causal=causal, backend="triton")
        mixed = (q[index], k[index], v[index], offsets([lengths[s] for s in order]))
        assert_same_bits(varlen_attention(*mixed, causal=causal, backend="triton"), whole[index])
        piece = slice(int(cu[2]), int(cu[3]))
        alone = varlen_attention(q[piece], k[piece], v[piece], offsets([33]), causal=causal, backend="triton")
    assert_same_bits(alone, whole[piece])


def test_it_reads_a_fused_projection_in_place() -> None:
    q, k, v = inputs(40, 40, 24, heads=2, kv_heads=2)
    cu = offsets([15, 25])
    with strict():
        expected = varlen_attention(q, k, v, cu, backend="triton")
        for dim in (1, 2):
            views = torch.stack((q, k, v), dim).unbind(dim)
            assert_same_bits(varlen_attention(*views, cu, backend="triton"), expected)
        last_strided = [t.transpose(0, 2).contiguous().transpose(0, 2) for t in (q, k, v)]
        assert_same_bits(varlen_attention(*last_strided, cu, backend="triton"), expected)


def test_large_scores_and_any_scale() -> None:
    q, k, v = inputs(90, 90, 64)
    check_triton(varlen_attention, q * 20, k, v, offsets([90]))
    for scale in (0.0, -0.25):
        check_triton(varlen_attention, q, k, v, offsets([90]), scale=scale)


def test_the_planners_table_padded_with_nothing_to_do() -> None:
    q, k, v = inputs(300, 300, 16)
    cu = offsets([30, 270])
    planned = torch.from_numpy(work_table(cu.numpy(), QUERY_BLOCK)).int()
    work = torch.cat((planned, torch.full((3, 2), -1, dtype=torch.int32)))
    with strict():
        got = varlen_attention(q, k, v, cu, work=work, backend="triton")
        assert_same_bits(got, varlen_attention(q, k, v, cu, backend="triton"))


def test_tables_of_any_size() -> None:
    q, k, v = inputs(300, 300, 16)
    cu = offsets([30, 140], start=60)
    planned = torch.from_numpy(work_table(offsets([30, 140]).numpy(), QUERY_BLOCK)).int()
    for spare in (0, 9):  # fewer than rows outside, more
        work = torch.cat((planned, torch.tensor([[-1, 0]], dtype=torch.int32).expand(spare, 2)))
        check_triton(varlen_attention, q, k, v, cu, work=work)


def test_every_choice_divides_the_unit_of_the_table() -> None:
    for arch in (80, 89, 90, 100, 103, 120):
        for dtype in DTYPES:
            for head_dim in (32, 72, 128, 256):
                key = AttentionKey(arch=arch, dtype=dtype, head_dim=head_dim, causal=arch % 2 == 0, biased=False)
                for cut in (tiles(key), *tiles.candidates(key)):
                    assert QUERY_BLOCK % cut.block_m == 0


def test_op() -> None:
    arguments = (*inputs(10, 10, 8), offsets([4, 6]), offsets([4, 6]), None, True, 0.3)
    with strict():
        torch.library.opcheck(torch.ops.packdit.varlen_attention_triton.default, arguments)
        torch.library.opcheck(torch.ops.packdit.varlen_attention_triton.default, (*arguments, torch.zeros(10)))
