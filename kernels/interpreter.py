"""Triton's CPU interpreter, made strict enough to test kernels with.

As triton 3.6 ships it, the interpreter adds the bit patterns of bfloat16 numbers as integers, computes float32 products
exactly where a GPU rounds to tf32, truncates to e4m3 and reads its NaN as 480, reads 0 in masked lanes where a GPU
reads anything, reads and writes any address, and runs programs one after another, so that a race between them cannot be
seen. Within `strict` bfloat16 and e4m3 are exact, the rest is as bad as on a GPU or worse, and wrong addresses raise.

Needs TRITON_INTERPRET=1 before the modules of the kernels are imported. Not modelled: shared memory, registers, the
smallest sizes of a product, approximate exponentials.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import triton.language as tl
from numpy.typing import NDArray
from triton.runtime import interpreter as stock
from triton.runtime.interpreter import TensorHandle as Handle

Bits = NDArray[np.uint16]
Floats = NDArray[np.float32]
Addresses = NDArray[np.uint64]
Program = tuple[int, int, int]

_E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()


class OutOfBounds(RuntimeError):
    """A program touched an address outside the tensors of its launch, or between two elements."""


class Race(RuntimeError):
    """Two programs of a launch touched one address, and at least one of them wrote it."""


def from_bfloat16(bits: Bits) -> Floats:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(x: Floats) -> Bits:
    """Rounded to nearest, ties to even; every NaN becomes the same one."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return np.where(np.isnan(x), np.uint16(0x7FC0), ((bits + half) >> np.uint32(16)).astype(np.uint16))


def from_e4m3(bits: NDArray[np.uint8]) -> Floats:
    return _E4M3[bits]


def to_e4m3(x: Floats) -> NDArray[np.uint8]:
    """Rounded to nearest, ties to even, as the GPU's conversion does: beyond 448 it stays there, NaN stays NaN."""
    clamped = torch.from_numpy(np.ascontiguousarray(x, np.float32)).clamp(-448, 448)
    return clamped.to(torch.float8_e4m3fn).view(torch.uint8).numpy()


def to_tf32(x: Floats) -> Floats:
    """Rounded to 10 bits of mantissa, ties away from zero, as the tensor cores' conversion does."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return np.where(np.isfinite(x), ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32), x)


# What stock keeps as bits: how they become float32, and how float32 becomes them.
_KEPT_AS_BITS: dict[Any, Any] = {tl.bfloat16: (from_bfloat16, to_bfloat16), tl.float8e4nv: (from_e4m3, to_e4m3)}


def _is_bfloat16(handle: Any) -> bool:
    return isinstance(handle, Handle) and handle.dtype.scalar == tl.bfloat16


def _widened(handle: Any) -> Any:
    if not isinstance(handle, Handle) or handle.dtype.scalar not in _KEPT_AS_BITS:
        return handle
    return Handle(_KEPT_AS_BITS[handle.dtype.scalar][0](handle.data), tl.float32)


def _poison(shape: tuple[int, ...], kind: Any) -> Handle:
    """What a masked lane reads where the kernel does not say: NaN, or an integer that is no valid index."""
    dtype = stock._get_np_dtype(kind)
    if kind in _KEPT_AS_BITS:
        value: Any = _KEPT_AS_BITS[kind][1](np.array(np.nan, np.float32))
    elif dtype.kind == "f":
        value = np.nan
    else:
        value = True if dtype.kind == "b" else np.iinfo(dtype).max // 3
    return Handle(np.full(shape, value, dtype), kind)


class _Builder(stock.InterpreterBuilder):
    """Executes the operations of one launch; knows its tensors, and which program touched what."""

    def begin(self, tensors: list[torch.Tensor]) -> None:
        storages = [tensor.untyped_storage() for tensor in tensors]
        self.ranges = {(storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages}
        self.loads: dict[Program, list[Addresses]] = {}
        self.stores: dict[Program, list[Addresses]] = {}

    def check_races(self) -> None:
        if not self.stores:
            return
        addresses, owners = _by_program(self.stores)
        order = np.argsort(addresses, kind="stable")
        addresses, owners = addresses[order], owners[order]
        if (addresses[1:] == addresses[:-1]).any():
            raise Race(f"two programs store to {int((addresses[1:] == addresses[:-1]).sum())} addresses")
        if not self.loads:
            return
        programs = {program: index for index, program in enumerate(self.stores)}
        for program, pieces in self.loads.items():
            read = np.unique(np.concatenate(pieces))
            at = np.minimum(np.searchsorted(addresses, read), len(addresses) - 1)
            if ((addresses[at] == read) & (owners[at] != programs.get(program, -1))).any():
                raise Race(f"program {program} loads what another one stores")

    def _touch(self, book: dict[Program, list[Addresses]], pointers: Addresses, mask: Any, size: int) -> None:
        pointers, mask = np.broadcast_arrays(pointers, mask)
        active = pointers[mask]
        inside = np.zeros(active.shape, bool)
        for first, end in self.ranges:
            inside |= (active >= np.uint64(first)) & (active + np.uint64(size) <= np.uint64(end))
        if not inside.all() or (active % np.uint64(size)).any():
            raise OutOfBounds(f"{int((~inside).sum())} of {active.size} lanes, program {self.grid_idx}")
        if active.size:
            book.setdefault(self.grid_idx, []).append(np.unique(active))

    def create_masked_load(self, ptrs: Any, mask: Any, other: Any, *hints: Any, **more: Any) -> Handle:
        kind = ptrs.get_element_ty()
        self._touch(self.loads, ptrs.data, mask.data, stock._get_np_dtype(kind).itemsize)
        if other is None:
            other = _poison(ptrs.data.shape, kind)
        return super().create_masked_load(ptrs, mask, other, *hints, **more)

    def create_masked_store(self, ptrs: Any, value: Any, mask: Any, *hints: Any) -> Any:
        size = stock._get_np_dtype(ptrs.get_element_ty()).itemsize
        assert value.data.dtype.itemsize == size, f"store of {value.data.dtype} to elements of {size} bytes"
        self._touch(self.stores, ptrs.data, mask.data, size)
        return super().create_masked_store(ptrs, value, mask, *hints)

    def create_atomic_rmw(self, *operands: Any) -> Any:
        raise NotImplementedError("atomics: their order differs from run to run, so no kernel here may use them")

    create_atomic_cas = create_atomic_rmw

    def cast_impl(self, src: Any, dst_type: Any) -> Handle:
        kind = dst_type.scalar
        if kind not in _KEPT_AS_BITS:
            return super().cast_impl(_widened(src), dst_type)
        if kind == src.dtype.scalar:
            return src
        return Handle(_KEPT_AS_BITS[kind][1](_widened(src).data.astype(np.float32)), kind)

    def create_fp_to_fp(self, src: Any, dst_type: Any, rounding_mode: Any) -> Handle:
        return self.cast_impl(src, dst_type)

    def get_bf16(self, value: float) -> Handle:
        return Handle(to_bfloat16(np.array([value], np.float32)), tl.bfloat16)

    def _exact(self, operation: Any, operands: tuple[Any, ...], *rest: Any) -> Handle:
        """operation on the operands; where one is bfloat16, in float32 and rounded once."""
        if not any(map(_is_bfloat16, operands)):
            return operation(*operands, *rest)
        result = operation(*map(_widened, operands), *rest)
        data = to_bfloat16(result.data) if result.data.dtype == np.float32 else result.data
        return Handle(data, tl.bfloat16)

    def unary_op(self, arg: Any, op: Any) -> Handle:
        return self._exact(super().unary_op, (arg,), op)

    def binary_op(self, lhs: Any, rhs: Any, op: Any) -> Handle:
        return self._exact(super().binary_op, (lhs, rhs), op)

    def ternary_op(self, lhs: Any, rhs: Any, other: Any, op: Any) -> Handle:
        return self._exact(super().ternary_op, (lhs, rhs, other), op)

    def create_fma(self, x: Any, y: Any, z: Any) -> Handle:
        return self._exact(super().create_fma, (x, y, z))

    def create_rsqrt(self, arg: Any) -> Handle:
        return self._exact(super().create_rsqrt, (arg,))

    def create_erf(self, arg: Any) -> Handle:
        return self._exact(super().create_erf, (arg,))

    def create_dot(self, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Handle:
        if a.dtype.scalar == tl.float32 and str(input_precision).rpartition(".")[2].upper() == "TF32":
            a, b = (Handle(to_tf32(x.data), tl.float32) for x in (a, b))
        return super().create_dot(_widened(a), _widened(b), d, input_precision, max_num_imprecise_acc)


def _by_program(book: dict[Program, list[Addresses]]) -> tuple[Addresses, NDArray[np.int64]]:
    """All addresses, each program's once, and the number of the program of each."""
    pieces = [np.unique(np.concatenate(touched)) for touched in book.values()]
    return np.concatenate(pieces), np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])


class _Reduction(stock.ReduceOps):
    def sum(self, input: Any) -> Any:
        """A sum of bfloat16 numbers adds in float32 and rounds once."""
        if not _is_bfloat16(input.handle):
            return super().sum(input)
        wide = super().sum(tl.tensor(_widened(input.handle), tl.block_type(tl.float32, input.shape)))
        kind = tl.block_type(tl.bfloat16, wide.shape) if wide.shape else tl.bfloat16
        return tl.tensor(Handle(to_bfloat16(wide.handle.data), tl.bfloat16), kind)


class _Executor(stock.GridExecutor):
    def __call__(self, *args: Any, **kwargs: Any) -> None:
        builder = stock.interpreter_builder
        builder.begin([x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NaN and Inf are inputs like others
            super().__call__(*args, **kwargs)
        builder.check_races()


_patch_tensor = stock._patch_lang_tensor


def _patch_lang_tensor(tensor: Any, scope: Any) -> None:
    """As stock, and numpy 2.4, which turns no array of one element into an int, may stand beneath triton 3.6."""
    _patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


@contextmanager
def strict() -> Iterator[None]:
    """Within it interpreted kernels are held to the rules above. `OutOfBounds` reaches the caller as triton's
    InterpreterError, whose text names it; `Race` as it is, after the launch."""
    builder = _Builder()
    with (
        patch.object(stock, "interpreter_builder", builder),
        patch.object(stock, "interpreter_semantic", stock.TritonSemantic(builder)),
        patch.object(stock, "ReduceOps", _Reduction),
        patch.object(stock, "GridExecutor", _Executor),
        patch.object(stock, "_patch_lang_tensor", _patch_lang_tensor),
    ):
        yield
