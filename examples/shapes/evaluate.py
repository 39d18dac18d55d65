"""How well a bundle does what prompts say: `python evaluate.py [--model shapes] [--count 200] [--out FOLDER]`.

Everything goes through the exported bundle and the packed engine. Prints, for every column, the share of clips in which
the detector reads what was asked for, with its standard error; writes results.json and a contact sheet to --out.
"""

from __future__ import annotations

import argparse
import json
from itertools import permutations, product
from pathlib import Path

import numpy as np
from detector import Seen, read
from tqdm import tqdm
from world import BACKGROUNDS, COLORS, FRAMES, MOTIONS, SHAPES, SIDES, Clip, caption, held_out, render, sample_clip

from packdit.runtime import Condition, Engine, Request, Video, load_vae

COMBINATIONS = list(product(SHAPES, COLORS, BACKGROUNDS, MOTIONS))
COLUMNS = {  # name -> (objects, of held-out combinations, sides, frames)
    "in range": (1, False, SIDES, FRAMES),
    "held out": (1, True, SIDES, FRAMES),
    "beyond": (1, False, (80, 112), (21,)),
    "two, in range": (2, False, SIDES, FRAMES),
    "two, held out": (2, True, SIDES, FRAMES),
}
PARTS = ("color", "background", "shape", "motion")


def draw_cases(column: str, count: int, seed: int) -> list[tuple[Clip, int, int, int]]:
    """Clips (of which only the words count) and their sizes: (clip, width, height, frames)."""
    objects, held, sides, lengths = COLUMNS[column]
    rng = np.random.default_rng([seed, list(COLUMNS).index(column)])
    single = [c for c in COMBINATIONS if held_out(c) == held]
    pairs = [(a, b) for a, b in permutations(single, 2) if a[2] == b[2] and a[1] != b[1]]
    pool = [(c,) for c in single] if objects == 1 else pairs
    cases = []
    for _ in range(count):
        width, height, frames = (int(rng.choice(x)) for x in (sides, sides, lengths))
        clip = sample_clip(rng, width, height, frames, pool[int(rng.integers(len(pool)))])
        cases.append((clip, width, height, frames))
    return cases


def judge(clip: Clip, frames: np.ndarray) -> dict[str, bool]:
    """Which parts are right, of all objects; none of an object's is where there are more or fewer objects than asked
    for. Motion is left out for an image."""
    got = read(frames)
    want = sorted((Seen(t.shape, t.color, t.motion) for t in clip.things), key=lambda thing: thing.color)
    right = {"background": got.background == clip.background}
    for part in ("color", "shape", "motion") if len(frames) > 1 else ("color", "shape"):
        right[part] = [getattr(t, part) for t in got.things] == [getattr(t, part) for t in want]
    return right


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


def psnr(got: np.ndarray, want: np.ndarray) -> float:
    """In dB, of bytes."""
    return float(10 * np.log10(255**2 / max(((got.astype(float) - want) ** 2).mean(), 1e-3)))


def evaluate_vae(args: argparse.Namespace, column: str) -> dict[str, object]:
    """PSNR on clips of a column, and what the detector reads off ground truth and off reconstructions."""
    vae, values, truth, rebuilt = load_vae(args.model), [], [], []
    for clip, width, height, frames in draw_cases(column, args.count, args.seed + 1):
        pixels = render([clip], width, height, frames)[0]
        video = pixels.permute(3, 0, 1, 2).float() / 127.5 - 1
        again = ((vae.decode(vae.encode(video)) + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 3, 0).byte()
        values.append(psnr(again.numpy(), pixels.numpy()))
        truth.append(judge(clip, pixels.numpy()))
        rebuilt.append(judge(clip, again.numpy()))
    return {"psnr": float(np.mean(values)), "detector on truth": summary(truth), "on reconstructions": summary(rebuilt)}


GIVEN = {  # name -> the given frames of a clip of n, as a slice; None for n: of any length
    "first frame given": (None, slice(0, 1)),
    "last frame given": (None, slice(-1, None)),
    "extended forward": (17, slice(0, 9)),
    "extended backward": (17, slice(9, 17)),
    "extended both ways": (17, slice(5, 13)),
}


def evaluate_conditions(engine: Engine, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Image to video and extension: PSNR of the given frames, and the shares in which colour and shape, and motion, are
    what they were."""
    results = {}
    for name, (length, where) in GIVEN.items():
        cases = [c for c in draw_cases("in range", args.count, args.seed + 2) if c[3] > 1][: max(8, args.count // 4)]
        cases = [(clip, w, h, length or n) for clip, w, h, n in cases]
        rng = np.random.default_rng(args.seed)
        cases = [(sample_clip(rng, w, h, n, clip.combinations), w, h, n) for clip, w, h, n in cases]
        truth = [render([clip], w, h, n)[0].numpy() for clip, w, h, n in cases]
        requests = [
            Request(
                prompt=caption(clip, rng, full=True),
                width=w,
                height=h,
                frames=n,
                seed=i,
                steps=args.steps,
                conditions=(Condition(pixels[where], start=range(n)[where][0]),),
            )
            for i, ((clip, w, h, n), pixels) in enumerate(zip(cases, truth, strict=True))
        ]
        videos = engine.generate(requests)
        kept = [judge(clip, v.frames) for (clip, *_), v in zip(cases, videos, strict=True)]
        results[name] = {
            "count": len(cases),
            "psnr": float(np.mean([psnr(v.frames[where], p[where]) for v, p in zip(videos, truth, strict=True)])),
            "color and shape": float(np.mean([k["color"] and k["shape"] for k in kept])),
            "motion": float(np.mean([k["motion"] for k in kept])),
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--count", type=int, default=200, help="prompts a column")
    parser.add_argument("--columns", nargs="*", choices=list(COLUMNS), default=list(COLUMNS))
    parser.add_argument("--steps", type=int, default=None, help="the model's default where left out")
    parser.add_argument("--guidance", type=float, default=None, help="the model's default where left out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("shapes-evaluation"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, object] = {
        f"vae, {column}": evaluate_vae(args, column) for column in ("held out", "two, held out")
    }
    with Engine.load(args.model) as engine:
        for column in args.columns:
            rows, videos = evaluate_prompts(engine, column, args)
            results[column] = rows
            text = "  ".join(f"{k} {v['share']:.3f} ± {v['error']:.3f}" for k, v in rows.items())  # type: ignore[index]
            print(f"{column}: {text}")
            Video(frames=contact_sheet(videos[:60]), fps=1.0).save(
                args.out / f"{column.replace(',', '').replace(' ', '-')}.png"
            )
        results["conditions"] = evaluate_conditions(engine, args)
    print(json.dumps({k: v for k, v in results.items() if k not in COLUMNS}, indent=2))
    (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
