"""The text side of the shapes model: a word tokenizer and a small CLIP text encoder, both transformers' own classes."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast
from world import BACKGROUNDS, COLORS, MOTIONS, SHAPES

WORDS = "a an the is are on in and of with move moves moving go goes going stay stays does not".split()
WORDS += "background picture image video clip shape object one two behind grow grows growing shrink shrinks".split()
START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
MAX_LENGTH = 32


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-cased words, each a token, between a start and an end token."""
    names = [START, END, UNKNOWN, *COLORS, *BACKGROUNDS, *SHAPES, *MOTIONS, *WORDS]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        pad_token=END,
        model_max_length=MAX_LENGTH,
    )


def make_encoder(tokenizer: PreTrainedTokenizerFast, width: int = 128, layers: int = 2) -> CLIPTextModel:
    """A CLIP text model (arXiv 2103.00020) of `layers` layers, with this tokenizer's vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",  # captions are short
        )
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Ids [n, longest] and lengths [n]."""
    batch = tokenizer(captions, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"].sum(1)


def pooled(encoder: CLIPTextModel, ids: Tensor, lengths: Tensor) -> Tensor:
    """The final hidden state at the end token [n, width]; attention is causal, so padding after it has no effect."""
    hidden = encoder(input_ids=ids).last_hidden_state
    return hidden[torch.arange(len(ids)), lengths - 1]
