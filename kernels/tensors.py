"""What every op's wrapper shares: checks of its arguments, and the precision that a reference computes in."""

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
