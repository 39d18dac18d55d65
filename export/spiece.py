"""T5's tokenizer from a sentencepiece model (`spiece.model`): the vocabulary is read without that library.

The file is a protocol buffer, `sentencepiece_model.proto`: pieces with scores in field 1, how it was trained in 2, how
text is normalized in 3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

UNIGRAM = 1  # trainer_spec.model_type
UNKNOWN, CONTROL = 2, 3  # a piece's type


def read(data: bytes, settings: dict[str, Any]) -> Tokenizer:
    """The tokenizer, as transformers makes it for T5: words after spaces, `eos_token` at the end.

    settings: tokenizer_config.json, for its `eos_token` and `added_tokens_decoder`. ValueError for what is no unigram
    model.
    """
    try:
        fields = list(_fields(data))
        pieces = [dict(_fields(value)) for number, value in fields if number == 1]
        trainer, normalizer = (dict(_fields(dict(fields).get(number, b""))) for number in (2, 3))
        vocabulary = [(p[1].decode(), struct.unpack("<f", p.get(2, b"\0\0\0\0"))[0]) for p in pieces]
        unknown = [p.get(3) for p in pieces].index(UNKNOWN)
    except (IndexError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError("spiece.model is truncated or no sentencepiece model") from error
    if trainer.get(3, UNIGRAM) != UNIGRAM:
        raise ValueError("spiece.model is no unigram model, which T5 has")
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unknown, byte_fallback=False))
    if normalizer.get(2):
        tokenizer.normalizer = normalizers.Precompiled(normalizer[2])
    spaces: dict[str, Any] = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    words = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**spaces)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    tokenizer.decoder = decoders.Metaspace(**spaces)
    special = [name for (name, _), p in zip(vocabulary, pieces, strict=True) if p.get(3) in (UNKNOWN, CONTROL)]
    special += [name for name in _added(settings) if name not in special]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    end = _content(settings.get("eos_token", "</s>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return tokenizer


def _added(settings: dict[str, Any]) -> list[str]:
    """The tokens that follow the model's own, in the order of their numbers."""
    added = settings.get("added_tokens_decoder", {})
    return [_content(added[key]) for key in sorted(added, key=int)]


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer's message: numbers, and values as integers or bytes.

    https://protobuf.dev/programming-guides/encoding
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"no kind of field: {kind}")
        length, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if at + length > len(data):
            raise IndexError("a field ends after the message")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the lowest first; the place after it."""
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1
