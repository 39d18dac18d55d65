"""Proof that a bundle computes what its source does: the op references in float64 on the source's unfused weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..runtime.bundle import Bundle
from ..runtime.load import DTYPES, PackedTransformer, fill_module, load_transformer, load_vae
from ..runtime.models import vae_class
from ..runtime.text import TextEncoder, load_text_encoder
from ..runtime.vae import StreamingVAE
from .shapes import UnfusedTransformer

# Relative to the largest value of the reference's output: what float32 arithmetic loses in a few hundred operations.
LIMIT = 1e-4

Tensors = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What is compared."""

    transformer: PackedTransformer
    vae: StreamingVAE
    text: TextEncoder


def verify_bundle(bundle: Bundle, source: Tensors, fused: Tensors) -> dict[str, Any]:
    """Runs the bundle and its source on random inputs of three shapes in one pack, on a random clip, and on prompts.

    `source` holds the transformer as it was trained; the VAE and the text encoder are only renamed and reshaped and are
    taken from `fused`. Returns what `bundle.json` keeps: the largest relative errors against a source whose weights are
    rounded as the bundle stores them (ValueError where one exceeds LIMIT), and how much that rounding itself changes.
    """
    weights = {**fused, "transformer": source["transformer"]}
    kind = DTYPES[bundle.description["dtype"]]
    exact = _exact(bundle, weights)
    stored = _exact(bundle, {k: {n: t.to(kind) for n, t in v.items()} for k, v in weights.items()})
    cpu = torch.device("cpu")
    got = Models(
        transformer=load_transformer(bundle, "cpu", "fp32"),
        vae=load_vae(bundle, "cpu", "fp32"),
        text=load_text_encoder(bundle, cpu, torch.float32),
    )
    text_width = bundle.config("text_encoder")["hidden_size"]
    outputs = [_run(models, text_width) for models in (got, stored, exact)]
    errors, rounding = _compare(*outputs[:2]), _compare(*outputs[1:])
    for name, error in errors.items():
        if not error <= LIMIT:
            raise ValueError(f"the exported {name} differs from its source by {error:.2g}, more than {LIMIT:g}")
    return {
        "against": "op references in float64 on the source's weights",
        "relative_error": errors,
        "limit": LIMIT,
        "rounding": rounding,
    }


def _exact(bundle: Bundle, weights: Tensors) -> Models:
    """The source in float64."""
    cpu, kind = torch.device("cpu"), torch.float64
    wide = {k: {n: t.to(kind) for n, t in v.items()} for k, v in weights.items()}
    config = {name: bundle.config(name) for name in wide}
    transformer = fill_module(UnfusedTransformer, config["transformer"], wide["transformer"], "transformer")
    vae = fill_module(vae_class(bundle.class_name("vae")), config["vae"], wide["vae"], "VAE")
    tokenizer = bundle.path("tokenizer/tokenizer.json")
    return Models(
        transformer=PackedTransformer(transformer, cpu, kind, "reference"),
        vae=StreamingVAE(vae, config["vae"], cpu, kind, "reference"),
        text=TextEncoder(tokenizer, config["text_encoder"], wide["text_encoder"]),
    )


def _run(models: Models, text_width: int) -> dict[str, list[Tensor]]:
    """What each component makes of the same random inputs."""
    generator = torch.Generator().manual_seed(1)
    video = torch.rand(3, 9, 32, 48, generator=generator) * 2 - 1
    latent = models.vae.denormalize(torch.randn(models.vae.latent_channels, 3, 4, 6, generator=generator))
    return {
        "transformer": models.transformer(**_packed_arguments(models.transformer.model.in_channels, text_width)),
        "vae": [models.vae.encode(video), models.vae.decode(latent)],
        "text_encoder": [models.text(prompt) for prompt in ("", "a red circle moves right")],
    }


def _compare(got: dict[str, list[Tensor]], want: dict[str, list[Tensor]]) -> dict[str, float]:
    """The largest relative error of each component, NaN where there is one."""
    return {name: float(torch.stack(list(map(_relative, got[name], want[name]))).max()) for name in want}


def _packed_arguments(channels: int, text_width: int) -> dict[str, Any]:
    """Three clips, one of them with given frames."""
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(channels, *grid, generator=generator) for grid in ((1, 4, 4), (3, 8, 6), (2, 4, 12))]
    text = [torch.randn(length, text_width, generator=generator) for length in (3, 9, 1)]
    return {"latents": latents, "timesteps": [900.0, torch.tensor([0.0, 500.0, 500.0]), 20.0], "text": text}


def _relative(got: Tensor, want: Tensor) -> Tensor:
    return (got.double() - want.double()).abs().max() / want.double().abs().max()
