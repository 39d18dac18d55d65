"""A prompt to an encoder's states: the bundle's tokenizer and transformers' own encoder classes, cached by prompt."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .bundle import Bundle
from .load import fill_module
from .request import quote
from .threads import one_thread

CACHE_BYTES = 2**28

CLASSES = {
    "CLIPTextModel": "CLIPTextConfig",
    "CLIPTextModelWithProjection": "CLIPTextConfig",
    "T5EncoderModel": "T5Config",
    "UMT5EncoderModel": "UMT5Config",
    "LlamaModel": "LlamaConfig",
    "CLIPVisionModel": "CLIPVisionConfig",
}
"""transformers' classes that encode prompts and images, and those of their configs."""

OPTIONAL_PREFIXES = ("text_model.", "vision_model.", "model.")
"""Of the names of tensors: some versions of transformers write them, some do not."""

SHARED, EMBEDDING = "shared.weight", "encoder.embed_tokens.weight"  # T5's names of one tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a pipeline has an encoder read a prompt, as a bundle's `prompt` says it.

    tokenizer: the folder of its tokenizer.json. length: tokens at most, those of `template` included; None: as many as
    the encoder has positions. pad: the token that fills up to `length`; None: the tokens alone, which is also what an
    encoder gives that fills up and hides the filling. hidden: the filling is hidden, but its states are kept. keep:
    "all" states, or those of "real" tokens. template: has {} for the prompt; skip: its first states, which are left
    out. layer: an index of hidden_states in place of the last, normed state. pooled: the output that is the pooled
    state.
    """

    component: str = "text_encoder"
    tokenizer: str = "tokenizer"
    length: int | None = None
    pad: str | None = None
    hidden: bool = False
    keep: str = "all"
    template: str | None = None
    skip: int = 0
    layer: int | None = None
    pooled: str | None = None


PLAIN = Reading()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """What an encoder makes of a prompt of `real` tokens: states [L, D], and its pooled state [P]."""

    states: Tensor
    pooled: Tensor | None
    real: int


class TextEncoder:
    """Encodes one prompt at a time and on one thread, so that its bits depend on the prompt alone."""

    def __init__(
        self,
        tokenizer: Path,
        config: dict[str, Any],
        weights: dict[str, Tensor],
        name: str = "CLIPTextModel",
        reading: Reading = PLAIN,
    ) -> None:
        """tokenizer: a tokenizer.json. config and weights: of transformers' class `name`, one of CLASSES."""
        from tokenizers import Tokenizer

        try:
            self.tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # it raises nothing narrower
            raise ValueError(f"{quote(str(tokenizer))} cannot be read as a tokenizer: {quote(error)}") from error
        self.model, settings = load_encoder(name, config, weights, "text encoder")
        self.device = next(iter(weights.values())).device
        self.reading = reading
        self.pad: int | None = self.tokenizer.token_to_id(reading.pad) if reading.pad is not None else None
        if self.pad is None and reading.pad is not None:
            raise ValueError(f"the tokenizer {quote(str(tokenizer))} has no token {quote(reading.pad)} to fill up with")
        self.limit: int = reading.length or settings.max_position_embeddings
        self._cache: OrderedDict[str, Encoded] = OrderedDict()
        self._cached = 0

    def __call__(self, prompt: str) -> Tensor:
        """States [L, D] of a prompt. With a plain `Reading` of CLIP start and end token are included, and the last one
        is the pooled state."""
        return self.read(prompt).states

    def read(self, prompt: str) -> Encoded:
        """The states of a prompt, kept while there is room."""
        if prompt in self._cache:
            self._cache.move_to_end(prompt)
            return self._cache[prompt]
        ids = self._tokens(prompt)
        with torch.inference_mode(), one_thread():
            encoded = self._encode(ids)
        self._cache[prompt] = encoded
        self._cached += encoded.states.nbytes
        while self._cached > CACHE_BYTES and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].states.nbytes
        return encoded

    def _tokens(self, prompt: str) -> list[int]:
        """At most `limit` tokens, start and end token included. A cut is warned of."""
        template, skip = self.reading.template, self.reading.skip
        text = template.replace("{}", prompt) if template else prompt
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        ids: list[int] = self.tokenizer.encode(text).ids
        if len(ids) > self.limit:
            cut = f"the last {len(ids) - self.limit} are cut"
            warnings.warn(f"the prompt has {len(ids) - skip} tokens; {cut}", stacklevel=2)
            self.tokenizer.enable_truncation(self.limit)
            ids = self.tokenizer.encode(text).ids
        return ids

    def _encode(self, ids: list[int]) -> Encoded:
        reading, real = self.reading, len(ids)
        if self.pad is not None:
            ids = ids + [self.pad] * (self.limit - real)
        inputs = {"input_ids": torch.tensor([ids], device=self.device)}
        if reading.hidden:
            inputs["attention_mask"] = (torch.arange(len(ids), device=self.device) < real).long()[None]
        out = self.model(**inputs, output_hidden_states=reading.layer is not None)
        states = out.last_hidden_state if reading.layer is None else out.hidden_states[reading.layer]
        kept = states[0, reading.skip : real if reading.keep == "real" else None]
        pooled = getattr(out, reading.pooled)[0].clone() if reading.pooled else None
        return Encoded(states=kept.clone(), pooled=pooled, real=real - reading.skip)


def load_encoder(
    name: str, config: dict[str, Any], weights: dict[str, Tensor], what: str
) -> tuple[torch.nn.Module, Any]:
    """transformers' model of class `name` around `weights`, which are not copied, and its config object.

    ValueError for a class, a config or tensors that do not fit.
    """
    import transformers

    if name not in CLASSES:
        raise ValueError(f"the {what} class {quote(name)} is not known; known are {', '.join(CLASSES)}")
    make = getattr(transformers, name)
    try:
        settings = getattr(transformers, CLASSES[name])(**config)
    except Exception as error:
        raise ValueError(f"the {what}'s config cannot be used: {quote(error)}") from error
    with torch.device("meta"):
        wanted = make(settings).state_dict().keys()
    model = fill_module(make, settings, _named(wanted, weights), what)
    device = next(iter(weights.values())).device
    part: Any
    for part in model.modules():  # buffers that no checkpoint holds
        if hasattr(part, "position_ids"):
            part.position_ids = torch.arange(part.position_ids.shape[-1], device=device)[None]
        if hasattr(part, "rotary_emb"):
            part.rotary_emb = type(part.rotary_emb)(settings).to(device)
    return model, settings


def _named(wanted: Iterable[str], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names of this version of transformers; T5's one embedding under both of its names."""

    def bare(name: str) -> str:
        return next((name.removeprefix(p) for p in OPTIONAL_PREFIXES if name.startswith(p)), name)

    names = {bare(name): name for name in wanted}
    named = {names.get(bare(k), k): v for k, v in weights.items() if not k.endswith("position_ids")}
    for name, other in ((SHARED, EMBEDDING), (EMBEDDING, SHARED)):
        if name in names and name not in named and other in named:
            named[name] = named[other]
    return named


def load_text_encoder(
    bundle: Bundle, device: torch.device, dtype: torch.dtype, reading: Reading = PLAIN
) -> TextEncoder:
    """The encoder of a bundle that `reading` names."""
    name = bundle.class_name(reading.component)
    if dtype == torch.float16 and name in ("T5EncoderModel", "UMT5EncoderModel"):
        dtype = torch.float32  # their activations exceed float16's range
    weights = {k: v.to(device, dtype) for k, v in bundle.weights(reading.component).items()}
    tokenizer = bundle.path(f"{reading.tokenizer}/tokenizer.json")
    return TextEncoder(tokenizer, bundle.config(reading.component), weights, name, reading)
