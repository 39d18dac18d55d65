"""OpenVINO as a peer: diffusers' model traced and compiled for one shape at a time, in float32 on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..export.peer import Clip


class OneClip(nn.Module):
    """`one(model, **clip)` with the clip's tensors as inputs; its numbers, the timestep too, become constants."""

    def __init__(self, model: nn.Module, one: Callable[..., Tensor], clip: Clip) -> None:
        super().__init__()
        self.model, self.one = model, one
        self.names = [name for name, value in clip.items() if isinstance(value, Tensor)]
        self.numbers = {name: value for name, value in clip.items() if name not in self.names}

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.one(self.model, **dict(zip(self.names, tensors, strict=True)), **self.numbers)


def converted(model: nn.Module, one: Callable[..., Tensor], clips: list[Clip]) -> Callable[[], list[Tensor]]:
    """A call that runs every clip, each through the network of its shape and numbers."""
    networks: dict[Any, Any] = {}
    runs = []
    for clip in clips:
        key = tuple((name, value.shape if isinstance(value, Tensor) else value) for name, value in clip.items())
        if key not in networks:
            networks[key] = network(OneClip(model, one, clip), clip)
        runs.append((networks[key], [value.numpy() for value in clip.values() if isinstance(value, Tensor)]))
    return lambda: [torch.from_numpy(run(arrays)[0].copy()) for run, arrays in runs]


def network(module: OneClip, clip: Clip) -> Any:
    """One clip's, compiled for PyTorch's number of threads."""
    import openvino  # type: ignore[import-untyped]  # it has no types

    tensors = tuple(value for value in clip.values() if isinstance(value, Tensor))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about what it makes constant
        traced = openvino.convert_model(module.eval(), example_input=tensors, input=[t.shape for t in tensors])
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return openvino.Core().compile_model(traced, "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"})
