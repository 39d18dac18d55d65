"""What models are told, against transformers' own tokenizers and encoders called as diffusers' pipelines call them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from packdit.export import encoder_testing as small
from packdit.runtime import Request
from packdit.runtime.prompts import Classes, Described, Plan, Prompts, Told, understand
from packdit.runtime.request import CompleteRequest
from packdit.runtime.text import Reading, TextEncoder

PROMPTS = ["a red circle moves right", "", "a blue &amp; red   square", "red " * 40]
TEMPLATE = "<|start_header_id|>video<|end_header_id|>\n\n{}<|eot_id|>"

pytestmark = pytest.mark.filterwarnings("ignore:the prompt has:UserWarning")


def asked(prompt: str, negative: str = "", guidance: float = 3.0, embedded: bool = False) -> CompleteRequest:
    sizes: dict[str, Any] = {"width": 64, "height": 64, "frames": 5, "fps": 8, "steps": 4, "sampler": "default"}
    guided = guidance != 1 and not embedded
    return CompleteRequest(prompt=prompt, negative_prompt=negative, guidance=guidance, guided=guided, **sizes)


def encoder(folder: Path, model: Any, tokenizer: Any, **reading: Any) -> TextEncoder:
    """As a bundle's is loaded."""
    tokenizer.save_pretrained(folder)
    config = model.config.to_dict()
    name = type(model).__name__
    return TextEncoder(folder / "tokenizer.json", config, model.state_dict(), name, Reading(**reading))


def tokens(tokenizer: Any, prompt: str, length: int) -> tuple[Tensor, Tensor]:
    """ids and mask [1, length], filled up."""
    out = tokenizer([prompt], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return out.input_ids, out.attention_mask


def close(got: Tensor | None, want: Tensor) -> None:
    assert got is not None
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_wan_counts_its_zero_rows(tmp_path: Path, prompt: str) -> None:
    model, tokenizer = small.t5_encoder(multilingual=True), small.t5_tokenizer()
    prompts = Prompts(
        {"text_encoder": encoder(tmp_path, model, tokenizer, length=24)}, Plan(zero_rows=24, clean="entities")
    )
    told = prompts(asked(prompt, "a square"))
    assert len(told) == 2
    for said, text in zip(told, (prompt.replace("&amp;", "&"), "a square"), strict=True):
        ids, mask = tokens(tokenizer, text, 24)
        want = model(ids, mask).last_hidden_state[0, : mask.sum()]
        assert said.text is not None
        close(said.text[: len(want)], want)
        if len(want) == 24:
            assert (len(said.text), said.bias) == (24, None)
        else:
            assert not said.text[len(want) :].any()
            close(said.bias, torch.tensor([0.0] * len(want) + [math.log(24 - len(want))]))


@pytest.mark.parametrize("keep", ["all", "real"])
def test_filling_that_is_attended_to(tmp_path: Path, keep: str) -> None:
    """CogVideoX and Flux keep the filling, LTX leaves it out."""
    model, tokenizer = small.t5_encoder(), small.t5_tokenizer()
    prompts = Prompts({"text_encoder": encoder(tmp_path, model, tokenizer, length=20, pad="<pad>", keep=keep)}, Plan())
    for prompt in PROMPTS:
        ids, mask = tokens(tokenizer, prompt, 20)
        want = model(ids)[0][0]
        (told,) = prompts(asked(prompt, guidance=1.0))
        close(told.text, want if keep == "all" else want[: mask.sum()])
        assert told.extra == {}


def test_latte_cuts_the_negative_prompt_to_the_prompts_length(tmp_path: Path) -> None:
    model, tokenizer = small.t5_encoder(), small.t5_tokenizer()
    reading = {"length": 20, "pad": "<pad>", "hidden": True}
    prompts = Prompts(
        {"text_encoder": encoder(tmp_path, model, tokenizer, **reading)}, Plan(as_prompt=True, clean="lower")
    )
    for prompt, negative in (("A red Circle ", "a blue square moves right on the left"), ("a red circle moves", "")):
        states = [
            model(ids, attention_mask=mask)[0][0]
            for ids, mask in (tokens(tokenizer, text.lower().strip(), 20) for text in (prompt, negative))
        ]
        count = int(tokens(tokenizer, prompt.lower(), 20)[1].sum())
        told = prompts(asked(prompt, negative))
        for said, want in zip(told, states, strict=True):
            close(said.text, want[:count])


def test_hunyuan_leaves_its_template_out_and_is_told_its_guidance(tmp_path: Path) -> None:
    llama, clip = small.llama_encoder(), small.clip_text_encoder()
    tokenizer, tokenizer_2 = small.llama_tokenizer(), small.clip_tokenizer()
    reading = {"length": 30, "template": TEMPLATE, "skip": 5, "layer": -3}
    pooling = {"length": 77, "pad": tokenizer_2.pad_token, "pooled": "pooler_output"}
    prompts = Prompts(
        {
            "text_encoder": encoder(tmp_path / "1", llama, tokenizer, **reading),
            "text_encoder_2": encoder(tmp_path / "2", clip, tokenizer_2, **pooling),
        },
        Plan(pooled=("text_encoder_2",), guidance=1000.0),
    )
    for prompt in PROMPTS:
        ids, mask = tokens(tokenizer, TEMPLATE.format(prompt), 30)
        want = llama(ids, attention_mask=mask, output_hidden_states=True).hidden_states[-3][0, 5 : mask.sum()]
        (told,) = prompts(asked(prompt, guidance=6.0, embedded=True))
        close(told.text, want)
        pooled = told.extra["pooled"]
        assert isinstance(pooled, Tensor)
        close(pooled, clip(tokens(tokenizer_2, prompt, 77)[0]).pooler_output[0])
        assert told.extra["guidance"] == 6000.0


@pytest.mark.parametrize("with_t5", [True, False])
def test_sd3_lays_its_encoders_side_by_side_and_below(tmp_path: Path, with_t5: bool) -> None:
    clips = small.clip_text_encoder(16, 1, projection=24), small.clip_text_encoder(24, 2, projection=20)
    tokenizers = small.clip_tokenizer(), small.clip_tokenizer(pad="!")
    t5, t5_tokenizer = small.t5_encoder(48), small.t5_tokenizer()
    names = ("text_encoder", "text_encoder_2")
    reading = {"length": 77, "layer": -2, "pooled": "text_embeds"}
    encoders = {
        name: encoder(tmp_path / name, model, tokenizer, pad=tokenizer.pad_token, **reading)
        for name, model, tokenizer in zip(names, clips, tokenizers, strict=True)
    }
    if with_t5:
        encoders["text_encoder_3"] = encoder(tmp_path / "3", t5, t5_tokenizer, length=20, pad="<pad>")
        plan = Plan(text=(names, ("text_encoder_3",)), pooled=names)
    else:
        plan = Plan(text=(names,), append=(20, 48), pooled=names)
    for prompt in PROMPTS:
        outs = [
            model(tokens(tokenizer, prompt, 77)[0], output_hidden_states=True)
            for model, tokenizer in zip(clips, tokenizers, strict=True)
        ]
        side = torch.cat([out.hidden_states[-2][0] for out in outs], 1)
        below = t5(tokens(t5_tokenizer, prompt, 20)[0])[0][0] if with_t5 else torch.zeros(20, 48)
        want = torch.cat([torch.nn.functional.pad(side, (0, 8)), below])
        (told,) = Prompts(encoders, plan)(asked(prompt, guidance=1.0))
        close(told.text, want)
        pooled = told.extra["pooled"]
        assert isinstance(pooled, Tensor)
        close(pooled, torch.cat([out.text_embeds[0] for out in outs]))


def test_bits_do_not_depend_on_what_else_was_read(tmp_path: Path) -> None:
    model, tokenizer = small.t5_encoder(), small.t5_tokenizer()
    first, second = (encoder(tmp_path, model, tokenizer, length=20, pad="<pad>") for _ in range(2))
    states = [first.read(prompt).states for prompt in PROMPTS]
    for prompt, want in list(zip(PROMPTS, states, strict=True))[::-1]:
        assert torch.equal(second.read(prompt).states, want)


def labels(told: list[Told]) -> list[float | Tensor]:
    return [said.extra["labels"] for said in told]


def test_a_class_instead_of_a_prompt() -> None:
    classes = Classes({"tench": 0, "golden retriever": 207}, 1000)
    assert labels(classes(asked("golden retriever"))) == [207, 1000]
    assert labels(classes(asked(" 17 ", guidance=1.0))) == [17]
    assert labels(classes(asked(""))) == [1000, 1000]
    for prompt in ("dog", "1001", "-1", "9" * 40):
        with pytest.raises(ValueError, match=r"a number from 0 to 999, or a name \(tench, golden"):
            classes.check(Request(prompt=prompt))
    with pytest.raises(ValueError, match="no negative prompt, got 'cat'"):
        classes.check(Request(prompt="17", negative_prompt="cat"))


def test_cut_prompts_are_warned_of(tmp_path: Path) -> None:
    reading = {"length": 30, "template": TEMPLATE, "skip": 5, "layer": -3}
    made = encoder(tmp_path, small.llama_encoder(), small.llama_tokenizer(), **reading)
    with pytest.warns(UserWarning, match=r"the prompt has \d+ tokens; the last \d+ are cut"):
        made.read("red " * 40)


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "song", "encoders": [{}]},
        {"kind": "text"},
        {"kind": "text", "encoders": [{"speed": 3}]},
        {"kind": "text", "encoders": [{}], "clean": "soap"},
        {"kind": "text", "encoders": [{}], "image": {"side": 3}},
        {"kind": "class", "names": [], "null": 3},
        {"kind": "class", "names": {}, "null": "x"},
    ],
)
def test_a_prompt_that_cannot_be_understood(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"the bundle's prompt cannot be understood: .*; export it again"):
        understand(data)


def test_a_prompt_without_a_word_is_one_plain_encoder() -> None:
    described = understand(None)
    assert isinstance(described, Described)
    assert (described.components, described.plan) == (["text_encoder"], Plan())
