"""Trains the shapes model: `python train.py vae --out RUN`, then `python train.py dit --out RUN`.

Both stages are seeded, log their losses to RUN/<stage>.csv, save RUN/<stage>.pt every few minutes, and go on from
there when started again. The learning rate is constant, then falls linearly to zero over the last `--decay` share of
the steps. At its end a stage writes RUN/pipeline/, a directory in diffusers' layout that `packdit export` takes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dit import Group, VideoDiT
from latents import LatentPool
from run import Optimizers, Run
from safetensors.torch import load_file, save_file
from text import make_encoder, make_tokenizer, pooled
from torch import Tensor, nn
from vae import VideoVAE
from world import FRAMES, SIDES, render, sample_behind, sample_clip, sample_size

WIDE = ((64, 32), (96, 32), (96, 48))  # where there is room beside a bar


def write_component(folder: Path, module: nn.Module, extra: dict[str, Any] | None = None) -> None:
    """diffusers' layout: config.json and diffusion_pytorch_model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**module.config, **(extra or {})}, indent=2) + "\n")  # type: ignore[dict-item]  # both models have a config
    save_file(
        {k: v.contiguous() for k, v in module.state_dict().items()}, folder / "diffusion_pytorch_model.safetensors"
    )


def vae_loss(vae: VideoVAE, pixels: Tensor, rng: np.random.Generator, frozen: bool) -> tuple[Tensor, float]:
    """pixels uint8 [n, t, h, w, 3] -> loss, and PSNR in dB of the noisy reconstruction.

    Latents have noise of 0.1. In four clips of ten, four latent frames of ten have more, up to 2: what they show must
    come from earlier frames. One clip in five is decoded without its context.
    """
    x = pixels.float() / 127.5 - 1
    with torch.autocast("cpu", torch.bfloat16):
        with torch.set_grad_enabled(not frozen):
            z = vae.encoder(x).float()
        count, frames = z.shape[:2]
        rough = (rng.random((count, 1)) < 0.4) & (rng.random((count, frames)) < 0.4)
        level = torch.from_numpy(np.where(rough, rng.uniform(0.3, 2.0, (count, frames)), 0.1)).float()
        seen = torch.from_numpy(rng.random(count) >= 0.2)
        y = vae.decoder(z + level.view(count, frames, 1, 1, 1) * torch.randn_like(z), seen).float()
    weight = 1 + 2 * (pixels != pixels[:, :1, :1, :1]).any(-1, keepdim=True).float()  # the object counts three times
    error = (y - x) ** 2
    loss = ((y - x).abs() * weight).mean() + 6 * (error * weight).mean() + 1e-3 * (z**2).mean()
    return loss, float(10 * torch.log10(4 / error.mean().detach()))


def vae_clips(rng: np.random.Generator, pixels: int) -> Tensor:
    """Clips of one shape: one or two objects, or one that passes behind a bar in a long clip."""
    width, height, frames = sample_size(rng)
    behind = rng.random() < 0.3
    if behind:
        (width, height), frames = WIDE[int(rng.integers(len(WIDE)))], int(rng.choice((17, 25, 33)))
    count = max(1, min(48, pixels // (width * height * frames)))
    make = sample_behind if behind else sample_clip
    clips = [make(rng, width, height, frames, count=1 + int(rng.random() < 0.5)) for _ in range(count)]
    return render(clips, width, height, frames)


def train_vae(args: argparse.Namespace) -> None:
    """With --start, its encoder stays as it is (so do the latents, and a transformer that was trained on them)."""
    torch.manual_seed(args.seed)
    vae, extra = VideoVAE(), None
    if args.start:
        config = json.loads((args.start / "config.json").read_text())
        extra = {name: config[name] for name in ("latents_mean", "latents_std")}
        vae.load_state_dict(load_file(args.start / "diffusion_pytorch_model.safetensors"))
        vae.encoder.requires_grad_(False)
    trained: dict[str, nn.Module] = {"decoder": vae.decoder} if args.start else {"vae": vae}
    run = Run("vae", args, {"vae": vae}, Optimizers(trained, 4e-3 * args.rate, 2e-3 * args.rate))
    while run.step < args.steps:
        rng = np.random.default_rng([args.seed, run.step])
        loss, psnr = vae_loss(vae, vae_clips(rng, args.pixels), rng, args.start is not None)
        loss.backward()
        run.advance(loss=float(loss.detach()), psnr=psnr)
    average = run.average["vae"]
    assert isinstance(average, VideoVAE)
    write_component(args.out / "pipeline" / "vae", average, extra or latent_statistics(average, args.seed))


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
    """A VAE whose encoder is the trained one, with its latents' mean and standard deviation [channels]."""
    config = json.loads((folder / "config.json").read_text())
    vae = VideoVAE().eval()
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    vae.encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")})
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
    run = Run("dit", args, modules, Optimizers(modules, 3e-3 * args.rate, 1.8e-3 * args.rate))
    pool = LatentPool(vae, mean, std, tokenizer, args.seed, run.step, args.two)
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
    parser.add_argument("--two", type=float, default=0.0, help="dit: share of clips with two objects")
    parser.add_argument("--start", type=Path, help="vae: a trained VAE's folder, whose encoder is kept")
    parser.add_argument("--rate", type=float, default=1.0, help="factor of the learning rates")
    parser.add_argument("--time-shift", type=float, default=0.85, help="dit: mean of the noise level's logit")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    {"vae": train_vae, "dit": train_dit}[args.stage](args)


if __name__ == "__main__":
    main()
