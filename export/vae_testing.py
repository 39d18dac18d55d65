"""What the tests of VAEs share: a diffusers VAE with random weights, the streaming one made of it, and comparisons.

    reference = randomize(AutoencoderKLWan(**config), seed=0)
    check_vae(reference, wan_vae, latents=[(3, 4, 6)], videos=[(9, 32, 48)])

`family` is the module of `export.families`: its `entries`, and its `decode` and `encode` where it has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..kernels.testing import num_threads
from ..runtime.load import empty_module, fill_module, load_vae
from ..runtime.models import vae_class
from ..runtime.models.layers import dtypes, lay_out
from ..runtime.vae import StreamingVAE
from .checkpoint import convert
from .peer import call_decode, call_encode
from .testing import LIMIT, apply, error, in_bfloat16

Size = tuple[int, int, int]
Run = Callable[[Tensor], Tensor]
Peer = Callable[[Any, Tensor], Tensor]


def streaming(reference: Any, family: ModuleType, dtype: torch.dtype = torch.float32) -> StreamingVAE:
    """The streaming VAE of a diffusers VAE, on the CPU, as the runtime would load it."""
    config, make = dict(reference.config), vae_class(type(reference).__name__)
    tensors = apply(family.entries(config), dict(reference.state_dict()), "VAE")
    kinds = dtypes(empty_module(make, config, "VAE"), dtype)
    model = fill_module(make, config, {k: v.to(kinds.get(k, dtype)) for k, v in tensors.items()}, "VAE")
    lay_out(model)
    return StreamingVAE(model, config, torch.device("cpu"), dtype, None)


def random_latent(channels: int, size: Size) -> Tensor:
    """[channels, *size]"""
    return torch.randn(channels, *size, generator=torch.Generator().manual_seed(sum(size)))


def random_video(size: Size) -> Tensor:
    """[3, frames, height, width] in -1..1."""
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(sum(size))) * 2 - 1


def check_vae(reference: Any, family: ModuleType, latents: Sequence[Size], videos: Sequence[Size]) -> None:
    """Decoding latents and encoding videos of these sizes is diffusers' within LIMIT, the same bits with 1 thread as
    with 2, and loses in bfloat16 at most twice what diffusers' own does, by `_mean_error`."""
    decode, encode = getattr(family, "decode", call_decode), getattr(family, "encode", call_encode)
    vae, half = (streaming(reference, family, dtype) for dtype in (torch.float32, torch.bfloat16))
    plain = in_bfloat16(reference)
    cases: list[tuple[str, Run, Run, Peer, Tensor]]
    cases = [("decode", vae.decode, half.decode, decode, random_latent(vae.latent_channels, s)) for s in latents]
    cases += [("encode", vae.encode, half.encode, encode, random_video(s)) for s in videos]
    rounded: list[tuple[Tensor, Tensor, Tensor]] = []  # ours and diffusers' in bfloat16, and the exact
    with torch.inference_mode(), num_threads(1):
        for what, run, run_half, peer, x in cases:
            got = run(x)
            loss = error([got], [peer(reference, x)])
            assert loss <= LIMIT, f"{what} {list(x.shape)}: relative error {loss:.3g}; allowed: {LIMIT:g}"
            with num_threads(2):
                assert torch.equal(run(x), got), f"{what} {list(x.shape)}: other bits with two threads"
            x = x.bfloat16()
            rounded.append((run_half(x), peer(plain, x), peer(reference, x.float())))
    ours, theirs, exact = zip(*rounded, strict=True)
    loss, budget = _mean_error(ours, exact), 2 * _mean_error(theirs, exact)
    assert loss <= budget, f"bfloat16: relative error {loss:.3g}; allowed: {budget:.3g}, twice diffusers' own"


def _mean_error(got: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The root mean square of differences, relative to that of the exact elements, the mean of all clips.

    The largest difference of a small clip is one rounding that norms have amplified, in either of two models.
    """
    losses = [float((g.double() - e.double()).norm() / e.double().norm()) for g, e in zip(got, exact, strict=True)]
    return sum(losses) / len(losses)


def check_converted_vae(reference: Any, family: ModuleType, latent: Size, folder: Path) -> None:
    """Saved, converted with verification, and loaded, the VAE gives the bits that it gives without a file."""
    reference.save_pretrained(folder / "source")
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        loaded = load_vae(convert(folder / "source", folder / name, name), "cpu", name)
        z = random_latent(loaded.latent_channels, latent)
        assert torch.equal(loaded.decode(z), streaming(reference, family, dtype).decode(z)), name


@torch.inference_mode()
def whole(half: nn.Module, clip: Tensor, stream: dict[Any, Any]) -> Tensor:
    """What a half of a VAE makes of a clip [C, T, H, W] in one chunk: [C', T', H', W']."""
    out: Tensor = half(clip.permute(1, 2, 3, 0).contiguous(), stream)
    return out.permute(3, 0, 1, 2)


def check_published_vae(reference: type[Any], config: dict[str, Any], family: ModuleType, count: int) -> None:
    """As `check_published`, of a VAE."""
    with torch.device("meta"):
        model = reference(**config)
    assert sum(p.numel() for p in model.parameters()) == count
    packed = empty_module(vae_class(reference.__name__), dict(model.config), "VAE").state_dict()
    made = apply(family.entries(dict(model.config)), dict(model.state_dict()), "VAE")
    assert {k: tuple(v.shape) for k, v in made.items()} == {k: tuple(v.shape) for k, v in packed.items()}
