"""From a bundle to models: weights in memory, and the plain calls that people embed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels import patchify, unpatchify
from ..kernels.backend import check, choose, using
from .bundle import Bundle, open_bundle
from .models import transformer_class, vae_class
from .models.layers import lay_out
from .pack import Grid, Pack, offsets
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
        self.model, self.device, self.dtype, self.backend = model, device, dtype, backend
        self._layouts: dict[Grid, dict[str, Tensor]] = {}

    def layout(self, grid: Grid) -> dict[str, Tensor]:
        """What the tokens of a (t, y, x) grid know of their places; kept, because sizes recur."""
        if grid not in self._layouts:
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            precision = torch.float64 if self.dtype == torch.float64 else torch.float32
            with one_thread():
                layout = self.model.layout(grid)
            self._layouts[grid] = {k: v.to(self.device, precision) for k, v in layout.items()}
        return self._layouts[grid]

    def token_grid(self, latent: Grid) -> Grid:
        """The grid of tokens of a (t, y, x) latent. ValueError where patches do not divide it."""
        if any(n < 1 or n % p for n, p in zip(latent, self.model.patch, strict=True)):
            raise ValueError(f"latents of {latent} (t, y, x) do not divide into patches of {self.model.patch}")
        t, y, x = (n // p for n, p in zip(latent, self.model.patch, strict=True))
        return t, y, x

    @torch.inference_mode()
    def run(self, tokens: Tensor, pack: Pack) -> Tensor:
        """Packed tokens [T, C] -> the model's output [T, C]."""
        with using(self.backend):
            out: Tensor = self.model(tokens, pack)
        return out

    @torch.inference_mode()
    def __call__(
        self, *, latents: Sequence[Tensor], timesteps: Sequence[float | Tensor], text: Sequence[Tensor]
    ) -> list[Tensor]:
        """latents [C, T, H, W], text states [L, D], timesteps a float or a tensor [T] or [tokens]; lists of one length.

        Returns out[i], [C, T, H, W] in float32: what the model predicts for clip i, on the CPU the same bits in any
        company. ValueError for other shapes.
        """
        if not len(latents) == len(timesteps) == len(text) or not latents:
            raise ValueError(f"one timestep and one text a latent: got {len(latents)}, {len(timesteps)}, {len(text)}")
        for z in latents:
            if z.ndim != 4 or z.shape[0] != self.model.in_channels:
                raise ValueError(f"latents must be [{self.model.in_channels}, T, H, W], got {list(z.shape)}")
        for states in text:
            if states.ndim != 2 or states.shape[1] != self.model.text_width or not len(states):
                raise ValueError(
                    f"text must be [L, {self.model.text_width}] with L at least 1, got {list(states.shape)}"
                )
        latent_grids: list[Grid] = [(z.shape[1], z.shape[2], z.shape[3]) for z in latents]
        grids = [self.token_grid(g) for g in latent_grids]
        lengths = [t * y * x for t, y, x in grids]
        rows, times, owners = _condition_rows(timesteps, grids)
        layouts = [self.layout(g) for g in grids]
        pack = Pack(
            cu_seqlens=offsets(lengths).to(self.device),
            row=rows.to(self.device),
            timestep=times.to(self.device),
            row_segment=owners.to(self.device),
            text=torch.cat([t.to(self.device, self.dtype) for t in text]),
            cu_seqlens_text=offsets([len(t) for t in text]).to(self.device),
            layout={k: torch.cat([layout[k] for layout in layouts]) for k in layouts[0]},
            max_seqlen=max(lengths),
        )
        tokens = patchify([z.to(self.device, self.dtype) for z in latents], self.model.patch)
        return unpatchify(self.run(tokens, pack).float(), latent_grids, self.model.patch)


def _condition_rows(timesteps: Sequence[float | Tensor], grids: list[Grid]) -> tuple[Tensor, Tensor, Tensor]:
    """Row of each token int32 [T], timestep [R] and segment int32 [R] of each row: a row a distinct timestep a clip."""
    rows: list[Tensor] = []
    times: list[Tensor] = []
    owners: list[Tensor] = []
    for i, (timestep, grid) in enumerate(zip(timesteps, grids, strict=True)):
        frames, count = grid[0], grid[0] * grid[1] * grid[2]
        value = torch.as_tensor(timestep, dtype=torch.float32).cpu()
        if value.ndim > 1 or value.numel() not in (1, frames, count):
            raise ValueError(f"a timestep must be a float, [{frames}] or [{count}], got {list(value.shape)}")
        per_token = value.reshape(-1).repeat_interleave(count // value.numel())
        distinct, inverse = per_token.unique(return_inverse=True)
        rows.append(inverse + sum(len(t) for t in times))
        times.append(distinct)
        owners.append(torch.full((len(distinct),), i))
    return torch.cat(rows).to(torch.int32), torch.cat(times), torch.cat(owners).to(torch.int32)


def _load(
    bundle: Bundle, component: str, make: Callable[[Any], Any], device: str, dtype: str, backend: str
) -> tuple[nn.Module, torch.device, torch.dtype, str | None]:
    """A component's module with its weights laid out, and the device, dtype and backend that were picked for it."""
    check(backend)
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    name = "VAE" if component == "vae" else component
    choose(f"the {name}", backend, torch.empty(0, device=place, dtype=kind))
    weights = {k: v.to(place, kind) for k, v in bundle.weights(component).items()}
    model = fill_module(make, bundle.config(component), weights, name)
    lay_out(model)
    return model, place, kind, None if backend == "auto" else backend


def load_transformer(
    bundle: Bundle | str | Path, device: str = "auto", dtype: str = "auto", backend: str = "auto"
) -> PackedTransformer:
    """The transformer of a bundle (a name that ships, a directory, or an opened one). ValueError for what cannot be."""
    opened = open_bundle(bundle)
    make = transformer_class(opened.class_name("transformer"))
    return PackedTransformer(*_load(opened, "transformer", make, device, dtype, backend))


def load_vae(
    bundle: Bundle | str | Path, device: str = "auto", dtype: str = "auto", backend: str = "auto"
) -> StreamingVAE:
    """The VAE of a bundle, as `load_transformer`."""
    opened = open_bundle(bundle)
    model, place, kind, kernels = _load(opened, "vae", vae_class(opened.class_name("vae")), device, dtype, backend)
    return StreamingVAE(model, opened.config("vae"), place, kind, kernels)
