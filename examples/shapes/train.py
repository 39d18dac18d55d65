"""Trains the shapes model: `python train.py vae --out RUN`, then `python train.py dit --out RUN`.

Both stages are seeded, log their losses to RUN/<stage>.csv, save RUN/<stage>.pt every few minutes, and go on from
there when started again. The learning rate is constant, then falls linearly to zero over the last `--decay` share of
the steps. At its end a stage writes RUN/pipeline/, a directory in diffusers' layout that `packdit export` takes.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dit import Group, VideoDiT
from latents import LatentPool
from safetensors.torch import load_file, save_file
from text import make_encoder, make_tokenizer, pooled
from torch import Tensor, nn
from vae import VideoVAE
from world import FRAMES, SIDES, render, sample_clip, sample_size

SAVE_SECONDS = 120.0


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


def write_component(folder: Path, module: nn.Module, extra: dict[str, Any] | None = None) -> None:
    """diffusers' layout: config.json and diffusion_pytorch_model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**module.config, **(extra or {})}, indent=2) + "\n")  # type: ignore[dict-item]  # both models have a config
    save_file(
        {k: v.contiguous() for k, v in module.state_dict().items()}, folder / "diffusion_pytorch_model.safetensors"
    )


def vae_loss(vae: VideoVAE, pixels: Tensor) -> tuple[Tensor, float]:
    """pixels uint8 [n, t, h, w, 3] -> loss, and PSNR in dB of the noisy reconstruction."""
    x = pixels.float() / 127.5 - 1
    with torch.autocast("cpu", torch.bfloat16):
        z = vae.encoder(x).float()
        y = vae.decoder(z + 0.1 * torch.randn_like(z)).float()
    weight = 1 + 2 * (pixels != pixels[:, :1, :1, :1]).any(-1, keepdim=True).float()  # the object counts three times
    error = (y - x) ** 2
    loss = ((y - x).abs() * weight).mean() + 6 * (error * weight).mean() + 1e-3 * (z**2).mean()
    return loss, float(10 * torch.log10(4 / error.mean().detach()))


def train_vae(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    vae = VideoVAE()
    run = Run("vae", args, {"vae": vae}, Optimizers({"vae": vae}, 4e-3, 2e-3))
    while run.step < args.steps:
        rng = np.random.default_rng([args.seed, run.step])
        width, height, frames = sample_size(rng)
        count = max(1, min(48, args.pixels // (width * height * frames)))
        clips = [sample_clip(rng, width, height, frames) for _ in range(count)]
        loss, psnr = vae_loss(vae, render(clips, width, height, frames))
        loss.backward()
        run.advance(loss=float(loss.detach()), psnr=psnr)
    average = run.average["vae"]
    assert isinstance(average, VideoVAE)
    write_component(args.out / "pipeline" / "vae", average, latent_statistics(average, args.seed))


@torch.no_grad()
def latent_statistics(vae: VideoVAE, seed: int, count: int = 200) -> dict[str, list[float]]:
    """Mean and standard deviation of each latent channel over clips of all sizes."""
    rng, parts = np.random.default_rng([seed, 1 << 30]), []
    for _ in range(count):
        width, height, frames = sample_size(rng)
        x = render([sample_clip(rng, width, height, frames) for _ in range(4)], width, height, frames)
        z = vae.encoder(x.float() / 127.5 - 1)
        parts.append(z.flatten(0, -2)[torch.from_numpy(rng.integers(0, z[..., 0].numel(), 200))])
    z = torch.cat(parts).double()
    return {"latents_mean": z.mean(0).tolist(), "latents_std": z.std(0).tolist()}


def load_vae(folder: Path) -> tuple[VideoVAE, Tensor, Tensor]:
    """The trained VAE with its latents' mean and standard deviation [channels]."""
    config = json.loads((folder / "config.json").read_text())
    vae = VideoVAE().eval()
    vae.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    return vae, torch.tensor(config["latents_mean"]), torch.tensor(config["latents_std"])


def dit_loss(
    dit: VideoDiT, encoder: nn.Module, batch: list[dict[str, Any]], shift: float, rng: np.random.Generator
) -> tuple[Tensor, float]:
    """Rectified flow (arXiv 2209.03003) on groups of latents; logit-normal noise levels (arXiv 2403.03206)."""
    groups, targets, masks = [], [], []
    for part in batch:
        tokens, given = part["tokens"], part["given"]
        count = len(tokens)
        sigma = torch.sigmoid(torch.from_numpy(rng.normal(shift, 1.0, count)).float())
        noise = torch.from_numpy(rng.standard_normal(tokens.shape, dtype=np.float32))
        level = sigma[:, None, None]
        noisy = (1 - level) * tokens + level * noise
        if given is not None:
            noisy = torch.where(given[..., None], part["clean"], noisy)
        groups.append(Group(noisy, part["grid"], sigma, torch.empty(0), given))
        targets.append(noise - tokens)
        masks.append(torch.ones(tokens.shape[:2]) if given is None else (~given).float())
    with torch.autocast("cpu", torch.bfloat16):
        ids = torch.nn.utils.rnn.pad_sequence([i for p in batch for i in p["ids"]], batch_first=True, padding_value=1)
        lengths = torch.tensor([len(i) for p in batch for i in p["ids"]])
        text = pooled(encoder, ids, lengths)  # type: ignore[arg-type]  # the moving average is typed as a module
        for group, piece in zip(groups, text.split([len(p["tokens"]) for p in batch]), strict=True):
            group.text = piece
        outs = dit(groups)
    total, weight = torch.zeros(()), 0.0
    for out, target, mask, group in zip(outs, targets, masks, groups, strict=True):
        spread = (group.sigma**2 + (1 - group.sigma) ** 2)[:, None, None]  # the network's own target has unit variance
        total = total + (((out - target) ** 2 * spread).mean(-1) * mask).sum()
        weight += float(mask.sum())
    return total / weight, weight


def train_dit(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    vae, mean, std = load_vae(args.out / "pipeline" / "vae")
    tokenizer = make_tokenizer()
    dit, encoder = VideoDiT(), make_encoder(tokenizer)
    modules = {"dit": dit, "encoder": encoder}
    run = Run("dit", args, modules, Optimizers(modules, 3e-3, 1.8e-3))
    pool = LatentPool(vae, mean, std, tokenizer, args.seed, run.step)
    while run.step < args.steps:
        rng = np.random.default_rng([args.seed, 1, run.step])
        narrow = run.step < args.narrow
        sides, lengths = (SIDES[:3], FRAMES[:3]) if narrow else (SIDES, FRAMES)
        batch = [pool.draw(rng, *sample_size(rng, sides, lengths), args.tokens) for _ in range(args.groups)]
        loss, _ = dit_loss(dit, encoder, batch, args.time_shift if run.factor() == 1 else 0.6, rng)
        loss.backward()
        run.advance(loss=float(loss.detach()))
    write_pipeline(args.out / "pipeline", run.average["dit"], run.average["encoder"], tokenizer)


def write_pipeline(folder: Path, dit: nn.Module, encoder: Any, tokenizer: Any) -> None:
    """Completes the pipeline directory; the VAE is there already."""
    write_component(folder / "transformer", dit)
    encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir(exist_ok=True)
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 2.0}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2) + "\n")
    index = {
        "_class_name": "ShapesPipeline",
        "vae": ["shapes", "ShapesVideoVAE"],
        "transformer": ["shapes", "ShapesVideoDiT"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["vae", "dit"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--decay", type=float, default=0.4, help="share of the steps in which the rate falls to 0")
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pixels", type=int, default=300_000, help="vae: pixels a step")
    parser.add_argument("--groups", type=int, default=6, help="dit: groups of one shape a step")
    parser.add_argument("--tokens", type=int, default=700, help="dit: tokens a group")
    parser.add_argument("--narrow", type=int, default=1500, help="dit: steps on sides to 64 and 9 frames at most")
    parser.add_argument("--time-shift", type=float, default=0.85, help="dit: mean of the noise level's logit")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    {"vae": train_vae, "dit": train_dit}[args.stage](args)


if __name__ == "__main__":
    main()
