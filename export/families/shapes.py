"""The transformer that examples/shapes trains, and its pipeline: the sizes that it can do."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...runtime.load import empty_module
from ...runtime.models.layers import Linear
from ...runtime.models.shapes import ShapesTransformer
from ..entry import Entry

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


UNFUSED = UnfusedTransformer


def entries(config: dict[str, Any]) -> list[Entry]:
    """One modulation matrix in the order of the blocks, the head's last; all else keeps its name."""
    fused = {
        f"modulation.{part}": (
            *(f"blocks.{i}.modulation.{part}" for i in range(config["depth"])),
            f"modulation.{part}",
        )
        for part in ("weight", "bias")
    }
    names = empty_module(ShapesTransformer, config, "transformer").state_dict()
    return [Entry(name, fused.get(name, (name,))) for name in names]


def describe(index: dict[str, Any], configs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The pipeline: one prompt encoder, the schedule's shift, and the sizes that it can do.

    Trained on sides to 96 and 17 frames; longer is allowed.
    """
    transformer, vae, text, scheduler = (configs[name] for name in ("transformer", "vae", "text_encoder", "scheduler"))
    for what, got, want in (
        ("latent channels", transformer["in_channels"], vae["latent_channels"]),
        ("text features", transformer["text_width"], text["hidden_size"]),
    ):
        if got != want:
            raise ValueError(f"the transformer takes {got} {what}, but the other component gives {want}")
    return {
        "prompt": None,
        "schedule": None,
        "limits": {
            "side_step": 8 * transformer["patch_size"][1],
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
        },
    }
