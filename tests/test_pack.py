"""Packs: offsets of what is laid end to end, rows, extras, and the order of text and tokens that share an attention."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from packdit.runtime.models.transformer import PackedModel
from packdit.runtime.pack import Grid, Pack, Segment, make_joint, make_pack, offsets

CPU = torch.device("cpu")


class Model(PackedModel):
    """Only what `make_pack` asks a model."""

    extras = {"label": (), "pooled": (3,), "image": (None, 2)}  # noqa: RUF012
    joint = True

    def indices(self, grids: Any, text_lengths: Any) -> dict[str, Tensor]:
        return {"frames": torch.tensor([g[0] for g in grids]), "texts": torch.tensor(text_lengths)}


def segment(grid: Grid, timesteps: list[float], text: int, image: int, seed: int = 0) -> Segment:
    generator = torch.Generator().manual_seed(seed)
    tokens = grid[0] * grid[1] * grid[2]
    return Segment(
        grid=grid,
        layout={"place": torch.rand(tokens, 2, generator=generator)},
        row=torch.randint(len(timesteps), (tokens,), generator=generator),
        timesteps=timesteps,
        text=torch.rand(text, 5, generator=generator),
        extra={"label": torch.tensor(float(seed)), "pooled": torch.rand(3), "image": torch.rand(image, 2)},
    )


SEGMENTS = [
    segment((1, 2, 2), [500.0], 3, 1, seed=1),
    segment((3, 1, 2), [0.0, 900.0, 40.0], 1, 4, seed=2),
    segment((1, 1, 1), [7.0, 2.0], 6, 2, seed=3),
]


@pytest.mark.parametrize(("lengths", "want"), [([], [0]), ([3], [0, 3]), ([0, 2, 0, 5], [0, 0, 2, 2, 7])])
def test_offsets(lengths: list[int], want: list[int]) -> None:
    got = offsets(lengths)
    assert (got.dtype, got.tolist()) == (torch.int32, want)


def parts(pack: Pack, name: str) -> list[Tensor]:
    """An extra that is packed, segment by segment."""
    return list(pack.extra[name].split(pack.extra[f"cu_seqlens_{name}"].diff().tolist()))


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1]])
def test_a_pack_holds_each_segment(order: list[int]) -> None:
    segments = [SEGMENTS[i] for i in order]
    pack = make_pack(Model(), segments, CPU)
    assert pack.cu_seqlens.tolist() == offsets([len(s.row) for s in segments]).tolist()
    assert pack.max_seqlen == max(len(s.row) for s in segments)
    for i, s in enumerate(segments):
        tokens = slice(*pack.cu_seqlens[i : i + 2].tolist())
        assert torch.equal(pack.timestep[pack.row[tokens].long()], torch.tensor(s.timesteps)[s.row])
        assert (pack.row_segment[pack.row[tokens].long()] == i).all()
        assert torch.equal(pack.layout["place"][tokens], s.layout["place"])
        assert torch.equal(pack.text[slice(*pack.cu_seqlens_text[i : i + 2].tolist())], s.text)
        assert torch.equal(parts(pack, "image")[i], s.extra["image"])
        assert torch.equal(pack.extra["pooled"][i], s.extra["pooled"])
        assert pack.extra["label"][i] == s.extra["label"]
    assert pack.index["frames"].tolist() == [s.grid[0] for s in segments]
    assert pack.index["texts"].tolist() == [len(s.text) for s in segments]


def test_a_bias_of_one_text_is_zero_for_the_others() -> None:
    assert make_pack(Model(), SEGMENTS, CPU).text_bias is None
    biased = [SEGMENTS[0], replace(SEGMENTS[1], text_bias=torch.tensor([2.5])), SEGMENTS[2]]
    bias = make_pack(Model(), biased, CPU).text_bias
    assert bias is not None
    assert bias.tolist() == [0] * 3 + [2.5] + [0] * 6


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1]])
def test_the_joint_order_is_tokens_then_text_of_each_segment(order: list[int]) -> None:
    segments = [SEGMENTS[i] for i in order]
    pack = make_pack(Model(), segments, CPU)
    assert pack.joint is not None
    tokens = torch.rand(len(pack.row), 2, 3, 4)[:, 1]  # a view with strides, as of a fused projection
    text = torch.rand(len(pack.text), 3, 4)
    both = pack.joint.gather(tokens, text)
    starts = zip(pack.cu_seqlens.tolist(), pack.cu_seqlens_text.tolist(), strict=True)
    want = [part for (a, c), (b, d) in pairwise(starts) for part in (tokens[a:b], text[c:d])]
    assert torch.equal(both, torch.cat(want))
    back = pack.joint.split(both)
    assert torch.equal(back[0], tokens)
    assert torch.equal(back[1], text)
    lengths = [len(s.row) + len(s.text) for s in segments]
    assert pack.joint.cu_seqlens.tolist() == offsets(lengths).tolist()
    assert pack.joint.max_seqlen == max(lengths)


def test_text_follows_the_noisiest_row_of_its_segment() -> None:
    pack = make_pack(Model(), SEGMENTS, CPU)
    assert pack.joint is not None
    assert pack.timestep[pack.joint.text_row.long()].tolist() == [500.0] * 3 + [900.0] + [7.0] * 6
    rows, text_rows = pack.joint.split(pack.joint.row)
    assert torch.equal(rows, pack.row)
    assert torch.equal(text_rows, pack.joint.text_row)


def test_segments_without_text_are_joint_too() -> None:
    joint = make_joint([2, 1], [0, 2], torch.tensor([0, 0, 1], dtype=torch.int32), [0, 1], CPU)
    assert joint.row.tolist() == [0, 0, 1, 1, 1]
    assert joint.gather(torch.tensor([1.0, 2, 3]), torch.tensor([4.0, 5])).tolist() == [1, 2, 3, 4, 5]
    assert joint.cu_seqlens.tolist() == [0, 2, 5]
