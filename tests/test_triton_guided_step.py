import pytest
import torch

from packdit.kernels import guided_step
from packdit.kernels.testing import assert_same_bits, check_triton

pytest.importorskip("triton")

from packdit.kernels.interpreter import strict


def inputs(tokens: int, channels: int, slots: int = 3, rows: int = 4) -> tuple[torch.Tensor, ...]:
    """The arguments of guided_step, every second token guided."""
    generator = torch.Generator().manual_seed(tokens * 100 + channels)
    state = torch.randn(slots, tokens, channels, generator=generator)
    out = torch.randn(2 * tokens + 3, channels, generator=generator)
    order = torch.randperm(2 * tokens, generator=generator).int()
    cond, uncond = order[:tokens], torch.where(torch.arange(tokens) % 2 == 0, order[tokens:], -1).int()
    guidance = torch.rand(rows, generator=generator) * 5
    table = torch.randn(rows, slots, slots + 1, generator=generator)
    return state, out, cond, uncond, guidance, table, torch.randint(rows, (tokens,), generator=generator).int()


def stepped(state: torch.Tensor, *arguments: torch.Tensor, backend: str) -> torch.Tensor:
    state = state.clone()
    guided_step(state, *arguments, backend=backend)
    return state


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize(("tokens", "channels"), [(0, 4), (1, 1), (33, 5), (37, 48), (41, 67)])
def test_guided_step(tokens: int, channels: int, slots: int) -> None:
    check_triton(stepped, *inputs(tokens, channels, slots))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_models_output_may_be_half(dtype: torch.dtype) -> None:
    state, out, *rest = inputs(33, 20)
    check_triton(stepped, state, out.to(dtype), *rest)


def test_a_zero_coefficient_leaves_its_operand_out() -> None:
    state, out, cond, uncond, guidance, table, _ = inputs(6, 5)
    table[:, :, 2] = 0  # nothing reads the slot that was never written
    table[1, :, 3] = 0  # nor, in one row, the model's output
    rest = cond, uncond, guidance, table, torch.tensor([0, 1, 2, 3, 1, 1], dtype=torch.int32)
    with strict():
        finite = stepped(state, out, *rest, backend="triton")
        state[2] = torch.nan
        out[cond[1].long()] = torch.inf
        assert_same_bits(stepped(state, out, *rest, backend="triton"), finite)


def test_it_writes_through_views() -> None:
    state, *rest = inputs(20, 48)
    with strict():
        expected = stepped(state, *rest, backend="triton")
        for view in (
            torch.zeros(3, 30, 60)[:, 5:25, 7:55],
            torch.zeros(20, 3, 48).transpose(0, 1),
            torch.zeros(3, 48, 20).transpose(1, 2),
        ):
            view.copy_(state)
            guided_step(view, *rest, backend="triton")
            assert_same_bits(view.contiguous(), expected)


def test_tokens_depend_on_nothing_else() -> None:
    state, out, cond, uncond, guidance, table, row = inputs(60, 12)
    out[cond[9].long()] = torch.nan
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    with strict():
        whole = stepped(state, out, cond, uncond, guidance, table, row, backend="triton")
        mixed = (out, cond[order], uncond[order], guidance, table, row[order])
        assert_same_bits(stepped(state[:, order], *mixed, backend="triton"), whole[:, order])
    assert whole[:, 9].isnan().all()
    assert whole[:, 10:].isfinite().all()


def test_op() -> None:
    with strict():
        torch.library.opcheck(torch.ops.packdit.guided_step_triton.default, inputs(4, 8))
