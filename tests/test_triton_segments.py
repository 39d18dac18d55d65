import pytest
import torch

from packdit.kernels.testing import LENGTHS, offsets
from packdit.kernels.varlen_attention import QUERY_BLOCK
from packdit.runtime.plan import work_table

pytest.importorskip("triton")

from packdit.kernels.triton_segments import make_work, new_output, split_dim


@pytest.mark.parametrize("lengths", [[], [0], [5], [128], [129, 0, 1], LENGTHS])
def test_the_table_made_on_the_device_is_the_planners(lengths: list[int]) -> None:
    planned = torch.from_numpy(work_table(offsets(lengths).numpy(), QUERY_BLOCK)).int()
    made = make_work(offsets(lengths, start=7), sum(lengths) + 20, QUERY_BLOCK)
    assert made[made[:, 0] >= 0].tolist() == planned.tolist()
    assert made.shape == (-(-(sum(lengths) + 20) // QUERY_BLOCK) + len(lengths), 2)


def test_heads_are_cut_into_powers_of_two() -> None:
    for head_dim, parts in {1: (16, 0), 17: (32, 0), 40: (32, 16), 64: (64, 0), 72: (64, 16), 80: (64, 16)}.items():
        assert split_dim(head_dim, torch.bfloat16) == parts
    assert split_dim(96, torch.float16) == (64, 32)
    assert split_dim(96, torch.float32) == (128, 0)
    assert split_dim(80, torch.float8_e4m3fn) == (64, 32)


def test_the_output_is_fresh_where_spare_entries_fill_it() -> None:
    q = torch.ones(300, 2, 4)
    assert new_output(q, 5, 2, 128).isnan().all()  # tests' fresh memory
    assert not new_output(q, 4, 2, 128).any()
