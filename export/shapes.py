"""How a trained shapes pipeline becomes a bundle: what is fused, and the sizes that the model can do."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

from ..runtime.models.layers import Linear
from ..runtime.models.shapes import ShapesTransformer

TRANSFORMER, VAE = "ShapesVideoDiT", "ShapesVideoVAE"
FUSED = ("the adaptive-norm projections of all blocks and of the head, in one matrix",)


class UnfusedTransformer(ShapesTransformer):
    """The transformer with the tensors that were trained, under their own names: it verifies the fused one."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.modulation = Linear(self.width, 2 * self.width)
        for block in self.blocks:
            block.modulation = Linear(self.width, 6 * self.width)

    def tables(self, condition: Tensor) -> list[Tensor]:
        parts: list[Any] = [*(block.modulation for block in self.blocks), self.modulation]
        return [table for part in parts for table in part(condition).split(self.width, 1)]


def fuse_transformer(config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """One modulation matrix in the order of the blocks, the head's last; all else keeps its name."""
    fused = dict(tensors)
    for part in ("weight", "bias"):
        names = [f"blocks.{i}.modulation.{part}" for i in range(config["depth"])] + [f"modulation.{part}"]
        fused[f"modulation.{part}"] = torch.cat([fused.pop(name) for name in names])
    return fused


def reshape_vae(shapes: dict[str, tuple[int, ...]], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convolutions from matrices [out, taps * in], as they are trained, to [out, kt, kh, kw, in]."""

    def shaped(name: str, tensor: Tensor) -> Tensor:
        shape = shapes.get(name, tuple(tensor.shape))
        return tensor.reshape(shape) if math.prod(shape) == tensor.numel() and len(shape) == 5 else tensor

    return {name: shaped(name, tensor) for name, tensor in ((rename(n), t) for n, t in tensors.items())}


def rename(name: str) -> str:
    """A trained VAE's name of a tensor -> the runtime's: the step that doubles the frames is one convolution."""
    return re.sub(r"(decoder\.grow\.\d+)\.time\.", r"\1.", name)


def limits(config: dict[str, Any], scheduler: dict[str, Any]) -> dict[str, Any]:
    """The fields of `packdit.runtime.request.Limits`. Trained on sides to 96 and 17 frames; longer is allowed."""
    return {
        "side_step": 8 * config["patch_size"][1],
        "min_side": 32,
        "max_side": 256,
        "frame_step": 4,
        "max_frames": 257,
        "max_tokens": 4096,
        "width": 64,
        "height": 64,
        "frames": 17,
        "fps": 8.0,
        "steps": 16,
        "guidance": 2.0,
        "sampler": "euler",
        "shift": scheduler.get("shift", 1.0),  # diffusers' own default
    }
