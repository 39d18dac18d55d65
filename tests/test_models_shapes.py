"""The packed shapes models on exported weights against the modules that trained them, with random weights."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from packdit.kernels import patchify
from packdit.runtime import load_transformer, load_vae
from packdit.runtime.models import transformer_class, vae_class
from packdit.runtime.models.shapes import NUM_FEATURES, position_features
from packdit.runtime.models.shapes_vae import WINDOW

LIMIT = 1e-4  # relative to the largest value
GRIDS = [(1, 4, 4), (5, 8, 6), (3, 2, 10)]


def error(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return float((got.double() - want.double()).abs().max() / want.double().abs().max())


def trained_output(
    shapes: SimpleNamespace, models: SimpleNamespace, z: Tensor, sigma: float, pooled: Tensor, given: Tensor | None
) -> Tensor:
    """What the training module says of a latent [C, T, H, W]: tokens [L, C]; given is bool [L]."""
    tokens = patchify([z], (1, 2, 2))[None]
    grid = (z.shape[1], z.shape[2] // 2, z.shape[3] // 2)
    group = shapes.dit.Group(tokens, grid, torch.tensor([sigma]), pooled[None], None if given is None else given[None])
    with torch.no_grad():
        (out,) = models.dit([group])
    return out[0]


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_transformer_is_the_trained_one(
    bundle_dir: Path, shapes: SimpleNamespace, models: SimpleNamespace, backend: str
) -> None:
    generator = torch.Generator().manual_seed(3)
    latents = [torch.randn(4, *grid, generator=generator) for grid in GRIDS]
    text = [torch.randn(n, 24, generator=generator) for n in (7, 1, 3)]
    sigmas = [1.0, 0.61, 0.02]
    out = load_transformer(bundle_dir, backend=backend)(
        latents=latents, timesteps=[1000 * sigma for sigma in sigmas], text=text
    )
    for got, z, sigma, states in zip(out, latents, sigmas, text, strict=True):
        want = trained_output(shapes, models, z, sigma, states[-1], None)
        assert error(patchify([got], (1, 2, 2)), want) <= LIMIT


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_given_tokens_follow_the_condition_of_noise_level_zero(
    bundle_dir: Path, shapes: SimpleNamespace, models: SimpleNamespace, backend: str
) -> None:
    generator = torch.Generator().manual_seed(4)
    z, pooled = torch.randn(4, 3, 4, 6, generator=generator), torch.randn(24, generator=generator)
    model = load_transformer(bundle_dir, backend=backend)
    frames = torch.tensor([0.0, 700.0, 0.0])
    tokens = torch.where(torch.rand(18, generator=generator) < 0.4, 0.0, 700.0)
    for timestep, given in ((frames, (frames == 0).repeat_interleave(6)), (tokens, tokens == 0)):
        (got,) = model(latents=[z], timesteps=[timestep], text=[pooled[None]])
        want = trained_output(shapes, models, z, 0.7, pooled, given)
        assert error(patchify([got], (1, 2, 2)), want) <= LIMIT
        (other,) = model(latents=[z], timesteps=[700.0], text=[pooled[None]])
        assert error(other, got) > 0.01


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("frames", [1, 9, 77])  # 77 frames are 20 latent frames, more than the context's window
def test_the_vae_is_the_trained_one(bundle_dir: Path, models: SimpleNamespace, frames: int, backend: str) -> None:
    generator = torch.Generator().manual_seed(5)
    video = torch.rand(3, frames, 24, 40, generator=generator) * 2 - 1
    vae = load_vae(bundle_dir, backend=backend)
    with torch.no_grad():
        latent = models.vae.encoder(video.permute(1, 2, 3, 0)[None])
        pixels = models.vae.decoder(latent)[0].permute(3, 0, 1, 2)
    latent = latent[0].permute(3, 0, 1, 2)
    assert error(vae.encode(video), latent) <= LIMIT
    assert error(vae.decode(latent), pixels) <= LIMIT
    assert pixels.shape == video.shape


def test_the_context_sees_its_window_and_no_more(bundle_dir: Path) -> None:
    """Of two layers the second sees what the first made of the frames in its own window: twice as far, less one."""
    context = load_vae(bundle_dir).model.decoder.context
    reach = len(context.layers) * (WINDOW - 1)
    latent = torch.randn(reach + 4, 3, 5, 4, generator=torch.Generator().manual_seed(6))
    stream: dict[str, Tensor] = {}
    whole = context(latent, stream)
    assert {len(stream[f"context.layers.0.{name}"]) for name in ("keys", "values")} == {WINDOW * 2 * 3}
    changed = (context(torch.cat([latent[:1] + 1, latent[1:]]), {}) - whole).flatten(1).abs().amax(1)
    assert (changed[:WINDOW] > 0).all()
    assert (changed[reach + 1 :] == 0).all()


def test_the_context_is_the_same_in_any_chunks(bundle_dir: Path) -> None:
    context = load_vae(bundle_dir).model.decoder.context
    latent, stream = torch.randn(WINDOW + 4, 3, 5, 4, generator=torch.Generator().manual_seed(7)), {}
    parts = [context(piece, stream) for piece in latent.split([1, 5, WINDOW - 2])]
    assert torch.equal(torch.cat(parts), context(latent, {}))


def test_positions_are_the_trained_ones(shapes: SimpleNamespace) -> None:
    for grid in ((1, 1, 1), (5, 4, 3), (2, 3, 9)):
        features = position_features(grid)
        assert features.shape == (grid[0] * grid[1] * grid[2], NUM_FEATURES)
        torch.testing.assert_close(features, shapes.dit.position_features(grid), rtol=0, atol=1e-12)


def test_classes_are_found_by_the_checkpoints_names() -> None:
    assert transformer_class("ShapesVideoDiT").__name__ == "ShapesTransformer"
    assert vae_class("ShapesVideoVAE").__name__ == "ShapesVAE"
    for find, what in ((transformer_class, "transformer"), (vae_class, "VAE")):
        with pytest.raises(ValueError, match=f"^the {what} class 'Mystery' is not known; this packdit knows .*Shapes"):
            find("Mystery")
