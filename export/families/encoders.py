"""Text and image encoders: transformers' own classes, whose tensors are kept as they are."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...runtime.load import empty_module
from ..entry import Entry, rename

FUSED: tuple[str, ...] = ()
IGNORED = (r"position_ids$", r"rotary_emb\.inv_freq$")  # buffers that versions of transformers before 5 saved
RENAMED = (
    (r"^(text|vision)_model\.", ""),  # which classes have this prefix depends on the version of transformers
    (r"^encoder\.embed_tokens\.", "shared."),  # T5 saves the one matrix under either name
)


def tensors(config: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors, on the meta device, of the class that the config names. ValueError for a config it cannot use."""
    import transformers

    name = config["architectures"][0]
    make = getattr(transformers, name)
    model = empty_module(lambda settings: make(make.config_class(**settings)), config, "text encoder")
    return {rename(RENAMED, name): tensor for name, tensor in model.state_dict().items()}


def entries(config: dict[str, Any]) -> list[Entry]:
    """Each as it is."""
    return [Entry(name, (name,)) for name in tensors(config)]
