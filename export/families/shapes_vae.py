"""The VAE that examples/shapes trains."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from ...runtime.load import empty_module
from ...runtime.models.shapes_vae import ShapesVAE
from ..entry import Entry

FUSED: tuple[str, ...] = ()


def entries(config: dict[str, Any]) -> list[Entry]:
    """Convolutions are matrices [out, taps * in] as they are trained, and [out, kt, kh, kw, in] in the runtime."""
    tensors = empty_module(ShapesVAE, config, "VAE").state_dict()
    return [Entry(name, (trained(name),), partial(_shaped, tuple(t.shape))) for name, t in tensors.items()]


def _shaped(shape: tuple[int, ...], tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0].reshape(shape) if len(shape) == 5 else tensors[0]


def trained(name: str) -> str:
    """The runtime's name of a tensor -> as it is trained, where the step that doubles the frames is a module."""
    return re.sub(r"(decoder\.grow\.\d+)\.", r"\1.time.", name)
