"""From a bundle to models: weights in memory, and the plain calls that people embed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import patchify, unpatchify
from ..kernels.backend import check, choose, using
from .bundle import Bundle, open_bundle
from .models import transformer_class, vae_class
from .models.layers import dtypes, lay_out
from .models.quantized import dequantized, quantized_module
from .models.transformer import PackedModel
from .pack import Grid, Pack, Segment, make_pack
from .request import quote
from .threads import one_thread
from .vae import StreamingVAE

MAX_LAYOUTS = 64
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(device: str) -> torch.device:
    """The device called `device`; "auto" is a GPU where there is one. ValueError where it is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu or cuda[:n], got {quote(device)}") from error
    if picked.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda[:n], got {quote(device)}")
    if picked.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device} was asked for, but PyTorch finds no GPU here; use cpu or auto")
    return picked


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype called `dtype`; "auto" is bf16 on a GPU and fp32, which the C++ kernels take, on a CPU."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of auto, {', '.join(DTYPES)}, got {quote(dtype)}")
    return DTYPES[dtype]


def empty_module(make: Callable[[Any], Any], config: Any, what: str) -> nn.Module:
    """`make(config)` without memory. ValueError that names what is wrong with the config."""
    try:
        with torch.device("meta"):
            module: nn.Module = make(config)
    except Exception as error:  # a config is data: each key or value that is not there or wrong ends differently
        raise ValueError(f"the {what}'s config cannot be used: {quote(error)}") from error
    return module


def fill_module(make: Callable[[Any], Any], config: Any, weights: dict[str, Tensor], what: str) -> nn.Module:
    """`make(config)` with these weights. ValueError as `empty_module`, and one that names the first tensor that is
    missing, unused or misshapen."""
    module = empty_module(make, config, what)
    shapes = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    for name, shape in shapes.items():
        if name not in weights:
            raise ValueError(f"the {what} lacks the tensor {quote(name)} of shape {shape}")
        if tuple(weights[name].shape) != shape:
            raise ValueError(f"the {what}'s tensor {quote(name)} is {tuple(weights[name].shape)} instead of {shape}")
    for name in weights:
        if name not in shapes:
            raise ValueError(f"the {what} has a tensor that nothing uses: {quote(name)}")
    module.load_state_dict(weights, strict=True, assign=True)
    return module.requires_grad_(False).eval()


class PackedTransformer:
    """A transformer for any mix of shapes in one call."""

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype, backend: str | None) -> None:
        self.model: PackedModel = model
        self.device, self.dtype, self.backend = device, dtype, backend
        self._layouts: dict[tuple[Any, ...], dict[str, Tensor]] = {}

    def layout(self, grid: Grid, **extras: float) -> dict[str, Tensor]:
        """What the tokens of a (t, y, x) grid know of their places; kept, because sizes recur."""
        key = (grid, *sorted(extras.items()))
        if key not in self._layouts:
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            precision = torch.float64 if self.dtype == torch.float64 else torch.float32
            with one_thread():
                layout = self.model.layout(grid, **extras)
            self._layouts[key] = {k: v.to(self.device, precision) for k, v in layout.items()}
        return self._layouts[key]

    def token_grid(self, latent: Grid) -> Grid:
        """The grid of tokens of a (t, y, x) latent. ValueError where patches do not divide it."""
        if any(n < 1 or n % p for n, p in zip(latent, self.model.patch, strict=True)):
            raise ValueError(f"latents of {latent} (t, y, x) do not divide into patches of {self.model.patch}")
        t, y, x = (n // p for n, p in zip(latent, self.model.patch, strict=True))
        return t, y, x

    @torch.inference_mode()
    def run(self, tokens: Tensor, pack: Pack) -> Tensor:
        """Packed tokens [T, C] -> the model's output [T, C_out]."""
        with using(self.backend):
            out: Tensor = self.model(tokens, pack)
        return out

    @torch.inference_mode()
    def embed_text(self, text: Tensor) -> Tensor:
        """Text states of one prompt [l, D] -> what a `Segment` holds of them. ValueError for another shape."""
        if text.ndim != 2 or text.shape[1] != self.model.text_width or not len(text):
            raise ValueError(f"text must be [L, {self.model.text_width}] with L at least 1, got {list(text.shape)}")
        with using(self.backend):
            return self.model.embed_text(text.to(self.device, self.dtype))

    @torch.inference_mode()
    def embed_extra(self, name: str, value: float | Tensor) -> Tensor:
        """One clip's value of one of the model's `extras`, as `embed_text`. ValueError for another shape."""
        shape, given = self.model.extras[name], torch.as_tensor(value)
        if given.ndim != len(shape) or any(w not in (None, g) for g, w in zip(given.shape, shape, strict=True)):
            wanted = f"[{', '.join('any' if n is None else str(n) for n in shape)}]" if shape else "a number"
            raise ValueError(f"{name} must be {wanted} for each clip, got {list(given.shape)}")
        with using(self.backend):
            return self.model.embed_extra(name, given.to(self.device, self.dtype if shape else torch.float32))

    def segment(
        self, grid: Grid, timestep: float | Tensor, text: Tensor | None, extras: dict[str, float | Tensor]
    ) -> Segment:
        """One clip of a (t, y, x) grid of tokens; arguments as in the call."""
        row, timesteps = _condition_rows(timestep, grid)
        places = {name: float(extras[name]) for name in self.model.layout_extras}
        return Segment(
            grid=grid,
            layout=self.layout(grid, **places),
            row=row,
            timesteps=timesteps,
            text=torch.empty(0, 0, device=self.device, dtype=self.dtype) if text is None else self.embed_text(text),
            extra={name: self.embed_extra(name, value) for name, value in extras.items() if name not in places},
        )

    @torch.inference_mode()
    def __call__(
        self,
        *,
        latents: Sequence[Tensor],
        timesteps: Sequence[float | Tensor],
        text: Sequence[Tensor] | None = None,
        **extras: Sequence[float | Tensor],
    ) -> list[Tensor]:
        """latents [C, T, H, W], text states [L, D], timesteps a float or a tensor [T] or [tokens], and what else the
        model's `extras` name, a value a clip: lists of one length. Text and timesteps are what diffusers' class takes.

        Returns out[i], [C_out, T, H, W] in float32: what the model predicts for clip i, on the CPU the same bits in any
        company. ValueError for other shapes.
        """
        grids = self._check(latents, timesteps, text, extras)
        texts: Sequence[Tensor | None] = [None] * len(grids) if text is None else text
        keywords = [{name: values[i] for name, values in extras.items()} for i in range(len(grids))]
        places = [self.token_grid(grid) for grid in grids]
        segments = [self.segment(*clip) for clip in zip(places, timesteps, texts, keywords, strict=True)]
        tokens = patchify([z.to(self.device, self.dtype) for z in latents], self.model.patch)
        out = self.run(tokens, make_pack(self.model, segments, self.device))
        return unpatchify(out.float(), grids, self.model.patch)

    def _check(
        self, latents: Sequence[Tensor], timesteps: Sequence[Any], text: Sequence[Any] | None, extras: dict[str, Any]
    ) -> list[Grid]:
        """The latents' (t, y, x). ValueError unless every list has as many entries, and the model takes each."""
        if (text is None) != (self.model.text_width == 0):
            raise ValueError("this model takes no text" if text is not None else "this model needs text")
        count = len(latents) if text is None else len(text)
        if not len(latents) == len(timesteps) == count or not latents:
            raise ValueError(f"one timestep and one text a latent: got {len(latents)}, {len(timesteps)}, {count}")
        if extras.keys() != self.model.extras.keys():
            wanted = ", ".join(self.model.extras) or "nothing"
            raise ValueError(f"beside text this model takes {wanted}, got {quote(', '.join(extras) or 'nothing')}")
        for name, values in extras.items():
            if len(values) != len(latents):
                raise ValueError(f"one {name} a latent: got {len(values)} for {len(latents)} latents")
        for z in latents:
            if z.ndim != 4 or z.shape[0] != self.model.in_channels:
                raise ValueError(f"latents must be [{self.model.in_channels}, T, H, W], got {list(z.shape)}")
        return [(z.shape[1], z.shape[2], z.shape[3]) for z in latents]


def _condition_rows(timestep: float | Tensor, grid: Grid) -> tuple[Tensor, list[float]]:
    """Row of each token, int64 [tokens], and the timestep of each row: a row a distinct timestep."""
    frames, count = grid[0], grid[0] * grid[1] * grid[2]
    value = torch.as_tensor(timestep, dtype=torch.float32).cpu()
    if value.ndim > 1 or value.numel() not in (1, frames, count):
        raise ValueError(f"a timestep must be a float, [{frames}] or [{count}], got {list(value.shape)}")
    distinct, inverse = value.reshape(-1).repeat_interleave(count // value.numel()).unique(return_inverse=True)
    return inverse, distinct.tolist()


def _load(
    bundle: Bundle, component: str, make: Callable[[Any], Any], device: str, dtype: str, backend: str
) -> tuple[nn.Module, torch.device, torch.dtype, str | None]:
    """A component's module with its weights laid out, and the device, dtype and backend that were picked for it."""
    check(backend)
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    name = "VAE" if component == "vae" else component
    choose(f"the {name}", backend, torch.empty(0, device=place, dtype=kind))
    stored = bundle.weights(component)
    if place.type != "cpu" or kind != torch.float32:  # int8 is for the CPU's kernels
        stored = dequantized(stored)
    made = partial(quantized_module, make, stored)
    kinds = dtypes(empty_module(made, bundle.config(component), name), kind)
    weights = {k: v.to(place, kinds.get(k, kind)) for k, v in stored.items()}
    model = fill_module(made, bundle.config(component), weights, name)
    lay_out(model)
    return model, place, kind, None if backend == "auto" else backend


def load_transformer(
    bundle: Bundle | str | Path,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    *,
    component: str = "transformer",
) -> PackedTransformer:
    """The transformer of a bundle (a name that ships, a directory, or an opened one), or its `component`
    "transformer_2". ValueError for what cannot be."""
    opened = open_bundle(bundle)
    make = transformer_class(opened.class_name(component))
    return PackedTransformer(*_load(opened, component, make, device, dtype, backend))


def load_vae(
    bundle: Bundle | str | Path, device: str = "auto", dtype: str = "auto", backend: str = "auto"
) -> StreamingVAE:
    """The VAE of a bundle, as `load_transformer`."""
    opened = open_bundle(bundle)
    model, place, kind, kernels = _load(opened, "vae", vae_class(opened.class_name("vae")), device, dtype, backend)
    return StreamingVAE(model, opened.config("vae"), place, kind, kernels)
