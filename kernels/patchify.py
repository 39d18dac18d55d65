"""Latents of many shapes to one sequence of patch tokens, and back: data movement only.

Source: patch embedding of DiT (arXiv 2212.09748, section 3.2) over time and space, packed as in NaViT (arXiv
2307.06304). Tokens of a clip run over t, then y, then x; the features of a token over c, then pt, ph, pw.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .backend import choose
from .op import custom_op
from .tensors import check_tensor, dense_rows

Grid = tuple[int, int, int]


def patchify_reference(latents: list[Tensor], patch: Grid) -> Tensor:
    """The definition, in plain PyTorch. Arguments as in `patchify`."""
    pt, ph, pw = patch
    packed = []
    for x in latents:
        channels, frames, height, width = x.shape
        x = x.reshape(channels, frames // pt, pt, height // ph, ph, width // pw, pw)
        packed.append(x.permute(1, 3, 5, 0, 2, 4, 6).reshape(-1, channels * pt * ph * pw))
    return torch.cat(packed)


def unpatchify_reference(tokens: Tensor, grids: list[Grid], patch: Grid) -> list[Tensor]:
    """The inverse of `patchify_reference`. Arguments as in `unpatchify`."""
    pt, ph, pw = patch
    channels = tokens.shape[1] // (pt * ph * pw)
    latents, start = [], 0
    for frames, height, width in grids:
        t, y, x = frames // pt, height // ph, width // pw
        clip = tokens[start : start + t * y * x].reshape(t, y, x, channels, pt, ph, pw)
        start += t * y * x
        clip = clip.permute(3, 0, 4, 1, 5, 2, 6).reshape(channels, frames, height, width)
        latents.append(clip.clone(memory_format=torch.contiguous_format))
    return latents


def _triples(flat: list[int]) -> list[Grid]:
    """Custom ops take flat lists only: [t0, h0, w0, t1, ...] -> [(t0, h0, w0), ...]."""
    return list(zip(flat[0::3], flat[1::3], flat[2::3], strict=True))


@custom_op("patchify", device_types="default")
def _patchify(latents: list[Tensor], patch: list[int]) -> Tensor:
    return patchify_reference(latents, _triples(patch)[0])


@custom_op("patchify_triton", device_types="default")
def _patchify_triton(latents: list[Tensor], patch: list[int]) -> Tensor:
    from .triton_patchify import launch_patchify  # triton is optional

    return launch_patchify(latents, patch)


@torch.library.register_fake("packdit::patchify_triton")
@torch.library.register_fake("packdit::patchify")
def _(latents: list[Tensor], patch: list[int]) -> Tensor:
    num_tokens = sum(x[0].numel() // math.prod(patch) for x in latents)
    return latents[0].new_empty(num_tokens, latents[0].shape[0] * math.prod(patch))


@custom_op("unpatchify", device_types="default")
def _unpatchify(tokens: Tensor, grids: list[int], patch: list[int]) -> list[Tensor]:
    return unpatchify_reference(tokens, _triples(grids), _triples(patch)[0])


@custom_op("unpatchify_triton", device_types="default")
def _unpatchify_triton(tokens: Tensor, grids: list[int], patch: list[int]) -> list[Tensor]:
    from .triton_patchify import launch_unpatchify  # triton is optional

    return launch_unpatchify(dense_rows(tokens), _triples(grids), patch)


@torch.library.register_fake("packdit::unpatchify_triton")
@torch.library.register_fake("packdit::unpatchify")
def _(tokens: Tensor, grids: list[int], patch: list[int]) -> list[Tensor]:
    channels = tokens.shape[1] // math.prod(patch)
    return [tokens.new_empty(channels, *grid) for grid in _triples(grids)]


def _save_grids(ctx: Any, inputs: tuple[list[Tensor], list[int]], output: Tensor) -> None:
    latents, ctx.patch = inputs
    ctx.grids = [size for x in latents for size in x.shape[1:]]


def _patchify_backward(ctx: Any, grad: Tensor) -> tuple[list[Tensor], None]:
    return _unpatchify(grad, ctx.grids, ctx.patch), None


def _save_patch(ctx: Any, inputs: tuple[Tensor, list[int], list[int]], output: list[Tensor]) -> None:
    ctx.patch = inputs[2]


def _unpatchify_backward(ctx: Any, grads: list[Tensor]) -> tuple[Tensor, None, None]:
    return _patchify(grads, ctx.patch), None, None


# Each is the other's inverse and transpose.
torch.library.register_autograd("packdit::patchify", _patchify_backward, setup_context=_save_grids)
torch.library.register_autograd("packdit::unpatchify", _unpatchify_backward, setup_context=_save_patch)


def check_grid(name: str, grid: Sequence[int], patch: Grid) -> None:
    """Raises ValueError unless the three sides of grid are multiples of the patch."""
    if len(patch) != 3 or min(patch) < 1:
        raise ValueError(f"{name}: patch is {patch}; allowed: three sizes of at least 1")
    if len(grid) != 3 or any(size % side for size, side in zip(grid, patch, strict=True)):
        raise ValueError(f"{name} is {tuple(grid)}; allowed: (frames, height, width) in multiples of {patch}")


def _choose(op: str, backend: str | None, tensors: list[Tensor]) -> str:
    """Noise and pictures are made on the CPU, whatever the backend of the model that they are for."""
    on_cpu = backend is None and tensors[0].device.type == "cpu"
    return "reference" if on_cpu else choose(op, backend, *tensors)


def patchify(latents: list[Tensor], patch: Grid, *, backend: str | None = None) -> Tensor:
    """Latents [C, T, H, W] of any sizes, in multiples of patch (pt, ph, pw), as tokens [sum, C * pt * ph * pw].

    ValueError for an empty list, other shapes, or latents that differ in channels, dtype or device.
    """
    if not latents:
        raise ValueError("patchify: latents is empty; allowed: at least one clip")
    first = latents[0]
    for index, x in enumerate(latents):
        check_tensor(f"patchify: latents[{index}]", x, (first.shape[0], None, None, None), (first.dtype,), first.device)
        check_grid(f"patchify: the grid of latents[{index}]", x.shape[1:], patch)
    op = _patchify_triton if _choose("patchify", backend, latents) == "triton" else _patchify
    return op(latents, list(patch))


def unpatchify(tokens: Tensor, grids: list[Grid], patch: Grid, *, backend: str | None = None) -> list[Tensor]:
    """The inverse of `patchify`: one contiguous [C, T, H, W] for each latent size (T, H, W) in grids.

    tokens [sum, C * pt * ph * pw]. ValueError when grids and patch do not cover the tokens exactly.
    """
    for index, grid in enumerate(grids):
        check_grid(f"unpatchify: grids[{index}]", grid, patch)
    features = math.prod(patch)
    num_tokens = sum(math.prod(grid) // features for grid in grids)
    check_tensor("unpatchify: tokens", tokens, (num_tokens, None), (tokens.dtype,))
    if tokens.shape[1] % features:
        raise ValueError(f"unpatchify: tokens have {tokens.shape[1]} features; allowed: multiples of {features}")
    op = _unpatchify_triton if _choose("unpatchify", backend, [tokens]) == "triton" else _unpatchify
    return op(tokens, [size for grid in grids for size in grid], list(patch))
