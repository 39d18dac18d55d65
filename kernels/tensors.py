"""What the ops share: checks of arguments, the precision of references, and how tensors reach the C++ kernels."""

from collections.abc import Collection

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INT32 = (torch.int32,)

Shape = tuple[int | None, ...]


def accurate(x: Tensor) -> Tensor:
    """x in the precision that references compute in: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def readable(x: Tensor) -> bool:
    """Whether Python may read the values of x: not on a GPU (that would wait for it), nor while a graph is traced."""
    return x.device.type == "cpu" and type(x) is Tensor and not torch.compiler.is_compiling()


def check_choice(name: str, value: str | None, allowed: Collection[str | None]) -> None:
    """Raises ValueError unless value is one of allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(str, allowed))}")


def check_tensor(
    name: str, x: Tensor, shape: Shape, dtypes: Collection[torch.dtype] = FLOATS, device: torch.device | None = None
) -> None:
    """Raises ValueError unless x has this shape (None: any size), one of these dtypes, and is on this device."""
    fits = x.ndim == len(shape) and all(want is None or got == want for got, want in zip(x.shape, shape, strict=True))
    if fits and x.dtype in dtypes and (device is None or x.device == device):
        return
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    kinds = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    place = "" if device is None else f" on {device}"
    got = f"{str(x.dtype).removeprefix('torch.')} [{', '.join(map(str, x.shape))}] on {x.device}"
    raise ValueError(f"{name} is {got}; allowed: {kinds} [{sizes}]{place}")


def check_offsets(name: str, offsets: Tensor, total: int) -> None:
    """Raises ValueError unless offsets, where they can be read, never decrease and stay within 0 and total."""
    if not readable(offsets):
        return
    values = offsets.tolist()
    if not values:
        raise ValueError(f"{name} is empty; allowed: one entry more than there are segments")
    previous = 0
    for index, value in enumerate(values):
        if not previous <= value <= total:
            raise ValueError(f"{name}[{index}] is {value}; allowed: {previous} to {total}")
        previous = value


Rows = tuple[int, int]
Heads = tuple[int, int, int, int]


def address(x: Tensor | None) -> int:
    """Where the C++ kernels find a contiguous CPU tensor; 0 stands for None."""
    if x is None:
        return 0
    assert x.device.type == "cpu"
    assert x.is_contiguous()
    return x.data_ptr()


def dense_rows(x: Tensor) -> Tensor:
    """x itself where its last dimension is contiguous, else a copy where it is."""
    return x if x.stride(-1) == 1 or x.shape[-1] <= 1 else x.contiguous()


def rows(x: Tensor) -> Rows:
    """A float32 CPU matrix for the C++ kernels: its address and the stride of its rows, each of which is contiguous."""
    _check_dense(x)
    return x.data_ptr(), x.stride(0)


def heads(x: Tensor) -> Heads:
    """A float32 CPU tensor [T, H, D] for the C++ kernels: address, strides of tokens and heads, number of heads."""
    _check_dense(x)
    return x.data_ptr(), x.stride(0), x.stride(1), x.shape[1]


def _check_dense(x: Tensor) -> None:
    assert x.device.type == "cpu"
    assert x.dtype == torch.float32
    assert x.stride(-1) == 1 or x.shape[-1] <= 1
