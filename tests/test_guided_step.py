import pytest
import torch

from packdit.kernels import guided_step
from packdit.kernels.testing import assert_same_bits, check_cpu


def inputs(tokens: int, channels: int, slots: int = 3, rows: int = 4) -> tuple[torch.Tensor, ...]:
    """The arguments of guided_step, every second token guided."""
    generator = torch.Generator().manual_seed(tokens * 100 + channels)
    state = torch.randn(slots, tokens, channels, generator=generator)
    out = torch.randn(2 * tokens + 3, channels, generator=generator)
    order = torch.randperm(2 * tokens, generator=generator).int()
    cond, uncond = order[:tokens], torch.where(torch.arange(tokens) % 2 == 0, order[tokens:], -1).int()
    guidance = torch.rand(rows, generator=generator) * 5
    table = torch.randn(rows, slots, slots + 1, generator=generator)
    row = torch.randint(rows, (tokens,), generator=generator, dtype=torch.int32)
    return state, out, cond, uncond, guidance, table, row


def row_of(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def stepped(state: torch.Tensor, *arguments: torch.Tensor, backend: str) -> torch.Tensor:
    state = state.clone()
    guided_step(state, *arguments, backend=backend)
    return state


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_euler_with_guidance(backend: str) -> None:
    latents, out = torch.randn(1, 2, 5), torch.randn(4, 5)
    table = torch.tensor([[[1.0, -0.25]]])  # x - 0.25 v
    arguments = (row_of(0, 1), row_of(3, -1), torch.tensor([4.0]), table, row_of(0, 0))
    got = stepped(latents, out, *arguments, backend=backend)
    velocity = torch.stack((out[3] + 4 * (out[0] - out[3]), out[1]))
    torch.testing.assert_close(got[0], latents[0] - 0.25 * velocity)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_zero_coefficient_leaves_its_operand_out(backend: str) -> None:
    state, out, cond, uncond, guidance, table, row = inputs(6, 5)
    table[:, :, 2] = 0  # nothing reads the slot that was never written
    table[1, :, 3] = 0  # nor, in one row, the model's output
    row = row_of(0, 1, 2, 3, 1, 1)
    finite = stepped(state, out, cond, uncond, guidance, table, row, backend=backend)
    state[2] = torch.nan
    out[cond[1].long()] = torch.inf
    assert_same_bits(stepped(state, out, cond, uncond, guidance, table, row, backend=backend), finite)


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize(("tokens", "channels"), [(0, 4), (33, 5), (37, 48), (41, 67), (800, 64)])
def test_cpu(tokens: int, channels: int, slots: int) -> None:
    check_cpu(stepped, *inputs(tokens, channels, slots))


def test_cpu_rows_depend_on_nothing_else() -> None:
    state, out, cond, uncond, guidance, table, row = inputs(200, 48)
    out[cond[9].long()] = torch.nan
    whole = stepped(state, out, cond, uncond, guidance, table, row, backend="cpu")
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    mixed = (out, cond[order], uncond[order], guidance, table, row[order])
    assert_same_bits(stepped(state[:, order], *mixed, backend="cpu"), whole[:, order])
    assert whole[:, 9].isnan().all()
    assert whole[:, 10:].isfinite().all()


def test_cpu_writes_through_views() -> None:
    state, *rest = inputs(20, 48)
    expected = stepped(state, *rest, backend="cpu")
    for view in (
        torch.zeros(3, 30, 60)[:, 5:25, 7:55],
        torch.zeros(20, 3, 48).transpose(0, 1),
        torch.zeros(3, 48, 20).transpose(1, 2),
    ):
        view.copy_(state)
        guided_step(view, *rest, backend="cpu")
        assert_same_bits(view.contiguous(), expected)


def test_bad_arguments() -> None:
    state, out, cond, uncond, guidance, table, row = inputs(4, 8)
    for arguments, message in [
        ((state.half(), out, cond, uncond, guidance, table, row), "state is float16"),
        (
            (state, out[:, :7], cond, uncond, guidance, table, row),
            r"out is float32 \[11, 7\] on cpu; allowed: .*any, 8",
        ),
        ((state, out, cond.long(), uncond, guidance, table, row), "cond is int64"),
        ((state, out, cond, uncond[:3], guidance, table, row), r"uncond is int32 \[3\]"),
        ((state, out, cond, uncond, guidance.double(), table, row), "guidance is float64"),
        ((state, out, cond, uncond, guidance, table[:, :, :3], row), r"table is .*allowed: float32 \[4, 3, 4\]"),
        ((state, out, cond, uncond, guidance, table, row + 4), r"row\[0\] is \d; allowed: 0 to 3"),
        ((state, out, cond + 11, uncond, guidance, table, row), r"cond\[0\] is \d+; allowed: 0 to 10"),
        ((state, out, cond, uncond - 2, guidance, table, row), r"uncond\[\d\] is -\d; allowed: -1 to 10"),
    ]:
        with pytest.raises(ValueError, match=f"^guided_step: {message}"):
            guided_step(*arguments)


def test_op() -> None:
    torch.library.opcheck(torch.ops.packdit.guided_step.default, inputs(4, 8))
