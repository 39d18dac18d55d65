from collections.abc import Iterator

import pytest
import torch

from packdit.kernels import varlen_attention
from packdit.kernels.testing import LENGTHS, check_triton, offsets
from packdit.kernels.tuning import Trial

pytest.importorskip("triton")

from packdit.kernels.interpreter import strict
from packdit.kernels.triton_attention import AttentionKey, candidates
from packdit.kernels.triton_attention_tma import fits


def inputs(tokens: int, keys: int, head_dim: int = 64, heads: int = 4, kv_heads: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(tokens * 1000 + head_dim)
    q = torch.randn(tokens, heads, head_dim, generator=generator) * 2
    k, v = torch.randn(2, keys, kv_heads, head_dim, generator=generator)
    return q.bfloat16(), k.bfloat16(), v.bfloat16()


@pytest.fixture(autouse=True, params=["specialized", "engine"])
def chosen(request: pytest.FixtureRequest) -> Iterator[None]:
    key = AttentionKey(arch=90, dtype=torch.bfloat16, head_dim=64, causal=False, biased=False)
    config = next(cut for cut in candidates(key) if cut.fetch == request.param)
    with Trial(kernel="attention", key=key, config=config, chosen=False).applied():
        yield


def test_ragged_lengths_and_rows_in_no_segment() -> None:
    cu = offsets(LENGTHS, start=3)
    tokens = int(cu[-1]) + 140
    (got,) = check_triton(varlen_attention, *inputs(tokens, tokens), cu)
    assert not got[:3].any()
    assert not got[-140:].any()


def test_cross_and_no_keys() -> None:
    lengths = [(0, 5), (1, 1), (7, 0), (13, 40), (130, 129), (3, 200), (2, 2)]
    cu_q, cu_k = (offsets(column) for column in zip(*lengths, strict=True))
    check_triton(varlen_attention, *inputs(int(cu_q[-1]), int(cu_k[-1])), cu_q, cu_k)
    check_triton(varlen_attention, *inputs(4, 0), offsets([4]), offsets([0]))
    check_triton(varlen_attention, *inputs(4, 4), offsets([0, 0], start=4), offsets([0, 0]))
    check_triton(varlen_attention, *inputs(4, 4), offsets([]), offsets([]))


def test_a_neighbours_nan_stays_with_it() -> None:
    cu = offsets([37, 50, 0, 41])
    q, k, v = inputs(128, 128)
    with strict():
        clean = varlen_attention(q, k, v, cu, backend="triton")
        for x in (q, k, v):
            x[37:87] = torch.nan
        got = varlen_attention(q, k, v, cu, backend="triton")
    assert got[37:87].isnan().all()
    assert torch.equal(got[:37], clean[:37])
    assert torch.equal(got[87:], clean[87:])


def test_what_it_cannot_take_goes_through_pointers() -> None:
    q, k, v = inputs(30, 30)
    assert fits(q, k, v, False, 0.1, None)
    assert not fits(q, k, v, True, 0.1, None)
    assert not fits(q, k, v, False, -0.1, None)
    assert not fits(q, k, v, False, 0.1, torch.zeros(30))
    assert not fits(q.float(), k.float(), v.float(), False, 0.1, None)
    assert not fits(*inputs(30, 30, 72), False, 0.1, None)
    odd = [torch.cat((x, x[..., :1]), 2)[..., :-1] for x in (q, k, v)]
    assert not fits(*odd, False, 0.1, None)
    check_triton(varlen_attention, *odd, offsets([10, 20]))
    check_triton(varlen_attention, q, k, v, offsets([10, 20]), scale=-0.1)
    check_triton(varlen_attention, q, k, v, offsets([10, 20]), key_bias=torch.arange(30.0) / 10)
    fused = torch.stack((q, q, q), 1).unbind(1)
    assert fits(*fused, False, 0.1, None)
    check_triton(varlen_attention, *fused, offsets([10, 20]))
