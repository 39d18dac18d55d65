import pytest
import torch

from packdit.kernels import varlen_attention, varlen_attention_fp8
from packdit.kernels.testing import LENGTHS, assert_accurate, assert_same_bits, offsets
from packdit.kernels.varlen_attention import QUERY_BLOCK
from packdit.kernels.varlen_attention_fp8 import KEY_BLOCK

pytest.importorskip("triton")

from packdit.kernels.interpreter import strict
from packdit.kernels.triton_attention_fp8 import Fp8Key, tiles

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def inputs(
    tokens: int, keys: int, head_dim: int, dtype: torch.dtype = torch.bfloat16, heads: int = 2, kv_heads: int = 1
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(tokens * 1000 + head_dim)
    q = torch.randn(tokens, heads, head_dim, generator=generator) * 2
    k, v = torch.randn(2, keys, kv_heads, head_dim, generator=generator)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *offsets: torch.Tensor, **options: object) -> torch.Tensor:
    """The kernel loses at most twice what the definition in PyTorch does, against attention in float64."""
    exact = varlen_attention(q.double(), k.double(), v.double(), *offsets)
    plain = varlen_attention_fp8(q, k, v, *offsets, backend="reference")
    with strict():
        got = varlen_attention_fp8(q, k, v, *offsets, backend="triton", **options)
    assert_accurate(got, plain, exact)
    return got


@pytest.mark.parametrize("dtype", DTYPES)
def test_ragged_lengths(dtype: torch.dtype) -> None:
    cu = offsets(LENGTHS, start=3)
    tokens = int(cu[-1]) + 140
    got = check(*inputs(tokens, tokens, 32, dtype), cu)
    assert not got[:3].any()
    assert not got[-140:].any()


def test_cross_and_no_keys() -> None:
    lengths = [(0, 5), (1, 1), (7, 0), (13, 40), (130, 129), (3, 300), (2, 2)]
    cu_q, cu_k = (offsets(column) for column in zip(*lengths, strict=True))
    check(*inputs(int(cu_q[-1]), int(cu_k[-1]), 32), cu_q, cu_k)
    check(*inputs(4, 0, 32), offsets([4]), offsets([0]))
    check(*inputs(0, 0, 32), offsets([0]))


@pytest.mark.parametrize("head_dim", [1, 17, 64, 72, 80, 96, 128, 256])
def test_head_dims(head_dim: int) -> None:
    check(*inputs(70, 70, head_dim), offsets([3, 67]))


def test_groups_of_heads_and_views() -> None:
    q, k, v = inputs(60, 60, 32, heads=6, kv_heads=6)
    cu = offsets([10, 50])
    fused = torch.stack((q, k, v), 1).unbind(1)
    assert torch.equal(check(*fused, cu), check(q, k, v, cu))
    check(q, k[:, :3], v[:, ::2], cu)


def test_a_neighbours_nan_stays_with_it_and_scales_too() -> None:
    cu = offsets([37, 50, 0, 141])
    q, k, v = inputs(228, 228, 32)
    with strict():
        clean = varlen_attention_fp8(q, k, v, cu, backend="triton")
        for value in (torch.nan, 1e4):
            loud = [x.clone() for x in (q, k, v)]
            for x in loud:
                x[37:87] = value
            got = varlen_attention_fp8(*loud, cu, backend="triton")
            assert torch.equal(got[:37], clean[:37])
            assert torch.equal(got[87:], clean[87:])
            assert got[37:87].isnan().all() or value == 1e4


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_becomes_nan(value: float) -> None:
    q, k, v = inputs(70, 70, 32)
    q[3, 1, 5] = k[20, 0, 4] = v[60, 0, 7] = value
    with strict():
        got = varlen_attention_fp8(q, k, v, offsets([10, 30, 30]), backend="triton")
    expected = torch.zeros(70, 2, 32, dtype=torch.bool)
    expected[3, 1] = expected[10:40] = expected[40:, :, 7] = True
    assert torch.equal(got.isnan(), expected)


def test_segments_are_alone_in_any_order() -> None:
    lengths = [0, 1, 33, 128, 0, 164]
    cu, order = offsets(lengths), [3, 0, 5, 2, 4, 1]
    q, k, v = inputs(int(cu[-1]), int(cu[-1]), 32, torch.float32)
    index = torch.cat([torch.arange(int(cu[s]), int(cu[s + 1])) for s in order])
    with strict():
        whole = varlen_attention_fp8(q, k, v, cu, backend="triton")
        mixed = varlen_attention_fp8(
            q[index], k[index], v[index], offsets([lengths[s] for s in order]), backend="triton"
        )
    assert_same_bits(mixed, whole[index])


def test_a_gpu_that_cannot_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packdit.kernels.triton_fp8.current_arch", lambda: 80)
    with strict(), pytest.raises(ValueError, match=r"the GPU's capability is 8.0; allowed: 8.9 or more"):
        varlen_attention_fp8(*inputs(3, 3, 8), offsets([3]), backend="triton")


def test_every_choice_divides_the_blocks() -> None:
    for head_dim in (32, 72, 128, 256):
        key = Fp8Key(arch=90, dtype=torch.bfloat16, head_dim=head_dim)
        for cut in (tiles(key), *tiles.candidates(key)):
            assert QUERY_BLOCK % cut.block_m == KEY_BLOCK % cut.block_n == 0


def test_op() -> None:
    with strict():
        for keys in (None, offsets([4, 6])):
            arguments = (*inputs(10, 10, 32), offsets([4, 6]), keys, None, 0.3)
            torch.library.opcheck(torch.ops.packdit.varlen_attention_fp8_triton.default, arguments)
