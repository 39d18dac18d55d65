"""T5's tokenizer from a sentencepiece model, as transformers makes it of the same vocabulary."""

import struct
from typing import Any

import pytest

from packdit.export import spiece

PIECES = [  # a piece, its score and its type
    *(("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2)),
    *(("▁a", -1.0, 1), ("b", -2.0, 1), ("▁", -3.0, 1), ("ab", -1.5, 1), ("é", -9.0, 1), ("▁" + "z" * 200, -4.0, None)),
]
PROMPTS = ["", "a", "ab a b  xab", " ab</s>b a<pad>", "<unk>", "é è\t\nab", "z" * 200, "<extra_id_1> b<extra_id_0>"]


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, value: int | float | bytes) -> bytes:
    """One field of a message."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def model(pieces: list[Any] = PIECES, kind: int = 1) -> bytes:
    messages = [field(1, n.encode()) + field(2, s) + (field(3, t) if t else b"") for n, s, t in pieces]
    trainer = field(3, kind) + field(4, 70_000) + field(10, 0.9995) + varint(11 << 3 | 1) + bytes(8)
    return b"".join(field(1, m) for m in messages) + field(2, trainer) + field(3, field(1, b"nmt_nfkc") + field(3, 1))


def test_prompts_become_what_transformers_makes_of_them() -> None:
    from transformers import T5Tokenizer

    extra = ["<extra_id_0>", "<extra_id_1>"]
    want = T5Tokenizer(vocab=[(n, s) for n, s, _ in PIECES], extra_ids=2, additional_special_tokens=extra)
    added = {str(want.convert_tokens_to_ids(name)): {"content": name} for name in reversed(extra)}
    got = spiece.read(model(), {"eos_token": {"content": "</s>"}, "added_tokens_decoder": added})
    for prompt in PROMPTS:
        assert got.encode(prompt).ids == want.encode(prompt), prompt
    assert got.token_to_id("z" * 200) is None
    assert got.decode(got.encode("ab a b").ids) == want.decode(want.encode("ab a b"), skip_special_tokens=True)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "truncated or no sentencepiece model"),
        (b"\xff" * 9, "truncated or no sentencepiece model"),
        (b"PK\x03\x04" * 9, "truncated or no sentencepiece model"),
        (model()[:-1], "truncated"),
        (model(PIECES[3:]), "truncated or no sentencepiece model"),
        (model(kind=2), "no unigram model"),
    ],
)
def test_what_is_none(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        spiece.read(data, {})
