"""What packed transformers share, against diffusers' own positions and timesteps."""

import pytest
import torch
from diffusers.models.embeddings import Timesteps, get_1d_rotary_pos_embed

from packdit.runtime.models.transformer import PackedModel, places, rope_angles, rope_table, timestep_features


def test_tokens_run_over_time_then_height_then_width() -> None:
    t, y, x = places((2, 3, 2))
    assert t.tolist() == [0] * 6 + [1] * 6
    assert y.tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert x.tolist() == [0, 1] * 6


def test_each_axis_turns_pairs_of_its_own() -> None:
    angles = rope_angles(places((4, 2, 3)), (3, 1, 2), 100.0)
    assert (angles.shape, angles.dtype) == ((24, 6), torch.float64)
    table = rope_table(angles)
    for axis, (pairs, columns) in enumerate(((3, slice(0, 3)), (1, slice(3, 4)), (2, slice(4, 6)))):
        positions = places((4, 2, 3))[axis]
        cos, sin = get_1d_rotary_pos_embed(
            2 * pairs, positions.numpy(), 100.0, use_real=True, freqs_dtype=torch.float64
        )
        torch.testing.assert_close(table["cos"][:, columns].float(), cos[:, ::2], rtol=0, atol=1e-6)
        torch.testing.assert_close(table["sin"][:, columns].float(), sin[:, ::2], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("sin_first", "shift"), [(False, 0.0), (True, 0.0), (False, 1.0), (True, 1.0)])
def test_timestep_features_are_diffusers(sin_first: bool, shift: float) -> None:
    timestep = torch.tensor([0.0, 1.0, 17.25, 999.0])
    want = Timesteps(24, flip_sin_to_cos=not sin_first, downscale_freq_shift=shift)(timestep)
    got = timestep_features(timestep, 24, sin_first=sin_first, shift=shift)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got.float(), want, rtol=0, atol=1e-4)


def test_by_default_text_and_extras_stay_as_they_are() -> None:
    model, states = PackedModel(), torch.rand(3, 4)
    assert model.embed_text(states) is states
    assert model.embed_extra("pooled", states) is states
    assert (model.extras, model.layout_extras, model.joint, model.indices([(1, 1, 1)], [3])) == ({}, (), False, {})
