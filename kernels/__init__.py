"""Fused operations on packed tokens. Each file holds one: formula, reference, kernels, public wrapper.

Importing this package does not import torch: a public name loads its file when it is first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .causal_conv3d import carried as carried
    from .causal_conv3d import causal_conv3d as causal_conv3d
    from .gated_residual import Residual as Residual
    from .gated_residual import gated_residual as gated_residual
    from .group_norm_silu import group_norm_silu as group_norm_silu
    from .guided_step import guided_step as guided_step
    from .linear import linear as linear
    from .linear_fp8 import linear_fp8 as linear_fp8
    from .linear_int8 import linear_int8 as linear_int8
    from .modulate import modulate as modulate
    from .norm_silu import norm_silu as norm_silu
    from .patchify import patchify as patchify
    from .patchify import unpatchify as unpatchify
    from .qk_norm_rope import qk_norm_rope as qk_norm_rope
    from .varlen_attention import varlen_attention as varlen_attention
    from .varlen_attention_fp8 import varlen_attention_fp8 as varlen_attention_fp8

_FILE_OF = {
    "Residual": "gated_residual",
    "carried": "causal_conv3d",
    "causal_conv3d": "causal_conv3d",
    "gated_residual": "gated_residual",
    "group_norm_silu": "group_norm_silu",
    "guided_step": "guided_step",
    "linear": "linear",
    "linear_fp8": "linear_fp8",
    "linear_int8": "linear_int8",
    "modulate": "modulate",
    "norm_silu": "norm_silu",
    "patchify": "patchify",
    "qk_norm_rope": "qk_norm_rope",
    "unpatchify": "patchify",
    "varlen_attention": "varlen_attention",
    "varlen_attention_fp8": "varlen_attention_fp8",
}


class _Kernels(ModuleType):
    """This package, with lazy names; an op's name always means its function.

    Python binds a loaded submodule to its package, which would put the file `linear` in the place of the function
    `linear`; that binding is dropped. `from packdit.kernels.linear import ...` works as ever.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _FILE_OF:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_FILE_OF[name]}", self.__name__), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _FILE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_FILE_OF})


sys.modules[__name__].__class__ = _Kernels
