"""A pipeline's tokenizers: each becomes one `tokenizer.json`, which is what the runtime reads."""

from __future__ import annotations

import shutil
from pathlib import Path

from tokenizers import Tokenizer

from ..runtime.request import quote
from . import spiece
from .source import Source, read_json

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"


def write_tokenizers(source: Source, folder: Path) -> list[Path]:
    """Writes each tokenizer that the pipeline names into a folder of its name. Returns the files.

    ValueError where one is missing or cannot be read.
    """
    names = [name for name, told in (source.index or {}).items() if name.startswith("tokenizer") and all(told)]
    return [path for name in names for path in write_tokenizer(source.folder / name, folder / name)]


def write_tokenizer(source: Path, target: Path) -> list[Path]:
    """Copies a tokenizer; one in an older layout (a vocabulary with merges, a sentencepiece model) is translated."""
    if not (source / SETTINGS).is_file():
        raise ValueError(f"{quote(str(source / SETTINGS))} is missing; the prompt needs its tokenizer")
    target.mkdir()
    if (source / FILE).is_file():
        shutil.copyfile(source / FILE, target / FILE)
    else:
        translate(source, target / FILE)
    shutil.copyfile(source / SETTINGS, target / SETTINGS)
    try:
        Tokenizer.from_file(str(target / FILE))
    except Exception as error:  # it raises nothing narrower
        raise ValueError(f"{quote(str(source / FILE))} cannot be read as a tokenizer: {quote(error)}") from error
    return [target / FILE, target / SETTINGS]


def translate(source: Path, target: Path) -> None:
    """Writes the tokenizer in `source`, as transformers understands it, as one file. ValueError where it does not."""
    try:
        if (source / "spiece.model").is_file():  # of T5; transformers would need another library for it
            spiece.read((source / "spiece.model").read_bytes(), read_json(source / SETTINGS)).save(str(target))
        else:
            from transformers import AutoTokenizer

            AutoTokenizer.from_pretrained(source, local_files_only=True).backend_tokenizer.save(str(target))
    except Exception as error:  # each layout that is not there or wrong ends differently
        raise ValueError(
            f"{quote(str(source / FILE))} is missing; the prompt needs its tokenizer, and none can be made of what is "
            f"there: {quote(error)}"
        ) from error
