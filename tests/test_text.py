"""The text encoder of a bundle against the one that was trained."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from packdit.runtime.bundle import Bundle
from packdit.runtime.text import TextEncoder, load_text_encoder

PROMPTS = ["", "a red circle moves right on a black background", "An UNKNOWN word, and punctuation!", "赤い円"]


@pytest.fixture
def encoder(bundle_dir: Path) -> TextEncoder:
    return load_text_encoder(Bundle.open(bundle_dir), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_states_are_the_trained_encoders(
    encoder: TextEncoder, models: SimpleNamespace, shapes: SimpleNamespace, prompt: str
) -> None:
    ids, lengths = shapes.text.tokenize(models.tokenizer, [prompt, "a red circle " * 5])
    with torch.no_grad():
        want = models.encoder(input_ids=ids).last_hidden_state[0, : lengths[0]]
        pooled = shapes.text.pooled(models.encoder, ids, lengths)[0]
    states = encoder(prompt)
    torch.testing.assert_close(states, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states[-1], pooled, rtol=1e-4, atol=1e-5)


def test_the_empty_prompt_is_a_start_and_an_end(encoder: TextEncoder) -> None:
    assert encoder("").shape == (2, 24)


def test_bits_depend_on_the_prompt_alone(bundle_dir: Path, encoder: TextEncoder) -> None:
    states, before = [encoder(prompt) for prompt in PROMPTS], torch.get_num_threads()
    try:
        torch.set_num_threads(2 if before == 1 else 1)
        other = load_text_encoder(Bundle.open(bundle_dir), torch.device("cpu"), torch.float32)
        for prompt, want in list(zip(PROMPTS, states, strict=True))[::-1]:
            assert torch.equal(other(prompt), want)
    finally:
        torch.set_num_threads(before)


def test_threads_are_as_before(encoder: TextEncoder) -> None:
    before = torch.get_num_threads()
    encoder("a prompt of its own")
    assert torch.get_num_threads() == before


def test_a_long_prompt_is_cut_with_a_warning_and_keeps_its_end(encoder: TextEncoder, models: SimpleNamespace) -> None:
    encoder("red " * 30)  # with start and end just short enough
    with pytest.warns(UserWarning, match="the prompt has 33 tokens; the last 1 are cut"):
        states = encoder("red " * 31)
    end = models.tokenizer.eos_token_id
    ids = models.tokenizer("red " * 30)["input_ids"]
    assert (len(ids), ids[-1]) == (32, end)
    assert torch.equal(states, encoder("red " * 30))


def test_prompts_are_kept_but_not_without_end(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packdit.runtime.text.CACHE_BYTES", 2 * encoder("red").nbytes)
    red, blue = encoder("red"), encoder("blue")
    assert encoder("red") is red
    encoder("green")
    assert encoder("red") is red
    assert encoder("blue") is not blue
    assert len(encoder._cache) == 2
    assert encoder._cached == 2 * red.nbytes


def test_what_is_no_tokenizer(bundle_dir: Path, tmp_path: Path) -> None:
    bundle, file = Bundle.open(bundle_dir), tmp_path / "tokenizer.json"
    for text in ("", "{}", '{"model": 1}'):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"cannot be read as a tokenizer: Exception") as caught:
            TextEncoder(file, bundle.config("text_encoder"), bundle.weights("text_encoder"))
        assert len(str(caught.value).splitlines()) == 1
