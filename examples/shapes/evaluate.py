"""How well a bundle does what prompts say: `python evaluate.py [--model shapes] [--count 200] [--out FOLDER]`.

Everything goes through the exported bundle and the packed engine. Prints, for every column, the share of clips in which
the detector reads what was asked for, with its standard error; writes results.json and a contact sheet to --out.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np
import torch
from detector import read
from tqdm import tqdm
from world import BACKGROUNDS, COLORS, FRAMES, MOTIONS, SHAPES, SIDES, Clip, caption, held_out, render, sample_clip

from packdit.runtime import Condition, Engine, Request, Video, load_vae

COMBINATIONS = list(product(SHAPES, COLORS, BACKGROUNDS, MOTIONS))
COLUMNS = {  # name -> (held-out combinations, sides, frames)
    "in range": (False, SIDES, FRAMES),
    "held out": (True, SIDES, FRAMES),
    "beyond": (False, (80, 112), (21,)),
}
PARTS = ("color", "background", "shape", "motion")


def draw_cases(column: str, count: int, seed: int) -> list[tuple[Clip, int, int, int]]:
    """Clips (of which only the words count) and their sizes: (clip, width, height, frames)."""
    held, sides, lengths = COLUMNS[column]
    rng = np.random.default_rng([seed, list(COLUMNS).index(column)])
    pool = [c for c in COMBINATIONS if held_out(c) == held]
    cases = []
    for _ in range(count):
        width, height, frames = (int(rng.choice(x)) for x in (sides, sides, lengths))
        clip = sample_clip(rng, width, height, frames, pool[int(rng.integers(len(pool)))])
        cases.append((clip, width, height, frames))
    return cases


def judge(clip: Clip, frames: np.ndarray) -> dict[str, bool]:
    """Which parts are right; motion is left out for an image."""
    got = read(frames)
    return {part: getattr(got, part) == getattr(clip, part) for part in PARTS if getattr(got, part) is not None}


def summary(verdicts: list[dict[str, bool]]) -> dict[str, dict[str, float]]:
    """Share, standard error and count of each part, and of all parts together."""
    rows = {part: [v[part] for v in verdicts if part in v] for part in PARTS}
    rows["all"] = [all(v.values()) for v in verdicts]
    return {
        name: {"share": float(np.mean(x)), "error": float(np.std(x) / len(x) ** 0.5), "count": len(x)}
        for name, x in rows.items()
    }


def evaluate_prompts(engine: Engine, column: str, args: argparse.Namespace) -> tuple[dict[str, object], list[Video]]:
    """Adherence of one column, and its videos."""
    cases = draw_cases(column, args.count, args.seed)
    rng = np.random.default_rng(args.seed)
    jobs = engine.submit_all(
        [
            Request(
                prompt=caption(clip, rng, full=True),
                width=width,
                height=height,
                frames=frames,
                seed=args.seed * 100_000 + i,
                steps=args.steps,
                guidance=args.guidance,
            )
            for i, (clip, width, height, frames) in enumerate(cases)
        ]
    )
    videos = [job.result() for job in tqdm(jobs, desc=column)]
    return {**summary([judge(c, v.frames) for (c, *_), v in zip(cases, videos, strict=True)])}, videos


def contact_sheet(videos: list[Video]) -> np.ndarray:
    """The middle frame of each video, at the centre of a square that holds the largest."""
    middles = [v.frames[len(v.frames) // 2] for v in videos]
    side = max(max(m.shape[:2]) for m in middles)
    sheet = np.full((len(middles), side, side, 3), 60, np.uint8)
    for square, middle in zip(sheet, middles, strict=True):
        height, width = middle.shape[:2]
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = middle
    return sheet


def evaluate_vae(args: argparse.Namespace) -> dict[str, object]:
    """PSNR on held-out clips, and what the detector reads off ground truth and off reconstructions."""
    vae, errors, truth, rebuilt = load_vae(args.model), [], [], []
    for clip, width, height, frames in draw_cases("held out", min(args.count, 100), args.seed + 1):
        pixels = render([clip], width, height, frames)[0]
        video = pixels.permute(3, 0, 1, 2).float() / 127.5 - 1
        again = ((vae.decode(vae.encode(video)) + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 3, 0)
        errors.append(float(((again - pixels) ** 2).mean()))
        truth.append(judge(clip, pixels.numpy()))
        rebuilt.append(judge(clip, again.to(torch.uint8).numpy()))
    psnr = [10 * np.log10(255**2 / max(e, 1e-3)) for e in errors]
    return {"psnr": float(np.mean(psnr)), "detector on truth": summary(truth), "on reconstructions": summary(rebuilt)}


def evaluate_conditions(engine: Engine, args: argparse.Namespace) -> dict[str, float]:
    """Image to video and backward extension: PSNR of the given frame, and colour and shape kept."""
    results = {}
    for name, index in (("first frame given", 0), ("last frame given", -1)):
        cases = [c for c in draw_cases("in range", args.count, args.seed + 2) if c[3] > 1][: max(8, args.count // 4)]
        truth = [render([clip], w, h, n)[0].numpy() for clip, w, h, n in cases]
        requests = [
            Request(
                prompt=caption(clip, np.random.default_rng(0), full=True),
                width=w,
                height=h,
                frames=n,
                seed=i,
                steps=args.steps,
                conditions=(Condition(pixels[index][None], start=index % n),),
            )
            for i, ((clip, w, h, n), pixels) in enumerate(zip(cases, truth, strict=True))
        ]
        videos = engine.generate(requests)
        errors = [((v.frames[index].astype(float) - p[index]) ** 2).mean() for v, p in zip(videos, truth, strict=True)]
        kept = [judge(clip, v.frames) for (clip, *_), v in zip(cases, videos, strict=True)]
        results[f"{name}: PSNR"] = float(np.mean([10 * np.log10(255**2 / max(e, 1e-3)) for e in errors]))
        results[f"{name}: color and shape kept"] = float(np.mean([k["color"] and k["shape"] for k in kept]))
        results[f"{name}: motion right"] = float(np.mean([k["motion"] for k in kept]))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--count", type=int, default=200, help="prompts a column")
    parser.add_argument("--steps", type=int, default=None, help="the model's default where left out")
    parser.add_argument("--guidance", type=float, default=None, help="the model's default where left out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("shapes-evaluation"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, object] = {"vae": evaluate_vae(args)}
    with Engine.load(args.model) as engine:
        for column in COLUMNS:
            rows, videos = evaluate_prompts(engine, column, args)
            results[column] = rows
            text = "  ".join(f"{k} {v['share']:.3f} ± {v['error']:.3f}" for k, v in rows.items())  # type: ignore[index]
            print(f"{column}: {text}")
            Video(frames=contact_sheet(videos[:60]), fps=1.0).save(args.out / f"{column.replace(' ', '-')}.png")
        results["conditions"] = evaluate_conditions(engine, args)
    print(json.dumps({k: results[k] for k in ("vae", "conditions")}, indent=2))
    (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
