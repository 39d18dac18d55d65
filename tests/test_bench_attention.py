import pytest
import torch

from packdit.bench.attention import AttentionShape, attention, by_library
from packdit.bench.problem import Judge
from packdit.kernels import varlen_attention
from packdit.kernels.testing import offsets

CPU = torch.device("cpu")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keys", [None, (4, 9, 0, 2)])
def test_the_compared_rows_are_those_of_the_definition(causal: bool, keys: tuple[int, ...] | None) -> None:
    shape = AttentionShape(lengths=(5, 3, 2, 40), heads=2, head_dim=8, key_lengths=keys, causal=causal)
    problem = attention(shape, torch.float32, CPU, rows_compared=32)
    q, k, v = problem.inputs
    cu_q, cu_k = offsets(shape.lengths), offsets(shape.keys)
    whole = varlen_attention(q.double(), k.double(), v.double(), cu_q, cu_k, causal=causal, backend="reference")
    (part,) = problem.exact()
    assert torch.allclose(part, problem.select((whole,))[0], atol=1e-14)
    assert part.shape[0] == 5 + 3 + 2 + 8  # of the long one only some
    assert Judge(problem, torch.float32).error(lambda: problem.run("cpu")) < 1e-5


@pytest.mark.parametrize(
    ("lengths", "keys", "causal", "pairs"),
    [((3, 2), None, False, 13), ((3, 2), None, True, 9), ((3,), (5,), True, 12), ((5,), (3,), True, 6)],
)
def test_pairs_that_are_seen(lengths: tuple[int, ...], keys: tuple[int, ...] | None, causal: bool, pairs: int) -> None:
    shape = AttentionShape(lengths=lengths, heads=2, head_dim=4, key_lengths=keys, causal=causal)
    assert shape.pairs == pairs
    assert attention(shape, torch.float32, CPU).flops == 4 * 2 * 4 * pairs


def test_bytes_of_grouped_heads() -> None:
    shape = AttentionShape(lengths=(10,), heads=4, head_dim=8, kv_heads=2)
    assert shape.moved(torch.bfloat16) == (2 * 4 + 2 * 2) * 10 * 8 * 2
    assert not attention(shape, torch.float32, CPU).peers


def test_peers_are_left_out_where_they_compute_something_else() -> None:
    unequal = AttentionShape(lengths=(3, 5), heads=1, head_dim=8, key_lengths=(4, 5), causal=True)
    assert not attention(unequal, torch.float32, CPU).peers
    equal = AttentionShape(lengths=(3, 5), heads=1, head_dim=8, causal=True)
    assert set(attention(equal, torch.float32, CPU).peers) == {"eager"}


def test_a_library_is_told_the_longest_segments() -> None:
    def library(*given: object) -> torch.Tensor:
        assert given[5:7] == (9, 5)
        assert given[7] is True
        assert given[8] == 0.5
        return torch.ones(2)

    q = torch.ones(3, 1, 4)
    (out,) = by_library(library, q, q, q, offsets([3]), offsets([3]), (9, 5), True)
    assert torch.equal(out, torch.ones(2))
