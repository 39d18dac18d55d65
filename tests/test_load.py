"""The plain calls of a bundle's transformer: any shapes in one call, timesteps of every form, and what is refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from packdit.runtime import load_transformer, load_vae
from packdit.runtime.bundle import Bundle
from packdit.runtime.load import MAX_LAYOUTS, PackedTransformer, pick_device, pick_dtype
from packdit.runtime.models.transformer import PackedModel
from packdit.runtime.pack import Grid, Pack

GRIDS = [(1, 4, 4), (5, 8, 6), (2, 4, 12), (1, 2, 2), (3, 6, 4)]


@pytest.fixture(scope="module")
def model(bundle_dir: Path) -> PackedTransformer:
    return load_transformer(bundle_dir, device="cpu", dtype="fp32", backend="auto")


def inputs(grids: list[tuple[int, int, int]], seed: int = 0) -> dict[str, list[Any]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "latents": [torch.randn(4, *grid, generator=generator) for grid in grids],
        "timesteps": [1000 * float(torch.rand((), generator=generator)) for _ in grids],
        "text": [torch.randn(1 + i, 24, generator=generator) for i in range(len(grids))],
    }


def pick(arguments: dict[str, list[Any]], order: list[int]) -> dict[str, list[Any]]:
    return {name: [values[i] for i in order] for name, values in arguments.items()}


def test_any_shapes_in_one_call(model: PackedTransformer) -> None:
    out = model(**inputs(GRIDS))
    assert [tuple(z.shape) for z in out] == [(4, *grid) for grid in GRIDS]
    assert all(z.dtype == torch.float32 and z.isfinite().all() for z in out)


def test_alone_and_in_any_company_the_bits_are_the_same(model: PackedTransformer) -> None:
    arguments = inputs(GRIDS)
    arguments["timesteps"][1] = torch.tensor([0.0, 0.0, 300.0, 900.0, 900.0])
    together = model(**arguments)
    order = [3, 1, 4, 0, 2]
    for i, out in zip(order, model(**pick(arguments, order)), strict=True):
        assert torch.equal(out, together[i])
    for i in range(len(GRIDS)):
        (alone,) = model(**pick(arguments, [i]))
        assert torch.equal(alone, together[i])


def test_threads_do_not_change_a_bit(model: PackedTransformer) -> None:
    arguments, before = inputs([(9, 16, 16), (1, 4, 4)]), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(model(**arguments))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_timesteps_are_a_float_or_a_number_a_frame_or_a_token(model: PackedTransformer) -> None:
    arguments = inputs([(5, 8, 6)])
    tokens = 5 * 4 * 3
    (want,) = model(**{**arguments, "timesteps": [250.0]})
    same: list[float | Tensor] = [torch.tensor(250.0), torch.tensor([250]), torch.full((5,), 250.0)]
    for timestep in (*same, torch.full((tokens,), 250.0)):
        (out,) = model(**{**arguments, "timesteps": [timestep]})
        assert torch.equal(out, want)
    frames = torch.tensor([0.0, 250.0, 250.0, 500.0, 0.0])
    (by_frame,) = model(**{**arguments, "timesteps": [frames]})
    (by_token,) = model(**{**arguments, "timesteps": [frames.repeat_interleave(tokens // 5)]})
    assert torch.equal(by_frame, by_token)
    assert not torch.equal(by_frame, want)


def test_what_comes_in_is_left_alone(model: PackedTransformer) -> None:
    arguments = inputs(GRIDS)
    before = [z.clone() for z in arguments["latents"]]
    model(**arguments)
    assert all(torch.equal(a, b) for a, b in zip(before, arguments["latents"], strict=True))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"latents": []}, "one timestep and one text a latent: got 0, 2, 2"),
        ({"timesteps": [1.0]}, "one timestep and one text a latent: got 2, 1, 2"),
        ({"latents": [torch.zeros(3, 1, 4, 4)] * 2}, "latents must be [4, T, H, W], got [3, 1, 4, 4]"),
        ({"latents": [torch.zeros(4, 4, 4)] * 2}, "latents must be [4, T, H, W], got [4, 4, 4]"),
        ({"latents": [torch.zeros(4, 1, 4, 5)] * 2}, "latents of (1, 4, 5) (t, y, x) do not divide into patches"),
        ({"latents": [torch.zeros(4, 0, 4, 4)] * 2}, "latents of (0, 4, 4) (t, y, x) do not divide into patches"),
        ({"timesteps": [1.0, torch.zeros(2)]}, "a timestep must be a float, [5] or [60], got [2]"),
        ({"timesteps": [1.0, torch.zeros(0)]}, "a timestep must be a float, [5] or [60], got [0]"),
        ({"timesteps": [1.0, torch.zeros(5, 1)]}, "a timestep must be a float, [5] or [60], got [5, 1]"),
        ({"text": [torch.zeros(3, 24), torch.zeros(0, 24)]}, "text must be [L, 24] with L at least 1, got [0, 24]"),
        ({"text": [torch.zeros(3, 24), torch.zeros(3, 23)]}, "text must be [L, 24] with L at least 1, got [3, 23]"),
        ({"text": [torch.zeros(24), torch.zeros(3, 24)]}, "text must be [L, 24] with L at least 1, got [24]"),
    ],
)
def test_other_shapes_are_refused(model: PackedTransformer, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared below
        model(**{**inputs([(1, 4, 4), (5, 8, 6)]), **change})
    assert said in str(caught.value)


class Counter(PackedModel):
    """Takes no text; gives every token its clip's number, pooled values, rows and rate."""

    patch, in_channels, out_channels, text_width = (1, 1, 1), 1, 4, 0
    extras = {"label": (), "pooled": (2,), "image": (None, 3), "rate": ()}  # noqa: RUF012
    layout_extras = ("rate",)

    def layout(self, grid: Grid, **extras: float) -> dict[str, Tensor]:
        return {"rate": torch.full((math.prod(grid), 1), extras["rate"], dtype=torch.float64)}

    def embed_extra(self, name: str, value: Tensor) -> Tensor:
        return 10 * value if name == "label" else value

    def forward(self, x_TC: Tensor, pack: Pack) -> Tensor:
        assert "rate" not in pack.extra
        counts = pack.extra["cu_seqlens_image"].diff().float()
        columns = torch.stack([pack.extra["label"], pack.extra["pooled"].sum(1), counts], 1)
        return torch.cat([columns[pack.row_segment[pack.row].long()], pack.layout["rate"]], 1)


@pytest.fixture
def counter() -> PackedTransformer:
    return PackedTransformer(Counter(), torch.device("cpu"), torch.float32, None)


def extras_of_two_clips() -> dict[str, list[Any]]:
    return {
        "latents": [torch.zeros(1, 1, 1, 2), torch.zeros(1, 2, 1, 1)],
        "timesteps": [1.0, torch.tensor([2.0, 3.0])],
        "label": [3, torch.tensor(5)],
        "pooled": [torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])],
        "image": [torch.zeros(4, 3), torch.zeros(1, 3)],
        "rate": [8.0, 25.0],
    }


def test_what_a_clip_needs_beside_text_reaches_its_own_tokens(counter: PackedTransformer) -> None:
    first, second = counter(**extras_of_two_clips())
    assert first.shape == (4, 1, 1, 2)
    assert first.flatten(1).t().tolist() == [[30, 3, 4, 8]] * 2
    assert second.flatten(1).t().tolist() == [[50, 7, 1, 25]] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": [1]}, "one label a latent: got 1 for 2 latents"),
        ({"label": [1, torch.zeros(1)]}, r"label must be a number for each clip, got \[1\]"),
        ({"pooled": [torch.zeros(2), torch.zeros(3)]}, r"pooled must be \[2\] for each clip, got \[3\]"),
        ({"image": [torch.zeros(1, 3), torch.zeros(3)]}, r"image must be \[any, 3\] for each clip, got \[3\]"),
        ({"guidance": [1, 2]}, "beside text this model takes label, pooled, image, rate, got 'label, .*guidance'"),
        ({"text": [torch.zeros(1, 1)] * 2}, "this model takes no text"),
    ],
)
def test_other_extras_are_refused(counter: PackedTransformer, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        counter(**{**extras_of_two_clips(), **change})


def test_a_model_that_takes_text_needs_it(model: PackedTransformer) -> None:
    arguments = inputs([(1, 4, 4)])
    with pytest.raises(ValueError, match="this model needs text"):
        model(latents=arguments["latents"], timesteps=arguments["timesteps"])
    with pytest.raises(ValueError, match="beside text this model takes nothing, got 'labels'"):
        model(**arguments, labels=[1])


def test_layouts_are_kept_but_not_without_end(model: PackedTransformer) -> None:
    first = model.layout((1, 2, 3))
    assert model.layout((1, 2, 3)) is first
    for width in range(1, 2 * MAX_LAYOUTS):
        model.layout((1, 1, width))
    assert len(model._layouts) <= MAX_LAYOUTS


def test_half_precision_loses_little(bundle_dir: Path, model: PackedTransformer) -> None:
    arguments = inputs(GRIDS)
    rough = load_transformer(bundle_dir, dtype="bf16")(**arguments)
    for got, want in zip(rough, model(**arguments), strict=True):
        assert (got - want).abs().max() < 0.1 * want.abs().max()


def test_an_opened_bundle_loads_too(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    assert load_transformer(bundle).dtype == torch.float32
    assert load_vae(bundle, dtype="bf16").dtype == torch.bfloat16


@pytest.mark.parametrize("load", [load_transformer, load_vae])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "fp8"}, "dtype must be one of auto, fp32, bf16, fp16, got 'fp8'"),
        ({"device": "tpu"}, "device must be auto, cpu or cuda[:n], got 'tpu'"),
        ({"device": "meta"}, "device must be auto, cpu or cuda[:n], got 'meta'"),
        ({"backend": "cpu", "dtype": "bf16"}, "backend 'cpu' cannot run this: it takes float32 on cpu, got bfloat16"),
        ({"backend": "abacus"}, "backend 'abacus' cannot be used: there is none of that name; allowed: auto"),
    ],
)
def test_what_is_not_there_is_refused(bundle_dir: Path, load: Any, options: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared below
        load(bundle_dir, **options)
    assert said in str(caught.value)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="PyTorch finds no GPU here; use cpu or auto"):
        pick_device("cuda:1")


def test_the_automatic_dtype_is_the_fastest_of_the_device() -> None:
    assert pick_dtype("auto", torch.device("cpu")) == torch.float32
    assert pick_dtype("auto", torch.device("cuda")) == torch.bfloat16
