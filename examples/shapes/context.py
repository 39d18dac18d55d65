"""What the VAE's context buys: `python context.py [--model shapes] [--count 60] [--out context.png]`.

In each clip an object passes behind a bar and comes out again. The latent frames from then on get noise, and the clip
is decoded with the context and without it (its last layer set to 0, which is how a fifth of the training ran). Prints
the PSNR of the frames after the bar, whole and where the object is; draws one clip.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from world import Clip, render, sample_behind

from packdit.runtime import Video, load_vae
from packdit.runtime.vae import StreamingVAE, to_bytes

FRAMES, LEVELS = 33, (0.0, 0.5, 1.0, 2.0)


class Case(NamedTuple):
    """Pixels uint8 [n, h, w, 3], where the object can be seen [n, h, w], and the first latent frame after the bar."""

    pixels: Tensor
    thing: Tensor
    after: int


def make_case(rng: np.random.Generator) -> Case:
    """A clip in which the object is hidden for a while, and after that is seen for some frames."""
    while True:
        width, height = ((64, 32), (96, 32), (96, 48))[int(rng.integers(3))]
        clip = sample_behind(rng, width, height, FRAMES)
        empty = Clip(background=clip.background, things=(), bar=clip.bar)
        pixels, without = (render([c], width, height, FRAMES)[0] for c in (clip, empty))
        thing = (pixels != without).any(-1)
        hidden = (~thing.flatten(1).any(1)).nonzero()
        if len(hidden) and 0 < int(hidden[-1]) < FRAMES - 9:
            return Case(pixels, thing, (int(hidden[-1]) + 1 + 3) // 4)


def decode_both(vaes: tuple[StreamingVAE, StreamingVAE], case: Case, level: float, seed: int) -> list[Tensor]:
    """The clip from latents with noise of this size from `case.after` on: uint8 [n, h, w, 3] by each VAE."""
    latent = vaes[0].encode(case.pixels.permute(3, 0, 1, 2).float() / 127.5 - 1)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    noise[:, : case.after] = 0
    return [to_bytes(vae.decode(latent + level * noise)).permute(1, 2, 3, 0) for vae in vaes]


def psnr(got: Tensor, want: Tensor, where: Tensor) -> float:
    """In dB, over the places [n, h, w] that count."""
    error = ((got.float() - want.float()) ** 2).mean(-1)[where].mean()
    return float(10 * torch.log10(255**2 / error.clamp_min(1e-3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("context.png"))
    args = parser.parse_args()
    vaes = load_vae(args.model), load_vae(args.model)
    for parameter in vaes[1].model.decoder.context.up.parameters():
        parameter.data.zero_()
    rng = np.random.default_rng(args.seed)
    cases = [make_case(rng) for _ in range(args.count)]
    for level in LEVELS:
        rows = []
        for i, case in enumerate(cases):
            later = torch.arange(FRAMES)[:, None, None].expand_as(case.thing) >= 4 * case.after - 3
            got = decode_both(vaes, case, level, i)
            rows.append([psnr(g, case.pixels, where) for where in (later, later & case.thing) for g in got])
        mean, error = np.mean(rows, 0), np.std(rows, 0) / len(rows) ** 0.5
        figures = "  ".join(f"{m:.2f} ± {e:.2f}" for m, e in zip(mean, error, strict=True))
        print(f"noise {level}: all with, without; object with, without: {figures}")
    draw(vaes, cases, args.out)


def draw(vaes: tuple[StreamingVAE, StreamingVAE], cases: list[Case], out: Path) -> None:
    """Every fourth frame of a clip, from top to bottom: true; noise of 2 decoded with the context, and without."""
    case = max(cases, key=lambda case: case.pixels.shape[1] * case.pixels.shape[2])
    rows = [clip[::4] for clip in (case.pixels, *decode_both(vaes, case, LEVELS[-1], 0))]
    sheet = torch.cat([row.permute(1, 0, 2, 3).flatten(1, 2) for row in rows])
    Video(frames=sheet[None].numpy(), fps=1.0).save(out)


if __name__ == "__main__":
    main()
