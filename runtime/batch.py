"""One step's tensors: the samples of a plan laid end to end, and what each row of them is to do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .load import PackedTransformer
from .pack import Pack, make_pack, offsets
from .path import pad
from .plan import Plan
from .sample import Sample


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """N latent tokens of the samples, T >= N tokens of the pack: a guided sample's are in it twice."""

    samples: list[Sample]
    tokens: Tensor  # [T, C], the model's input
    pack: Pack
    state: Tensor  # float32 [slots, N, C]
    cond: Tensor  # int32 [N], the pack row of each token's conditional output
    uncond: Tensor  # int32 [N], or -1
    guidance: Tensor  # float32 [R]
    table: Tensor  # float32 [R, slots, slots + 1]
    row: Tensor  # int32 [N], the row of `table` that each token follows

    def scatter(self) -> None:
        """Hands every sample its new state, one stage on."""
        start = 0
        for sample in self.samples:
            end = start + sample.num_tokens
            sample.state = self.state[: len(sample.state), start:end].clone()
            sample.stage += 1
            start = end


def make_batch(plan: Plan, samples: list[Sample], transformer: PackedTransformer) -> Batch:
    """Lays out `samples`, those that the plan took, in its order."""
    device, patch = transformer.device, transformer.model.patch
    for sample in samples:
        sample.refresh(patch)
    slots = max(len(s.state) for s in samples)
    state = torch.cat([_widen(s.state, slots) for s in samples], 1)
    first = offsets([s.num_tokens for s in samples])[:-1].tolist()
    place = dict(zip(plan.samples, zip(samples, first, strict=True), strict=True))
    branches = zip(plan.segment_sample.tolist(), plan.segment_branch.tolist(), strict=True)
    segments = [(*place[index], branch) for index, branch in branches]
    source = torch.cat([torch.arange(begin, begin + s.num_tokens) for s, begin, _ in segments])
    cond = torch.empty(state.shape[1], dtype=torch.int32)
    uncond = torch.full_like(cond, -1)
    for (sample, begin, branch), at in zip(segments, plan.cu_seqlens[:-1].tolist(), strict=True):
        rows = torch.arange(at, at + sample.num_tokens, dtype=torch.int32)
        (uncond if branch else cond)[begin : begin + sample.num_tokens] = rows
    tables = [torch.from_numpy(pad(track[s.stage].matrix, slots)).float() for s in samples for track in s.levels]
    return Batch(
        samples=samples,
        tokens=_inputs(state[0], samples).to(transformer.dtype).index_select(0, source.to(device)),
        pack=make_pack(
            transformer.model, [sample.segment(branch, transformer) for sample, _, branch in segments], device
        ),
        state=state,
        cond=cond.to(device),
        uncond=uncond.to(device),
        guidance=torch.tensor([s.request.guidance for s in samples for _ in s.levels]).to(device),
        table=torch.stack(tables).to(device),
        row=_level_rows(samples).to(device),
    )


def _inputs(latents: Tensor, samples: list[Sample]) -> Tensor:
    """The latents [N, C], with what is given of each token beside them."""
    given = [s.given for s in samples if s.given is not None]
    return torch.cat([latents, torch.cat(given)], 1) if given else latents


def _widen(state: Tensor, slots: int) -> Tensor:
    missing = slots - len(state)
    return torch.cat([state, state.new_zeros(missing, *state.shape[1:])]) if missing else state


def _level_rows(samples: list[Sample]) -> Tensor:
    """int32: for the tokens of each, a row a level, after the rows of those before it."""
    bases = offsets([len(s.levels) for s in samples])[:-1].tolist()
    return torch.cat([s.level + base for s, base in zip(samples, bases, strict=True)]).to(torch.int32)
