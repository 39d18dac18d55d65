"""What a packed model is compared with on random inputs: diffusers' own class, else the op references in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..runtime.bundle import Bundle
from ..runtime.load import PackedTransformer, empty_module, fill_module
from ..runtime.models import transformer_class, vae_class
from ..runtime.vae import StreamingVAE
from .plan import renamed
from .source import Component

GRIDS = ((1, 2, 2), (3, 4, 3), (2, 2, 5))  # of tokens
TIMESTEPS = (900.0, 500.0, 20.0)
LATENT = (3, 4, 6)  # frames, height, width

Clip = dict[str, Any]
Result = tuple[str, list[Tensor]]  # what was run, and what it gave


def clips_of(part: Component) -> list[Clip]:
    """Random clips of several shapes: the arguments of the packed call, of each list one entry."""
    model = empty_module(transformer_class(part.class_name), part.settings, part.title)
    generator = torch.Generator().manual_seed(0)
    clips = [random_clip(model, grid, timestep, generator) for grid, timestep in zip(GRIDS, TIMESTEPS, strict=True)]
    return [part.module.adapt(part.settings, clip) for clip in clips] if hasattr(part.module, "adapt") else clips


def random_clip(model: Any, grid: Sequence[int], timestep: float, generator: torch.Generator) -> Clip:
    """The arguments of a packed model's call for one clip of a grid of tokens, of each list one entry."""
    sides = [n * p for n, p in zip(grid, model.patch, strict=True)]
    clip: Clip = {"latents": torch.randn(model.in_channels, *sides, generator=generator), "timesteps": timestep}
    if model.text_width:
        clip["text"] = torch.randn(4 * grid[0] - 1, model.text_width, generator=generator)
    for name, shape in model.extras.items():
        clip[name] = torch.randn([5 if n is None else n for n in shape], generator=generator)
    return clip


def run_transformer(model: PackedTransformer, clips: Sequence[Clip]) -> list[Tensor]:
    """All clips in one pack."""
    return model(**{name: [clip[name] for clip in clips] for name in clips[0]})


def run_vae(channels: int, decode: Callable[[Tensor], Tensor], encode: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """A random latent decoded, and a random video of the size that comes out encoded."""
    generator = torch.Generator().manual_seed(1)
    pixels = decode(torch.randn(channels, *LATENT, generator=generator))
    return [pixels, encode(torch.rand(pixels.shape, generator=generator) * 2 - 1)]


def reference(exact: Bundle, part: Component, clips: Sequence[Clip]) -> Result:
    """The most independent of what there is: the family's own unfused model, diffusers' class, the op references.

    exact: the bundle with unrounded weights. clips: for a transformer.
    """
    if unfused := getattr(part.module, "UNFUSED", None):
        tensors = {name: stored.read().double() for name, stored in renamed(part).items()}
        model = fill_module(unfused, part.settings, tensors, part.title)
        return "op references in float64 on the source's weights", _run_references(model, part, clips)
    if peer := diffusers_model(part):
        import diffusers

        with torch.inference_mode():
            return f"diffusers {diffusers.__version__} in float32", _run_diffusers(peer, part, clips)
    make = (transformer_class if part.kind == "transformer" else vae_class)(part.class_name)
    tensors = {name: tensor.double() for name, tensor in exact.weights(part.name).items()}
    model = fill_module(make, part.settings, tensors, part.title)
    return "op references in float64 on the fused weights", _run_references(model, part, clips)


def _run_references(model: Any, part: Component, clips: Sequence[Clip]) -> list[Tensor]:
    where, kind = torch.device("cpu"), torch.float64
    if part.kind == "transformer":
        return run_transformer(PackedTransformer(model, where, kind, "reference"), clips)
    vae = StreamingVAE(model, part.settings, where, kind, "reference")
    return run_vae(vae.latent_channels, vae.decode, vae.encode)


def diffusers_model(part: Component) -> Any:
    """diffusers' own model with the source's tensors, in float32; None where there is no diffusers or no such class."""
    try:
        import diffusers

        make = getattr(diffusers, part.class_name, None)
    except (ImportError, RuntimeError):  # RuntimeError: an import of its own failed
        return None
    if make is None:
        return None
    model = make.from_config(part.config).requires_grad_(False).eval()
    stored = renamed(part)
    for name, tensor in model.state_dict().items():
        if name in stored:
            tensor.copy_(stored[name].read())
    return model


def _run_diffusers(model: Any, part: Component, clips: Sequence[Clip]) -> list[Tensor]:
    """Clips one at a time, or what `run_vae` runs."""
    if part.kind == "transformer":
        return [getattr(part.module, "peer", call_transformer)(model, **clip) for clip in clips]
    decode = partial(getattr(part.module, "decode", call_decode), model)
    encode = partial(getattr(part.module, "encode", call_encode), model)
    packed: Any = empty_module(vae_class(part.class_name), part.settings, part.title)
    return run_vae(packed.latent_channels, decode, encode)


def call_transformer(model: Any, *, latents: Tensor, timesteps: float, text: Tensor) -> Tensor:
    """diffusers' transformer as most classes are called: [C, T, H, W] -> [C_out, T, H, W]."""
    (out,) = model(latents[None], torch.tensor([timesteps]), text[None], return_dict=False)
    result: Tensor = out[0]
    return result


def call_decode(model: Any, latent: Tensor) -> Tensor:
    """diffusers' VAE of videos: [C, T, H, W] -> [3, frames, height, width]."""
    result: Tensor = model.decode(latent[None]).sample[0]
    return result


def call_encode(model: Any, video: Tensor) -> Tensor:
    """The inverse of `call_decode`, the distribution's mode."""
    result: Tensor = model.encode(video[None]).latent_dist.mode()[0]
    return result
