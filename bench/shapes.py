"""The shapes that are measured: widths of real models, and packs of sequences, at three scales.

Sources: the published configurations of Wan 2.1 (1.3B, 14B) and HunyuanVideo; "shapes" is the model that ships, and
"dit-384" the one that the engine is measured with.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Widths of a transformer; text: states that a cross-attention sees, 0 where there is none."""

    width: int
    heads: int
    head_dim: int
    mlp: int
    text: int = 0


MODELS = {
    "shapes": Model(width=192, heads=6, head_dim=32, mlp=576),
    "dit-384": Model(width=384, heads=6, head_dim=64, mlp=1536),
    "wan-1.3b": Model(width=1536, heads=12, head_dim=128, mlp=8960, text=512),
    "hunyuan": Model(width=3072, heads=24, head_dim=128, mlp=12288),
    "wan-14b": Model(width=5120, heads=40, head_dim=128, mlp=13824, text=512),
}

# Segment lengths of packs, and the tokens that ops on rows and matrix products see. "tiny" is for tests and dry runs.
PACKS = {
    "tiny": {"clip": (24,), "mix": (5, 1, 17), "images": (4,) * 4},
    "cpu": {
        "clip": (2048,),
        "mix": (16, 21, 28, 37, 49, 64, 85, 112, 147, 194, 256, 338, 446, 588, 776, 1024),
        "images": (64,) * 64,
    },
    "gpu": {
        "clip": (16384,),
        "mix": (1024,) * 16 + (2048,) * 8 + (4096,) * 4 + (8192,) * 2 + (16384,),  # each length with as many tokens
        "images": (1024,) * 16,
        "480p": (32760,),
    },
}
TOKENS = {"tiny": 24, "cpu": 16384, "gpu": 32768}  # of streaming ops: tensors far beyond the caches
MATRIX_TOKENS = {"tiny": 24, "cpu": 1024, "gpu": 32768}
SCALES = tuple(PACKS)
