"""The Triton kernels of `patchify` and `unpatchify`. Definition and sources are in patchify.py.

Apart from their references because Triton is optional and a kernel needs it to be defined. A program writes consecutive
elements of the output; each clip is one launch into its place in the pack.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS_PER_PROGRAM = 1024
# One kernel for all sizes.
CLIP = ["first", "height", "width", "num"]


@triton.jit
def store(target: tl.tensor, start: int, value: tl.tensor, num: int, elements: tl.constexpr) -> None:
    place = start + tl.arange(0, elements)
    if start + elements <= num:  # whole programs store 16 bytes at a time
        tl.store(target + place, value)
    else:
        tl.store(target + place, value, place < num)


@triton.jit(do_not_specialize=[*CLIP, "stride_c", "stride_t", "stride_h", "stride_w"])
def patchify_kernel(
    clip: tl.tensor,
    out: tl.tensor,
    first: tl.tensor,
    height: int,
    width: int,
    num: int,
    stride_c: int,
    stride_t: int,
    stride_h: int,
    stride_w: int,
    features: tl.constexpr,
    pt: tl.constexpr,
    ph: tl.constexpr,
    pw: tl.constexpr,
    elements: tl.constexpr,
) -> None:
    index = tl.program_id(0).to(tl.int64) * elements + tl.arange(0, elements)
    token, feature = index // features, (index % features).to(tl.int32)
    across, down = width // pw, height // ph
    x = token % across * pw + feature % pw
    y = token // across % down * ph + feature // pw % ph
    t = token // (across * down) * pt + feature // (pw * ph) % pt
    c = feature // (pw * ph * pt)
    value = tl.load(clip + (c * stride_c + t * stride_t + y * stride_h + x * stride_w), index < num, other=0.0)
    start = tl.program_id(0).to(tl.int64) * elements
    store(out + first.to(tl.int64) * features, start, value, num, elements)


@triton.jit(do_not_specialize=[*CLIP, "frames"])
def unpatchify_kernel(
    tokens: tl.tensor,
    clip: tl.tensor,
    first: tl.tensor,
    frames: int,
    height: int,
    width: int,
    num: int,
    stride_t: int,
    pt: tl.constexpr,
    ph: tl.constexpr,
    pw: tl.constexpr,
    elements: tl.constexpr,
) -> None:
    index = tl.program_id(0).to(tl.int64) * elements + tl.arange(0, elements)
    x, row = index % width, index // width
    y, frame = row % height, row // height
    t, c = frame % frames, frame // frames
    token = first + (t // pt * (height // ph) + y // ph) * (width // pw) + x // pw
    feature = ((c * pt + t % pt) * ph + y % ph) * pw + x % pw
    value = tl.load(tokens + token * stride_t + feature, index < num, other=0.0)
    store(clip, tl.program_id(0).to(tl.int64) * elements, value, num, elements)


def launch_patchify(latents: list[Tensor], patch: list[int]) -> Tensor:
    """As `patchify`."""
    pt, ph, pw = patch
    features = latents[0].shape[0] * math.prod(patch)
    counts = [x[0].numel() // math.prod(patch) for x in latents]
    out = torch.empty(sum(counts), features, dtype=latents[0].dtype, device=latents[0].device)
    first = 0
    for clip, count in zip(latents, counts, strict=True):
        num = count * features
        if num:
            patchify_kernel[(triton.cdiv(num, ELEMENTS_PER_PROGRAM),)](
                *(clip, out, first, *clip.shape[2:], num, *clip.stride()),
                features=features,
                pt=pt,
                ph=ph,
                pw=pw,
                elements=ELEMENTS_PER_PROGRAM,
            )
        first += count
    return out


def launch_unpatchify(tokens: Tensor, grids: list[tuple[int, int, int]], patch: list[int]) -> list[Tensor]:
    """As `unpatchify`; the features of a token are contiguous."""
    pt, ph, pw = patch
    features = tokens.shape[1]
    clips, first = [], 0
    for grid in grids:
        clip = torch.empty(features // math.prod(patch), *grid, dtype=tokens.dtype, device=tokens.device)
        if clip.numel():
            unpatchify_kernel[(triton.cdiv(clip.numel(), ELEMENTS_PER_PROGRAM),)](
                *(tokens, clip, first, *grid, clip.numel(), tokens.stride(0)),
                pt=pt,
                ph=ph,
                pw=pw,
                elements=ELEMENTS_PER_PROGRAM,
            )
        first += math.prod(grid) // math.prod(patch)
        clips.append(clip)
    return clips
