"""What the tests of families share: a diffusers model with random weights, the packed one made of it, and comparisons.

    reference = randomize(WanTransformer3DModel(**config), seed=0)
    check_family(reference, entries(config), peer, clips)

compares alone, in company and in bfloat16. `clips` is a list of dictionaries, the arguments of the packed call for one
clip each (latents, timesteps, text, ...); `peer(reference, **clip)` is what diffusers' class says of that clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.load import PackedTransformer, empty_module, fill_module, load_transformer
from ..runtime.models import transformer_class
from ..runtime.models.layers import dtypes, lay_out
from .checkpoint import convert
from .entry import Entry, check_keys

LIMIT = 1e-4  # in float32, relative to the largest value

Clip = dict[str, Any]
Peer = Callable[..., Tensor]


def randomize(model: Any, seed: int) -> Any:
    """The same model with random weights everywhere, also where training starts from zeros or ones.

    Matrices keep the scale of what passes; everything else moves by about 0.2 from 0, or from 1 in a norm's weight.
    """
    generator = torch.Generator().manual_seed(seed)
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)}
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=generator)
            if id(p) in matrices:
                p.copy_(noise * math.prod(p.shape[1:]) ** -0.5)
            else:
                p.copy_(0.2 * noise + float(p.ndim == 1 and bool((p == 1).all())))
    return model.requires_grad_(False).eval()


def apply(entries: Sequence[Entry], tensors: dict[str, Tensor], what: str = "transformer") -> dict[str, Tensor]:
    """A checkpoint's tensors as a packed model's, all in memory. ValueError as `check_keys`."""
    check_keys(entries, tensors, what)
    return {e.target: e.make([tensors[source] for source in e.sources]) for e in entries}


def pack(reference: Any, entries: Sequence[Entry], dtype: torch.dtype = torch.float32) -> PackedTransformer:
    """The packed model of a diffusers model, on the CPU, as the runtime would load it."""
    config, make = dict(reference.config), transformer_class(type(reference).__name__)
    kinds = dtypes(empty_module(make, config, "transformer"), dtype)
    tensors = apply(entries, dict(reference.state_dict()))
    model = fill_module(make, config, {k: v.to(kinds.get(k, dtype)) for k, v in tensors.items()}, "transformer")
    lay_out(model)
    return PackedTransformer(model, torch.device("cpu"), dtype, None)


def call(model: PackedTransformer, clips: Iterable[Clip]) -> list[Tensor]:
    """The packed call for these clips."""
    clips = list(clips)
    return model(**{name: [clip[name] for clip in clips] for name in clips[0]})


def check_family(reference: Any, entries: Sequence[Entry], peer: Peer, clips: Sequence[Clip]) -> None:
    """Holds a packed model to its diffusers model: `check_float32` and `check_bfloat16`."""
    with torch.inference_mode():
        want = [peer(reference, **clip) for clip in clips]
        check_float32(pack(reference, entries), want, clips)
        check_bfloat16(reference, entries, peer, clips)


def check_float32(packed: PackedTransformer, want: Sequence[Tensor], clips: Sequence[Clip]) -> None:
    """Each clip alone within LIMIT of what diffusers says of it, and in the company of the others, in any order, the
    same bits."""
    alone = [call(packed, [clip])[0] for clip in clips]
    for i, (got, exact) in enumerate(zip(alone, want, strict=True)):
        loss = error([got], [exact])
        assert loss <= LIMIT, f"clip {i}: relative error {loss:.3g}; allowed: {LIMIT:g}"
    order = list(range(len(clips)))
    for together in (order, order[::-1], order[1::2] + order[::2]):
        for i, got in zip(together, call(packed, [clips[i] for i in together]), strict=True):
            assert torch.equal(got, alone[i]), f"clip {i} has other bits in the company {together}"


def check_bfloat16(reference: Any, entries: Sequence[Entry], peer: Peer, clips: Sequence[Clip]) -> None:
    """The packed model loses at most twice what diffusers' own loses in bfloat16."""
    rounded = [_cast(clip, torch.bfloat16) for clip in clips]
    exact = [peer(reference, **_cast(clip, torch.float32)) for clip in rounded]
    half = in_bfloat16(reference)
    plain = [peer(half, **clip) for clip in rounded]
    got = [call(pack(reference, entries, torch.bfloat16), [clip])[0] for clip in rounded]
    loss, budget = error(got, exact), 2 * error(plain, exact)
    assert loss <= budget, f"bfloat16: relative error {loss:.3g}; allowed: {budget:.3g}, twice diffusers' own"


def check_converted(reference: Any, entries: Sequence[Entry], clips: Sequence[Clip], folder: Path) -> None:
    """Saved, converted with verification, and loaded, the packed model gives the bits that it gives without a file."""
    reference.save_pretrained(folder / "source")
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        bundle = convert(folder / "source", folder / name, name)
        loaded = load_transformer(bundle, "cpu", name)
        for got, want in zip(call(loaded, clips), call(pack(reference, entries, dtype), clips), strict=True):
            assert torch.equal(got, want), name


def in_bfloat16(reference: Any) -> Any:
    """A copy as diffusers' `from_pretrained` makes it: what `_keep_in_fp32_modules` names stays float32."""
    half, kept = deepcopy(reference), set(reference._keep_in_fp32_modules or ())
    for name, p in half.named_parameters():
        if not kept & set(name.split(".")):
            p.data = p.data.to(torch.bfloat16)
    return half


def check_published(
    reference: type[Any], config: dict[str, Any], entries: Callable[[dict[str, Any]], list[Entry]], count: int
) -> None:
    """A published configuration on the meta device: diffusers' class has `count` parameters, and the entries make of
    them exactly the tensors of the packed class."""
    with torch.device("meta"):
        model = reference(**config)
    tensors = dict(model.state_dict())
    found = sum(t.numel() for t in tensors.values())
    assert found == count, f"{found:,} parameters instead of {count:,}"
    packed = empty_module(transformer_class(reference.__name__), dict(model.config), "transformer").state_dict()
    made = apply(entries(dict(model.config)), tensors)
    assert {k: tuple(v.shape) for k, v in made.items()} == {k: tuple(v.shape) for k, v in packed.items()}


def error(got: Iterable[Tensor], exact: Iterable[Tensor]) -> float:
    """The largest difference of any two elements, relative to the largest exact element of their clip; NaN for one."""
    losses = [(g.double() - e.double()).abs().max() / e.double().abs().max() for g, e in zip(got, exact, strict=True)]
    return float(torch.stack(losses).max())


def _cast(clip: Clip, dtype: torch.dtype) -> Clip:
    """Matrices and latents in `dtype`; timesteps and numbers as they are."""
    return {k: v.to(dtype) if isinstance(v, Tensor) and v.ndim > 1 else v for k, v in clip.items()}
