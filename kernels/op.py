"""How an op becomes a torch operator packdit::<name>, which graphs, fakes and torch.compile see as one unit.

This registers what `torch.library.custom_op` would, from the same parts, without the wrapper that imports torch._dynamo
at the first call: that costs every process more than a second.
"""

from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
R = TypeVar("R")


def custom_op(
    name: str, mutates_args: Iterable[str] = (), device_types: str = "cpu"
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Registers the decorated function, typed as `torch.library.infer_schema` asks, and returns the operator.

    It needs a fake by `torch.library.register_fake`. device_types "default" means any device.
    """

    def register(function: Callable[P, R]) -> Callable[P, R]:
        schema = torch.library.infer_schema(function, mutates_args=mutates_args)
        torch.library.define(f"packdit::{name}", schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(f"packdit::{name}", device_types)(function)
        return cast(Callable[P, R], getattr(torch.ops.packdit, name).default)

    return register
