"""Prompts to text states: the bundle's tokenizer and transformers' own encoder classes, cached by prompt."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from .bundle import Bundle
from .request import quote
from .threads import one_thread

CACHE_SIZE = 1024


class TextEncoder:
    """Encodes one prompt at a time, unpadded and on one thread, so that its bits depend on the prompt alone."""

    def __init__(self, bundle: Bundle, device: torch.device, dtype: torch.dtype) -> None:
        from tokenizers import Tokenizer
        from transformers import CLIPTextConfig, CLIPTextModel

        self.tokenizer = Tokenizer.from_file(str(bundle.path("tokenizer/tokenizer.json")))
        self.tokenizer.no_truncation()  # so that a cut can be warned of
        config: Any = CLIPTextConfig(**bundle.config("text_encoder"))
        with torch.device("meta"):
            model: Any = CLIPTextModel(config)
        # transformers 4 puts this prefix before every name, transformers 5 does not; bundles have none.
        prefix = "text_model." if next(iter(model.state_dict())).startswith("text_model.") else ""
        weights = {prefix + k: v.to(device, dtype) for k, v in bundle.weights("text_encoder").items()}
        missing = model.load_state_dict(weights, strict=False, assign=True).missing_keys
        if missing:
            raise ValueError(f"the text encoder of {quote(str(bundle.folder))} lacks the tensor {quote(missing[0])}")
        for part in model.modules():  # buffers that no checkpoint holds
            if hasattr(part, "position_ids"):
                part.position_ids = torch.arange(config.max_position_embeddings, device=device)[None]
        self.model, self.device = model.requires_grad_(False).eval(), device
        self.limit: int = config.max_position_embeddings
        self.end: int = config.eos_token_id
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
