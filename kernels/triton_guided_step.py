"""The Triton kernel of `guided_step`. Definition and sources are in guided_step.py.

Apart from its reference because Triton is optional and a kernel needs it to be defined.
"""

import triton
import triton.language as tl
from torch import Tensor

from .triton_rows import cut_rows


@triton.jit(do_not_specialize=["num_tokens"])
def guided_step_kernel(
    state: tl.tensor,
    out: tl.tensor,
    cond: tl.tensor,
    uncond: tl.tensor,
    guidance: tl.tensor,
    table: tl.tensor,
    row: tl.tensor,
    num_tokens: int,
    stride_slot: int,
    stride_token: int,
    stride_out: int,
    channels: tl.constexpr,
    slots: tl.constexpr,
    tokens: tl.constexpr,
    columns: tl.constexpr,
    padded_slots: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64) * tokens + tl.arange(0, tokens)
    exists = token < num_tokens
    channel = tl.arange(0, columns)[None, :]
    mask = exists[:, None] & (channel < channels)
    conditional_row = tl.load(cond + token, exists, other=0).to(tl.int64)
    unconditional_row = tl.load(uncond + token, exists, other=-1).to(tl.int64)
    index = tl.load(row + token, exists, other=0).to(tl.int64)

    guided = (unconditional_row >= 0)[:, None]
    conditional = tl.load(out + conditional_row[:, None] * stride_out + channel, mask, other=0.0).to(tl.float32)
    unconditional = tl.load(out + unconditional_row[:, None] * stride_out + channel, mask & guided, other=0.0)
    unconditional = unconditional.to(tl.float32)
    strength = tl.load(guidance + index, exists, other=0.0)[:, None]
    velocity = tl.where(guided, unconditional + strength * (conditional - unconditional), conditional)

    slot = tl.arange(0, padded_slots).to(tl.int64)[:, None]
    address = state + (slot * stride_slot + token[None, :] * stride_token)[:, :, None] + channel[None, :, :]
    old = tl.load(address, (slot < slots)[:, :, None] & mask[None, :, :], other=0.0)
    tl.debug_barrier()  # every thread has read its slots before any of them is overwritten
    for target in tl.static_range(slots):
        coefficients = table + (index * slots + target) * (slots + 1)
        weights = tl.load(coefficients[None, :] + slot, (slot < slots) & exists[None, :], other=0.0)[:, :, None]
        weight = tl.load(coefficients + slots, exists, other=0.0)[:, None]
        new = tl.sum(tl.where(weights == 0, 0.0, weights * old), 0) + tl.where(weight == 0, 0.0, weight * velocity)
        tl.store(state + target * stride_slot + token[:, None] * stride_token + channel, new, mask)


def launch_guided_step(
    state: Tensor, out: Tensor, cond: Tensor, uncond: Tensor, guidance: Tensor, table: Tensor, row: Tensor
) -> None:
    """As `guided_step`; channels are contiguous in state and out, everything in the others."""
    if state.numel() == 0:
        return
    slots, num_tokens, channels = state.shape
    columns, padded_slots = triton.next_power_of_2(channels), triton.next_power_of_2(slots)
    cut = cut_rows("guided_step", state, columns * padded_slots)
    tokens = max(1, cut.elements // (columns * padded_slots))
    guided_step_kernel[(triton.cdiv(num_tokens, tokens),)](
        *(state, out, cond, uncond, guidance, table, row),
        *(num_tokens, state.stride(0), state.stride(1), out.stride(0)),
        channels=channels,
        slots=slots,
        tokens=tokens,
        columns=columns,
        padded_slots=padded_slots,
        num_warps=cut.num_warps,
    )
