"""Embedding the engine: a mixed list in shared steps, then one job whose frames arrive as they decode.

Run `python examples/embed.py [FOLDER]`; the videos are written there.
"""

import sys
from pathlib import Path

from packdit.runtime import Condition, Engine, Request

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")

with Engine.load("shapes") as engine:
    # Any mix of sizes, durations, steps and guidance: one packed pass a step for all of them.
    clip, image = engine.generate(
        [
            Request(prompt="a red circle moves right on a black background", width=96, height=64, frames=17, seed=1),
            Request(prompt="a blue square on a white background", width=64, height=64, frames=1, steps=8, seed=2),
        ]
    )
    clip.save(folder / "clip.mp4")
    image.save(folder / "image.png")

    # Image to video: the picture is given as the first frame. Frames come out before the last ones are decoded.
    job = engine.submit(
        Request(prompt="a blue square moves up", width=64, height=64, frames=9, conditions=[Condition(image.frames)])
    )
    for index, frame in enumerate(job.frames()):
        print(f"frame {index}: {frame.shape}, progress {job.progress:.0%}")
    job.result().save(folder / "from-image.gif")

    print(engine.stats())
