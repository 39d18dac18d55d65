from itertools import pairwise

import pytest
import torch

from packdit.kernels import varlen_attention, varlen_attention_fp8
from packdit.kernels.testing import LENGTHS, error, offsets
from packdit.kernels.varlen_attention_fp8 import KEY_BLOCK, key_groups


def inputs(tokens: int, keys: int, head_dim: int, heads: int = 4, kv_heads: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(tokens * 1000 + head_dim)
    q = torch.randn(tokens, heads, head_dim, generator=generator) * 2
    k, v = torch.randn(2, keys, kv_heads, head_dim, generator=generator)
    return q, k, v


def test_it_is_attention_but_for_e4m3() -> None:
    cu = offsets(LENGTHS, start=2)
    q, k, v = inputs(int(cu[-1]) + 3, int(cu[-1]) + 3, 64)
    exact = varlen_attention(q, k, v, cu)
    got = varlen_attention_fp8(q, k, v, cu)
    assert 1e-3 < error(got, exact.double()) < 0.1
    assert not got[:2].any()
    assert not got[-3:].any()


def test_values_that_e4m3_holds_are_exact() -> None:
    q = torch.zeros(3, 1, 16)
    v = torch.tensor([448.0, 1.0, -2.0, 0.5]).repeat(3)[:, None, None].expand(12, 1, 16)
    cu_q, cu_k = offsets([3]), offsets([12])
    torch.testing.assert_close(varlen_attention_fp8(q, v, v, cu_q, cu_k), varlen_attention(q, v, v, cu_q, cu_k))


def test_groups_stay_in_their_segment() -> None:
    lengths = [0, 1, 200, 128, 300, 0, 127]
    cu = offsets(lengths, start=50)
    segment, block = key_groups(900, cu)
    assert segment[:50].eq(-1).all()
    assert block[:50].eq(-1).all()
    for index, (start, end) in enumerate(pairwise(cu.tolist())):
        assert segment[start:end].eq(index).all()
        first = int(cu[index]) // KEY_BLOCK + index
        assert torch.equal(block[start:end], first + torch.arange(end - start) // KEY_BLOCK)
    assert block.max() < 900 // KEY_BLOCK + len(lengths)
    for one, other in pairwise(block[50:].unique_consecutive().tolist()):
        assert one < other or other == -1


def test_companions_change_nothing() -> None:
    q, k, v = inputs(400, 400, 32)
    cu = offsets([130, 270])
    whole = varlen_attention_fp8(q, k, v, cu)
    loud = [x.clone() for x in (q, k, v)]
    for x in loud:
        x[130:] *= 1000
    assert torch.equal(varlen_attention_fp8(*loud, cu)[:130], whole[:130])
    alone = varlen_attention_fp8(q[130:], k[130:], v[130:], offsets([270]))
    torch.testing.assert_close(alone, whole[130:])


def test_bad_arguments() -> None:
    q, k, v = inputs(10, 10, 8)
    cu = offsets([4, 6])
    for arguments, options, message in [
        ((q[0], k, v, cu), {}, r"q is float32 \[4, 8\]"),
        ((q, k, v, cu.long()), {}, "cu_seqlens_q is int64"),
        ((*inputs(3, 3, 257), offsets([3])), {}, "head dim is 257; allowed: 1 to 256"),
        ((q, k, v, cu), {"scale": 0.0}, "scale is 0.0; allowed: above 0"),
        ((q, k, v, cu), {"backend": "cpu"}, "there is no C.. kernel of varlen_attention_fp8; allowed here: reference"),
    ]:
        with pytest.raises(ValueError, match=f"^varlen_attention_fp8: .*{message}"):
            varlen_attention_fp8(*arguments, **options)
