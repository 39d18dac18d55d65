"""Prompts to text states: the bundle's tokenizer and transformers' own encoder classes, cached by prompt."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .bundle import Bundle
from .load import fill_module
from .request import quote
from .threads import one_thread

CACHE_SIZE = 1024


class TextEncoder:
    """Encodes one prompt at a time, unpadded and on one thread, so that its bits depend on the prompt alone."""

    def __init__(self, tokenizer: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """tokenizer: a tokenizer.json. config: CLIPTextConfig's fields. weights: without the prefix "text_model."."""
        from tokenizers import Tokenizer
        from transformers import CLIPTextConfig, CLIPTextModel

        def make(settings: Any) -> Any:
            model = CLIPTextModel(settings)
            return getattr(model, "text_model", model)  # transformers 4 wraps the model in another

        try:
            settings: Any = CLIPTextConfig(**config)
        except Exception as error:
            raise ValueError(f"the text encoder's config cannot be used: {quote(error)}") from error
        try:
            self.tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # it raises nothing narrower
            raise ValueError(f"{quote(str(tokenizer))} cannot be read as a tokenizer: {quote(error)}") from error
        self.tokenizer.no_truncation()  # so that a cut can be warned of
        self.model = fill_module(make, settings, weights, "text encoder")
        self.device = next(iter(weights.values())).device
        self.limit: int = settings.max_position_embeddings
        self.end: int = settings.eos_token_id
        for part in self.model.modules():  # buffers that no checkpoint holds
            if hasattr(part, "position_ids"):
                part.position_ids = torch.arange(self.limit, device=self.device)[None]
        self._cache: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, prompt: str) -> Tensor:
        """States [L, D] of a prompt, start and end token included; the last one is CLIP's pooled state."""
        if prompt in self._cache:
            self._cache.move_to_end(prompt)
            return self._cache[prompt]
        ids = self.tokenizer.encode(prompt).ids
        if len(ids) > self.limit:
            warnings.warn(f"the prompt has {len(ids)} tokens; the last {len(ids) - self.limit} are cut", stacklevel=2)
            ids = [*ids[: self.limit - 1], self.end]
        with torch.inference_mode(), one_thread():
            states: Tensor = self.model(input_ids=torch.tensor([ids], device=self.device)).last_hidden_state[0]
        self._cache[prompt] = states
        if len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return states


def load_text_encoder(bundle: Bundle, device: torch.device, dtype: torch.dtype) -> TextEncoder:
    """The text encoder of a bundle."""
    weights = {k: v.to(device, dtype) for k, v in bundle.weights("text_encoder").items()}
    return TextEncoder(bundle.path("tokenizer/tokenizer.json"), bundle.config("text_encoder"), weights)
