"""Proof that a bundle computes what its source does: the op references in float64 on the source's own weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..runtime.bundle import Bundle
from ..runtime.load import PackedTransformer, fill_module, load_transformer, load_vae
from ..runtime.models import transformer_class, vae_class
from ..runtime.vae import StreamingVAE

# Relative to the largest value of the reference's output. Weights stored in half precision lose what that rounding
# loses; an export that got something wrong is off by far more than any of these.
LIMITS = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02}


def verify_bundle(bundle: Bundle, source: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    """Runs both on random inputs of three shapes in one pack, and on a random clip.

    Returns what `bundle.json` keeps: how it was compared, and the largest relative errors. ValueError where an error
    exceeds what storing the weights in the bundle's dtype explains.
    """
    device, kind = torch.device("cpu"), torch.float64
    weights = {k: {n: t.to(kind) for n, t in v.items()} for k, v in source.items()}
    model = fill_module(
        transformer_class(bundle.family), bundle.config("transformer"), weights["transformer"], "transformer"
    )
    exact = PackedTransformer(model, device, kind, "reference")
    vae_model = fill_module(vae_class(bundle.family), bundle.config("vae"), weights["vae"], "VAE")
    exact_vae = StreamingVAE(vae_model, bundle.config("vae"), device, kind, "reference")
    errors = {
        "transformer": _transformer_error(exact, load_transformer(bundle, "cpu", "fp32"), bundle),
        "vae": _vae_error(exact_vae, load_vae(bundle, "cpu", "fp32")),
    }
    limit = LIMITS[bundle.description["dtype"]]
    for name, error in errors.items():
        if not error <= limit:
            raise ValueError(f"the exported {name} differs from its source by {error:.2g}, more than {limit:g}")
    return {"against": "op references in float64 on the source's weights", "relative_error": errors, "limit": limit}


def _transformer_error(exact: PackedTransformer, got: PackedTransformer, bundle: Bundle) -> float:
    generator = torch.Generator().manual_seed(0)
    channels, width = exact.model.in_channels, bundle.config("text_encoder")["hidden_size"]
    grids = [(1, 4, 4), (3, 8, 6), (2, 4, 12)]
    latents = [torch.randn(channels, *grid, generator=generator) for grid in grids]
    text = [torch.randn(length, width, generator=generator) for length in (3, 9, 1)]
    arguments: dict[str, Any] = {"latents": latents, "timesteps": [900.0, 500.0, 20.0], "text": text}
    pairs = zip(got(**arguments), exact(**arguments), strict=True)
    return max(_relative(a, b) for a, b in pairs)


def _vae_error(exact: StreamingVAE, got: StreamingVAE) -> float:
    video = torch.rand(3, 9, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latent = exact.encode(video)
    tries: list[Callable[[StreamingVAE], Tensor]] = [lambda vae: vae.encode(video), lambda vae: vae.decode(latent)]
    return max(_relative(run(got), run(exact)) for run in tries)


def _relative(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).abs().max() / want.double().abs().max())
