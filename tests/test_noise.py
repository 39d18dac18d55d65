"""Noise tables and timesteps against those of diffusers' schedulers, bit for bit."""

from typing import Any

import diffusers
import numpy as np
import pytest

from packdit.runtime.noise import alphas_cumprod, cogvideox_alphas_cumprod, multistep_timesteps, timesteps

TABLES: list[dict[str, Any]] = [
    {},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": [0.01, 0.02, 0.03]},
]


@pytest.mark.parametrize("config", TABLES)
def test_tables_are_diffusers(config: dict[str, Any]) -> None:
    ddim, unipc = diffusers.DDIMScheduler(**config), diffusers.UniPCMultistepScheduler(**config)
    assert np.array_equal(alphas_cumprod(config), ddim.alphas_cumprod.numpy())
    assert np.array_equal(alphas_cumprod(config, lowest=2**-24), unipc.alphas_cumprod.numpy())


def test_tables_rescaled_to_end_in_noise() -> None:
    """Nearly: torch's float32 square roots are not always the nearest numbers."""
    config = {"rescale_betas_zero_snr": True}
    ddim, unipc = diffusers.DDIMScheduler(**config), diffusers.UniPCMultistepScheduler(**config)
    np.testing.assert_allclose(alphas_cumprod(config), ddim.alphas_cumprod.numpy(), rtol=1e-5)
    np.testing.assert_allclose(alphas_cumprod(config, lowest=2**-24), unipc.alphas_cumprod.numpy(), rtol=1e-5)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_tables_of_cogvideox(scale: float, rescale: bool) -> None:
    config = {"snr_shift_scale": scale, "rescale_betas_zero_snr": rescale}
    want = diffusers.CogVideoXDDIMScheduler(**config).alphas_cumprod.numpy()
    np.testing.assert_allclose(cogvideox_alphas_cumprod(config), want, rtol=1e-13)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers 0.42 under numpy 2
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 7, 30, 50])
def test_timesteps_are_diffusers(spacing: str, steps: int) -> None:
    config = {"timestep_spacing": spacing, "steps_offset": 1}
    ddim, unipc = diffusers.DDIMScheduler(**config), diffusers.UniPCMultistepScheduler(**config)
    ddim.set_timesteps(steps)
    unipc.set_timesteps(steps)
    assert timesteps(config, steps).tolist() == ddim.timesteps.tolist()
    assert multistep_timesteps(config, steps).tolist() == unipc.timesteps.tolist()


def test_an_unknown_spacing() -> None:
    with pytest.raises(ValueError, match="linspace, leading or trailing, got 'odd'"):
        timesteps({"timestep_spacing": "odd"}, 3)
