"""Convolution over time and space, channels last, that is causal in time and can stream.

out[t, y, x] = bias + sum over (i, j, l, c) of weight[:, i, j, l, c] in[st t + i, sh y + j, sw x + l, c], where `in`
is the clip after its carried frames (zeros at a clip's start) and with zeros, or its nearest pixels, around it in
space. Source: the causal 3-D convolution of MAGVIT-v2 (arXiv 2310.05737, section 3.2), whose frames see only themselves
and their past; carrying the last frames of a chunk makes chunks equal to the whole clip.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .backend import choose, native
from .op import custom_op
from .tensors import accurate, address, check_choice, check_tensor

Triple = tuple[int, int, int]
Padding = tuple[tuple[int, int], tuple[int, int]]
EDGES = ("zeros", "nearest")
COLUMNS = 16  # outputs in a block of packed weights, kPack in csrc/kernels.h


def fastest_layout(weight: Tensor) -> Tensor:
    """A weight [Cout, kt, kh, kw, Cin] as `causal_conv3d` reads it fastest where it is: for the CPU kernels packed,
    [Cout / 16, kt, kh, kw, Cin, 16], where Cout divides."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or weight.shape[0] % COLUMNS:
        return weight
    return weight.unflatten(0, (-1, COLUMNS)).movedim(1, -1).contiguous()


def _unpacked(weight: Tensor) -> Tensor:
    return weight if weight.ndim == 5 else weight.movedim(-1, 1).flatten(0, 1)


def _num_outputs(weight: Tensor) -> int:
    return weight.shape[0] if weight.ndim == 5 else weight.shape[0] * COLUMNS


def causal_conv3d_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor | None, stride: Triple, padding: Padding, edges: str
) -> Tensor:
    """The definition, in plain PyTorch; differentiable. Arguments as in `causal_conv3d`."""
    (top, bottom), (left, right) = padding
    missing = weight.shape[1] - 1 if past is None else 0
    frames = x if past is None else torch.cat((past, x))
    volume = F.pad(accurate(frames).permute(3, 0, 1, 2), (0, 0, 0, 0, missing, 0))
    mode = "replicate" if edges == "nearest" else "constant"
    framed = F.pad(volume[None], (left, right, top, bottom, 0, 0), mode=mode)
    taps = accurate(weight).permute(0, 4, 1, 2, 3)
    out = F.conv3d(framed, taps, None if bias is None else accurate(bias), stride)
    return out[0].permute(1, 2, 3, 0).contiguous().to(x.dtype)


def causal_conv3d_library(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor | None, stride: Triple, padding: Padding, edges: str
) -> Tensor:
    """The same by PyTorch's convolution in the dtype of x, channels last throughout: what runs on a GPU."""
    (top, bottom), (left, right) = padding
    before = x.new_zeros(weight.shape[1] - 1, *x.shape[1:]) if past is None else past
    volume, inside = torch.cat((before, x)).permute(3, 0, 1, 2)[None], (0, top, left)
    if edges == "nearest" or padding != ((top, top), (left, left)):
        mode = "replicate" if edges == "nearest" else "constant"
        volume, inside = F.pad(volume, (left, right, top, bottom, 0, 0), mode=mode), (0, 0, 0)
    out = F.conv3d(volume, weight.permute(0, 4, 1, 2, 3), bias, stride, inside)
    return out[0].permute(1, 2, 3, 0).contiguous()


def carried(past: Tensor | None, x: Tensor, kt: int, st: int) -> Tensor:
    """The frames that the next chunk's call takes as `past`: those from its first window on.

    past [P, ...] as given to this chunk's call (None: the clip's start), x [T, ...] the chunk, kt and st the kernel's
    size and stride in time. They are the last kt - st frames when the chunk ends a window, as chunks of st frames do.
    ValueError where windows skip frames, st > kt.
    """
    if st > kt:
        raise ValueError(f"carried: stride is {st}; allowed: at most the kernel's {kt} frames")
    before = kt - 1 if past is None else past.shape[0]
    keep = before + x.shape[0] - st * max((before + x.shape[0] - kt) // st + 1, 0)
    if keep <= x.shape[0]:
        return x[x.shape[0] - keep :].clone()
    older = x.new_zeros(kt - 1, *x.shape[1:]) if past is None else past
    return torch.cat((older[before + x.shape[0] - keep :], x))


def same_padding(height: int, width: int) -> Padding:
    """The zeros around a frame that keep its size under a kernel of odd height and width."""
    if height % 2 == 0 or width % 2 == 0:
        raise ValueError(f"causal_conv3d: kernel is {height}x{width}; allowed without padding: odd sizes")
    return (height // 2, height // 2), (width // 2, width // 2)


def output_size(x: Tensor, weight: Tensor, past: Tensor | None, stride: Triple, padding: Padding) -> Triple:
    """(T', H', W') of `causal_conv3d`. ValueError where a side has no output."""
    frames = x.shape[0] + (weight.shape[1] - 1 if past is None else past.shape[0])
    sizes = (frames, x.shape[1] + sum(padding[0]), x.shape[2] + sum(padding[1]))
    kernel = tuple(weight.shape[1:4])
    if any(size < taps for size, taps in zip(sizes, kernel, strict=True)):
        raise ValueError(f"causal_conv3d: padded input is {sizes}; allowed: at least the kernel, {kernel}")
    t, h, w = ((size - taps) // step + 1 for size, taps, step in zip(sizes, kernel, stride, strict=True))
    return t, h, w


@custom_op("causal_conv3d")
def _causal_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    past: Tensor | None,
    stride: list[int],
    padding: list[int],
    edges: str = "zeros",
) -> Tensor:
    x, past = x.contiguous(), None if past is None else past.contiguous()
    weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    matrix = (address(weight), _num_outputs(weight), weight.ndim == 6, address(bias))
    kernel, size = tuple(weight.shape[1:4]), _flat_output_size(x, weight, past, stride, padding)
    out = x.new_empty(*size, _num_outputs(weight))
    past_frames, missing = (0, kernel[0] - 1) if past is None else (past.shape[0], 0)
    native().causal_conv3d(
        *(address(x), tuple(x.shape), address(past), past_frames, missing, matrix, kernel, stride),
        *(padding[0], padding[2], edges == "nearest", size, address(out), torch.get_num_threads()),
    )
    return out


@torch.library.register_fake("packdit::causal_conv3d")
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    past: Tensor | None,
    stride: list[int],
    padding: list[int],
    edges: str = "zeros",
) -> Tensor:
    return x.new_empty(*_flat_output_size(x, weight, past, stride, padding), _num_outputs(weight))


def _flat_output_size(x: Tensor, weight: Tensor, past: Tensor | None, stride: list[int], padding: list[int]) -> Triple:
    """`output_size` for the flat lists that custom ops take."""
    top, bottom, left, right = padding
    st, sh, sw = stride
    return output_size(x, weight, past, (st, sh, sw), ((top, bottom), (left, right)))


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor | None) -> None:
    check_tensor("causal_conv3d: x", x, (None, None, None, None))
    packed = (COLUMNS,) if weight.ndim == 6 else ()
    check_tensor("causal_conv3d: weight", weight, (None, None, None, None, x.shape[3], *packed), (x.dtype,), x.device)
    if bias is not None:
        check_tensor("causal_conv3d: bias", bias, (_num_outputs(weight),), (x.dtype,), x.device)
    if past is not None:
        check_tensor("causal_conv3d: past", past, (None, *x.shape[1:]), (x.dtype,), x.device)
        if past.shape[0] >= weight.shape[1]:
            raise ValueError(f"causal_conv3d: past has {past.shape[0]} frames; allowed: 0 to {weight.shape[1] - 1}")


def causal_conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    past: Tensor | None = None,
    stride: Triple = (1, 1, 1),
    padding: Padding | None = None,
    edges: str = "zeros",
    backend: str | None = None,
) -> Tensor:
    """The convolution of one chunk of a clip, [T', H', W', Cout] contiguous in the dtype of x.

    x [T, H, W, Cin]; weight [Cout, kt, kh, kw, Cin] or `fastest_layout` of it; bias [Cout]; past [P, H, W, Cin],
    0 <= P <= kt - 1: the frames `carried` from the chunk before, None at a clip's start, which puts kt - 1 frames of
    zeros there; stride (t, y, x);
    padding ((top, bottom), (left, right)) in space, None: as much as keeps the size under an odd kernel; edges "zeros"
    or "nearest" (pixels): what the padding holds. Backend "triton" is PyTorch's own convolution.
    T' = (P + T - kt) // st + 1. ValueError for anything else.
    """
    _check(x, weight, bias, past)
    if min(stride) < 1:
        raise ValueError(f"causal_conv3d: stride is {stride}; allowed: at least 1")
    around = same_padding(*weight.shape[2:4]) if padding is None else padding
    if min(map(min, around)) < 0:
        raise ValueError(f"causal_conv3d: padding is {around}; allowed: at least 0")
    output_size(x, weight, past, stride, around)
    check_choice("causal_conv3d: edges", edges, EDGES)
    tensors = [tensor for tensor in (x, weight, bias, past) if tensor is not None]
    chosen = choose("causal_conv3d", backend, *tensors)
    if chosen != "cpu":
        convolve = causal_conv3d_reference if chosen == "reference" else causal_conv3d_library
        return convolve(x, _unpacked(weight), bias, past, stride, around, edges)
    return _causal_conv3d(x, weight, bias, past, list(stride), [*around[0], *around[1]], edges)
