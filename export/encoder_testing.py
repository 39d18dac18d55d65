"""Small random encoders and tokenizers of the classes that pipelines have, for tests of prompts and whole pipelines."""

from __future__ import annotations

from typing import Any

from .testing import randomize

WORDS = "a red blue circle square moves right left on black background & the describe video".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEMPLATE_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def t5_tokenizer() -> Any:
    """Words and letters of T5 (and UMT5); ids 0, 1, 2 fill up, end and stand for what is unknown."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), *((f"▁{word}", -2.0) for word in WORDS), ("▁", -3.0)]
    return T5Tokenizer(vocab=[*pieces, *((c, -5.0) for c in LETTERS)], extra_ids=0, model_max_length=128)


def clip_tokenizer(pad: str = "<|endoftext|>") -> Any:
    """Letters of CLIP, with one merge."""
    from transformers import CLIPTokenizer

    tokens = ["!", "&</w>", *LETTERS, *(f"{c}</w>" for c in LETTERS), "re", "red</w>", "<|startoftext|>"]
    vocab = {token: i for i, token in enumerate([*tokens, "<|endoftext|>"])}
    merges: Any = [("r", "e"), ("re", "d</w>")]
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=77)


def llama_tokenizer() -> Any:
    """Words and what stands between them, with the tokens of a chat template; it starts every text, and fills up on the
    right. What stands before the prompt in HunyuanVideo's template are 95 tokens, as in the published tokenizer."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = ["<|begin_of_text|>", *TEMPLATE_TOKENS, "<pad>", "<unk>", *WORDS, *"of.,:0123456789"]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    parts = [pre_tokenizers.Split(part, "isolated") for part in ("\n\n", "aspect")]
    words = [pre_tokenizers.Split(Regex(" +"), "removed"), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(True)]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*parts, *words])
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    special = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="right", **special)
    tokenizer.add_special_tokens({"additional_special_tokens": list(TEMPLATE_TOKENS)})
    return tokenizer


def t5_encoder(width: int = 32, seed: int = 0, *, multilingual: bool = False) -> Any:
    """T5's encoder, or UMT5's."""
    import transformers

    names = ("UMT5Config", "UMT5EncoderModel") if multilingual else ("T5Config", "T5EncoderModel")
    config, model = (getattr(transformers, name) for name in names)
    sizes: dict[str, Any] = {"d_model": width, "d_kv": 8, "d_ff": 37, "num_layers": 2, "num_heads": 4}
    return randomize(model(config(vocab_size=64, feed_forward_proj="gated-gelu", **sizes)), seed)


def clip_text_encoder(width: int = 32, seed: int = 1, *, projection: int | None = None) -> Any:
    """CLIP's text model; with a projection to a width where one is given."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=37,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return randomize((CLIPTextModelWithProjection if projection else CLIPTextModel)(config), seed)


def llama_encoder(width: int = 32, seed: int = 2) -> Any:
    """LLaMA without its head."""
    from transformers import LlamaConfig, LlamaModel

    sizes: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 37,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    config = LlamaConfig(num_key_value_heads=2, vocab_size=128, pad_token_id=4, bos_token_id=0, eos_token_id=3, **sizes)
    return randomize(LlamaModel(config), seed)


def clip_vision_encoder(width: int = 32, seed: int = 3) -> Any:
    """CLIP's image model, for pictures of 28 x 28."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 37,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    return randomize(CLIPVisionModel(CLIPVisionConfig(image_size=28, patch_size=14, **sizes)), seed)
