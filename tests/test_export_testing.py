"""That the comparisons of families fail where they must."""

import math
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from packdit.export.entry import Entry
from packdit.export.families.wan import entries
from packdit.export.testing import apply, check_float32, check_published, error, in_bfloat16, pack, randomize

CONFIG = {
    "num_attention_heads": 1,
    "attention_head_dim": 12,
    "in_channels": 2,
    "out_channels": 2,
    "text_dim": 6,
    "freq_dim": 8,
    "ffn_dim": 10,
    "num_layers": 1,
}


@pytest.fixture(scope="module")
def reference() -> Any:
    return randomize(WanTransformer3DModel(**CONFIG), seed=0)


def clip(frames: int) -> dict[str, Any]:
    return {"latents": torch.randn(2, frames, 2, 2), "timesteps": 9.0, "text": torch.randn(2, 6)}


def test_every_weight_is_random(reference: Any) -> None:
    again, other = (randomize(WanTransformer3DModel(**CONFIG), seed=seed) for seed in (0, 1))
    for (name, p), q, r in zip(reference.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert not torch.equal(p, r), name
        assert p.std() > 0.05, name
    assert abs(float(reference.blocks[0].norm2.weight.mean()) - 1) < 0.3


def test_a_wrong_output_fails(reference: Any) -> None:
    packed, one = pack(reference, entries(dict(reference.config))), clip(1)
    (right,) = packed(**{k: [v] for k, v in one.items()})
    check_float32(packed, [right], [one])
    with pytest.raises(AssertionError, match="clip 0: relative error "):
        check_float32(packed, [right * 1.001], [one])


def test_bits_that_depend_on_company_fail(reference: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, clips = pack(reference, entries(dict(reference.config))), [clip(1), clip(2)]
    want = [packed(**{k: [v] for k, v in c.items()})[0] for c in clips]
    plain = packed.model.forward

    def company(x: Tensor, p: Any) -> Tensor:
        return plain(x, p) * (1 + 1e-6 * (len(p.cu_seqlens) - 2))

    monkeypatch.setattr(packed.model, "forward", company)
    with pytest.raises(AssertionError, match="has other bits in the company"):
        check_float32(packed, want, clips)


def test_entries_are_strict(reference: Any) -> None:
    table, tensors = entries(dict(reference.config)), dict(reference.state_dict())
    assert set(apply(table, tensors)) == set(pack(reference, table).model.state_dict())
    with pytest.raises(ValueError, match=r"lacks the tensor 'proj_out\.bias'"):
        apply(table, {k: v for k, v in tensors.items() if k != "proj_out.bias"})
    with pytest.raises(ValueError, match="nothing uses: 'more'"):
        apply(table, {**tensors, "more": torch.zeros(1)})
    with pytest.raises(AssertionError, match="named twice"):
        apply([*table, Entry("head.bias", ("proj_out.bias",))], tensors)


def test_another_count_of_parameters_fails() -> None:
    with pytest.raises(AssertionError, match=r"parameters instead of 7"):
        check_published(WanTransformer3DModel, CONFIG, entries, 7)


def test_bfloat16_keeps_what_diffusers_keeps(reference: Any) -> None:
    half = in_bfloat16(reference)
    assert half.proj_out.weight.dtype == torch.bfloat16
    assert half.scale_shift_table.dtype == half.blocks[0].norm2.weight.dtype == torch.float32
    assert reference.proj_out.weight.dtype == torch.float32


def test_the_largest_error_counts_and_a_nan_is_one() -> None:
    exact = [torch.tensor([1.0, -2.0]), torch.tensor([4.0])]
    assert error([torch.tensor([1.5, -2.0]), torch.tensor([4.0])], exact) == 0.25
    assert math.isnan(error([torch.tensor([torch.nan, -2.0]), torch.tensor([4.0])], exact))
