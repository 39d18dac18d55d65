"""A pipeline's tokenizers, in whatever layout, become what the runtime reads."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from packdit.export.source import Source
from packdit.export.tokenizer import write_tokenizer, write_tokenizers

VOCABULARY = ["a", "b", "a</w>", "b</w>", "ab", "ab</w>", "<|startoftext|>", "<|endoftext|>"]
SETTINGS = {
    "tokenizer_class": "CLIPTokenizer",
    "bos_token": "<|startoftext|>",
    **dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A vocabulary and merges, as Stable Diffusion 3's repository has them."""
    folder = tmp_path / "tokenizer_2"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(VOCABULARY)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b\na b</w>\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    return folder


def refusal(source: Path, target: Path) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the caller looks at the message
        write_tokenizer(source, target)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) <= 300, message
    return message


def test_every_tokenizer_that_the_pipeline_names(pipeline_dir: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").symlink_to(pipeline_dir / "tokenizer")
    (tmp_path / "made").mkdir()
    index: dict[str, Any] = {
        "_class_name": "SomePipeline",
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": [None, None],
    }
    source = Source(folder=tmp_path, index=index, components={}, configs={})
    written = write_tokenizers(source, tmp_path / "made")
    names = [path.relative_to(tmp_path / "made").as_posix() for path in written]
    files = ("tokenizer.json", "tokenizer_config.json")
    assert names == [f"{folder}/{file}" for folder in ("tokenizer", "tokenizer_2") for file in files]
    assert written[0].read_bytes() == (pipeline_dir / "tokenizer" / "tokenizer.json").read_bytes()
    tokenizer = Tokenizer.from_file(str(written[2]))
    assert tokenizer.encode("ab AB a").ids == [6, 5, 5, 2, 7]


def test_a_component_has_no_tokenizer(tmp_path: Path) -> None:
    assert write_tokenizers(Source(folder=tmp_path, index=None, components={}, configs={}), tmp_path) == []


def test_what_is_missing(clip: Path, tmp_path: Path) -> None:
    (clip / "vocab.json").unlink()
    assert "is missing; the prompt needs its tokenizer, and none can be made of" in refusal(clip, tmp_path / "a")
    (clip / "tokenizer_config.json").unlink()
    assert "is missing; the prompt needs its tokenizer" in refusal(clip, tmp_path / "b")


@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model"])
def test_what_cannot_be_read(clip: Path, tmp_path: Path, name: str) -> None:
    (clip / name).write_text("{")
    said = refusal(clip, tmp_path / "made")
    assert ("cannot be read as a tokenizer" if name == "tokenizer.json" else "spiece.model is truncated") in said
