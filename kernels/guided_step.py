"""Classifier-free guidance and one sampler stage for the tokens of a pack, each at its own stage.

v = out[uncond] + guidance (out[cond] - out[uncond]) (arXiv 2207.12598), then every slot of a token's state becomes a
linear combination of its slots and v: state'[s] = sum_j table[s, j] state[j] + table[s, S] v. Every linear multistep or
Runge-Kutta sampler is such a table. A coefficient of exactly 0 leaves its operand out, so that a slot that was never
written may hold anything.
"""

import torch
from torch import Tensor

from .backend import choose, native
from .op import custom_op
from .tensors import FLOATS, INT32, accurate, address, check_tensor, dense_rows, rows


def guided_step_reference(
    state: Tensor, out: Tensor, cond: Tensor, uncond: Tensor, guidance: Tensor, table: Tensor, row: Tensor
) -> Tensor:
    """The definition, in plain PyTorch; differentiable. Returns the new state; arguments as in `guided_step`."""
    wide = accurate(out)
    conditional, unconditional = wide[cond.long()], wide[uncond.long().clamp(min=0)]
    guided = unconditional + guidance[row.long(), None] * (conditional - unconditional)
    velocity = torch.where(uncond[:, None] < 0, conditional, guided)
    operands = torch.cat((state, velocity[None].to(state.dtype)))
    coefficients = table[row.long()].permute(1, 2, 0)[..., None]
    return torch.where(coefficients == 0, 0, coefficients * operands).sum(1)


@custom_op("guided_step", mutates_args=("state",))
def _guided_step(
    state: Tensor, out: Tensor, cond: Tensor, uncond: Tensor, guidance: Tensor, table: Tensor, row: Tensor
) -> None:
    target, out = dense_rows(state), dense_rows(out)
    cond, uncond, row = cond.contiguous(), uncond.contiguous(), row.contiguous()
    guidance, table = guidance.contiguous(), table.contiguous()
    slot_stride, token_stride, _ = target.stride()
    native().guided_step(
        *(target.data_ptr(), target.shape, slot_stride, token_stride, rows(out), out.shape[0]),
        *(address(cond), address(uncond), address(guidance), address(table)),
        *((address(row), guidance.shape[0]), torch.get_num_threads()),
    )
    if target is not state:
        state.copy_(target)


@custom_op("guided_step_triton", mutates_args=("state",), device_types="default")
def _guided_step_triton(
    state: Tensor, out: Tensor, cond: Tensor, uncond: Tensor, guidance: Tensor, table: Tensor, row: Tensor
) -> None:
    from .triton_guided_step import launch_guided_step  # triton is optional

    target = dense_rows(state)
    others = (x.contiguous() for x in (cond, uncond, guidance, table, row))
    launch_guided_step(target, dense_rows(out), *others)
    if target is not state:
        state.copy_(target)


@torch.library.register_fake("packdit::guided_step_triton")
@torch.library.register_fake("packdit::guided_step")
def _(state: Tensor, out: Tensor, cond: Tensor, uncond: Tensor, guidance: Tensor, table: Tensor, row: Tensor) -> None:
    return None


def guided_step(
    state: Tensor,
    out: Tensor,
    cond: Tensor,
    uncond: Tensor,
    guidance: Tensor,
    table: Tensor,
    row: Tensor,
    *,
    backend: str | None = None,
) -> None:
    """Advances state in place by one stage.

    state float32 (or float64) [S, N, C]: slot 0 holds the latents of N tokens, the others their history;
    out [T, C]: the model's output over the pack; cond, uncond int32 [N]: rows of out (uncond -1: no guidance);
    guidance [R] and table [R, S, S + 1]: of the dtype of state; row int32 [N], entries below R.
    ValueError for anything else.
    """
    check_tensor("guided_step: state", state, (None, None, None), (torch.float32, torch.float64))
    num_slots, num_tokens, channels = state.shape
    check_tensor("guided_step: out", out, (None, channels), FLOATS, state.device)
    for name, index in (("cond", cond), ("uncond", uncond), ("row", row)):
        check_tensor(f"guided_step: {name}", index, (num_tokens,), INT32, state.device)
    check_tensor("guided_step: guidance", guidance, (None,), (state.dtype,), state.device)
    table_shape = (guidance.shape[0], num_slots, num_slots + 1)
    check_tensor("guided_step: table", table, table_shape, (state.dtype,), state.device)
    chosen = choose("guided_step", backend, state, out, guidance, table)
    if chosen == "reference":
        state.copy_(guided_step_reference(state, out, cond, uncond, guidance, table, row))
    else:
        kernel = _guided_step_triton if chosen == "triton" else _guided_step
        kernel(state, out, cond, uncond, guidance, table, row)
