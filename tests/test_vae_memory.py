"""What decoding takes is known before it, and decides on tiles."""

from typing import Any

import pytest
from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLLTXVideo, AutoencoderKLWan

from packdit.export.families import hunyuan_video_vae, ltx_vae, wan_vae
from packdit.export.testing import randomize
from packdit.export.vae_testing import random_latent, streaming
from packdit.runtime import vae_memory
from packdit.runtime.vae import StreamingVAE
from packdit.runtime.vae_memory import choose_tile, decode_bytes

MAKERS: dict[str, Any] = {
    "wan": lambda: (AutoencoderKLWan(base_dim=4, z_dim=2, latents_mean=[0.0] * 2, latents_std=[1.0] * 2), wan_vae),
    "ltx": lambda: (
        AutoencoderKLLTXVideo(
            latent_channels=2,
            block_out_channels=[4] * 4,
            decoder_block_out_channels=[4] * 4,
            layers_per_block=[1] * 5,
            decoder_layers_per_block=[1] * 5,
            patch_size=1,
        ),
        ltx_vae,
    ),
    "hunyuan": lambda: (
        AutoencoderKLHunyuanVideo(block_out_channels=[4] * 4, norm_num_groups=2, layers_per_block=1, latent_channels=2),
        hunyuan_video_vae,
    ),
}


@pytest.fixture(scope="module", params=MAKERS)
def vae(request: pytest.FixtureRequest) -> StreamingVAE:
    model, family = MAKERS[request.param]()
    return streaming(randomize(model, seed=0), family)


def test_the_estimate_is_what_is_held(vae: StreamingVAE) -> None:
    latent = random_latent(2, (26, 2, 3))
    with vae_memory._Live() as live:
        for chunk in vae.stream(latent):
            del chunk
    estimate = decode_bytes(vae, (26, 2, 3))
    assert abs(estimate - live.peak) <= 0.1 * live.peak
    assert decode_bytes(vae, (200, 2, 3)) == estimate  # whatever the duration
    assert 3 < decode_bytes(vae, (26, 4, 6)) / estimate < 5  # in proportion to the area


def test_tiles_take_less(vae: StreamingVAE) -> None:
    factor = vae.model.factor
    whole, half, quarter = (decode_bytes(vae, (5, 32, 32), side and side * factor) for side in (None, 16, 8))
    assert quarter < half < 0.6 * whole
    assert decode_bytes(vae, (5, 32, 32), 32 * factor) == whole


def test_the_largest_tile_that_fits_is_chosen(vae: StreamingVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, factor = (3, 20, 33), vae.model.factor
    assert choose_tile(vae, grid, 0) is None  # a small frame, whatever memory there is
    monkeypatch.setattr(vae_memory, "SMALL_FRAME", 0)
    monkeypatch.setattr(
        vae_memory, "decode_bytes", lambda vae, grid, tile=None: 10**7 * (tile // factor if tile else 33)
    )
    assert choose_tile(vae, grid, 33 * 10**7) is None
    assert choose_tile(vae, grid, 33 * 10**7 - 1) == 16 * factor
    assert choose_tile(vae, grid, 8 * 10**7) == 8 * factor
    with pytest.raises(ValueError, match=r"decoding \d+x\d+ takes 0\.08 GB even in tiles; there are 0\.07 GB"):
        choose_tile(vae, grid, 7 * 10**7)


def test_tiles_take_turns_and_come_at_the_end(vae: StreamingVAE) -> None:
    with pytest.warns(UserWarning, match="tiles"):
        chunks = [chunk.shape for chunk in vae.stream(random_latent(2, (9, 2, 5)), tile=3 * vae.model.factor)]
    whole = [len(chunk) for chunk in vae.stream(random_latent(2, (9, 2, 2)))]
    assert [shape[0] for shape in chunks] == [0] * (2 * len(whole)) + whole
    assert {shape[1:] for shape in chunks} == {(2 * vae.model.factor, 5 * vae.model.factor, 3)}
