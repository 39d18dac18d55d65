"""A training stage's optimizers, and its state on disk."""

from __future__ import annotations

import argparse
import copy
import csv
import os
import time
from typing import Any

import torch
from torch import nn

SAVE_SECONDS = 240.0


class Optimizers:
    """Muon for matrices inside the network, AdamW for the rest; one learning-rate factor for both."""

    def __init__(self, modules: dict[str, nn.Module], muon_lr: float, adam_lr: float) -> None:
        named = [(f"{m}.{n}", p) for m, module in modules.items() for n, p in module.named_parameters()]
        edge = ("embed", "head", "modulation", "conv_in", "conv_out")
        inner = [p for n, p in named if p.ndim == 2 and not any(word in n for word in edge) and min(p.shape) > 8]
        chosen = {id(p) for p in inner}
        rest = [p for _, p in named if id(p) not in chosen]
        self.parts = [
            torch.optim.Muon(inner, lr=muon_lr, weight_decay=0.01, momentum=0.95),
            torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.base = [muon_lr, adam_lr]
        self.parameters = [p for _, p in named]

    def step(self, factor: float) -> None:
        """One step at `factor` of the learning rates, after clipping the gradient to norm 1."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for part, base in zip(self.parts, self.base, strict=True):
            part.param_groups[0]["lr"] = base * factor
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


class Run:
    """A stage's state on disk: modules, their moving averages, optimizers, the step, and the log."""

    def __init__(self, stage: str, args: argparse.Namespace, modules: dict[str, nn.Module], optimizers: Optimizers):
        self.path, self.log = args.out / f"{stage}.pt", args.out / f"{stage}.csv"
        self.modules, self.optimizers, self.step, self.args = modules, optimizers, 0, args
        self.average = {name: copy.deepcopy(module).eval() for name, module in modules.items()}
        if self.path.exists():
            saved = torch.load(self.path, weights_only=True)
            for name, module in modules.items():
                module.load_state_dict(saved["modules"][name])
                self.average[name].load_state_dict(saved["average"][name])
            optimizers.load_state_dict(saved["optimizers"])
            self.step = saved["step"]
        self.saved = self.started = time.monotonic()

    def factor(self) -> float:
        """Warm-up over 50 steps, constant, then linear to zero."""
        left = (self.args.steps - self.step) / max(1.0, self.args.decay * self.args.steps)
        return min(1.0, (self.step + 1) / 50, left)

    @torch.no_grad()
    def advance(self, **figures: float) -> None:
        """Optimizer step, moving averages, log, and a save when it is time."""
        self.optimizers.step(self.factor())
        self.step += 1
        decay = min(self.args.ema, (self.step + 1) / (self.step + 10))
        for name, module in self.modules.items():
            for mean, value in zip(self.average[name].parameters(), module.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        if self.step % 20 == 0:
            new = not self.log.exists()
            with self.log.open("a", newline="") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(["step", "seconds", *figures])
                writer.writerow(
                    [self.step, f"{time.monotonic() - self.started:.1f}", *(f"{v:.5f}" for v in figures.values())]
                )
        if time.monotonic() - self.saved > SAVE_SECONDS or self.step == self.args.steps:
            self.save()

    def save(self) -> None:
        """Writes the checkpoint beside the old one, then takes its place."""
        state = {
            "modules": {n: m.state_dict() for n, m in self.modules.items()},
            "average": {n: m.state_dict() for n, m in self.average.items()},
            "optimizers": self.optimizers.state_dict(),
            "step": self.step,
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)
        self.saved = time.monotonic()
