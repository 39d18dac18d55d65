"""One step's tensors: the samples of a plan laid end to end, and what each row of them is to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .load import PackedTransformer
from .pack import Pack, make_pack, offsets
from .path import pad
from .plan import Plan
from .sample import Sample


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """N latent tokens of the samples, T >= N tokens of the pack: a guided sample's are in it twice.

    Between steps the latents stay here: each sample's `state` is a view of this one's.
    """

    samples: list[Sample]
    transformer: PackedTransformer
    pack: Pack
    source: Tensor  # int64 [T], which of the N tokens each one of the pack is
    given: Tensor | None  # [N, Cg], what is given beside the latents
    state: Tensor  # float32 [slots, N, C]
    cond: Tensor  # int32 [N], the pack row of each token's conditional output
    uncond: Tensor  # int32 [N], or -1
    guidance: Tensor  # float32 [R]
    table: Tensor  # float32 [R, slots, slots + 1]
    row: Tensor  # int32 [N], the row of `table` that each token follows

    def tokens(self) -> Tensor:
        """The model's input [T, C]."""
        latents = self.state[0] if self.given is None else torch.cat([self.state[0], self.given], 1)
        return latents.to(self.transformer.dtype).index_select(0, self.source)

    def advance(self) -> None:
        """One stage on. Whoever is done takes its latents along, and keeps nothing of the others'."""
        for sample in self.samples:
            sample.stage += 1
            if sample.done:
                sample.state = sample.state.clone()


def next_batch(last: Batch | None, plan: Plan, samples: list[Sample], transformer: PackedTransformer) -> Batch:
    """`samples`, those that the plan took, in its order, at their next stages.

    Where they are those of the last step, nothing but their stages is laid out anew.
    """
    for sample in samples:
        sample.refresh(transformer.model.patch)
    if last is None or last.samples != samples or last.transformer is not transformer:
        return make_batch(plan, samples, transformer)
    owners = dict(zip(plan.samples, samples, strict=True))
    timesteps = [t for index in plan.segment_sample.tolist() for t in owners[index].timesteps()]
    timestep = torch.tensor(timesteps, dtype=torch.float32)
    table = _table(samples, len(last.state))
    return replace(last, pack=replace(last.pack, timestep=timestep.to(transformer.device)), table=table)


def make_batch(plan: Plan, samples: list[Sample], transformer: PackedTransformer) -> Batch:
    """Lays out `samples` from nothing, and their latents with them."""
    device = transformer.device
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
    _lend(state, samples)
    given = [s.given for s in samples if s.given is not None]
    return Batch(
        samples=samples,
        transformer=transformer,
        source=source.to(device),
        given=torch.cat(given) if given else None,
        pack=make_pack(
            transformer.model, [sample.segment(branch, transformer) for sample, _, branch in segments], device
        ),
        state=state,
        cond=cond.to(device),
        uncond=uncond.to(device),
        guidance=torch.tensor([s.request.guidance for s in samples for _ in s.levels]).to(device),
        table=_table(samples, slots),
        row=_level_rows(samples).to(device),
    )


def _lend(state: Tensor, samples: Sequence[Sample]) -> None:
    """Makes each sample's latents a view of its part of `state`."""
    start = 0
    for sample in samples:
        end = start + sample.num_tokens
        sample.state = state[: len(sample.state), start:end]
        start = end


def _table(samples: Sequence[Sample], slots: int) -> Tensor:
    """float32 [R, slots, slots + 1], a row a level of each sample, on its device."""
    rows = [torch.from_numpy(pad(track[s.stage].matrix, slots)).float() for s in samples for track in s.levels]
    return torch.stack(rows).to(samples[0].state.device)


def _widen(state: Tensor, slots: int) -> Tensor:
    missing = slots - len(state)
    return torch.cat([state, state.new_zeros(missing, *state.shape[1:])]) if missing else state


def _level_rows(samples: list[Sample]) -> Tensor:
    """int32: for the tokens of each, a row a level, after the rows of those before it."""
    bases = offsets([len(s.levels) for s in samples])[:-1].tolist()
    return torch.cat([s.level + base for s, base in zip(samples, bases, strict=True)]).to(torch.int32)
