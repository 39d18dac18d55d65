"""What the pipelines of diffusers do beside their models, as data: prompts, schedules, sizes and defaults.

Each function takes a pipeline's model_index.json and its folders' configs, and gives bundle.json's `prompt`, `schedule`
and `limits` (`runtime.prompts`, `runtime.schedule` and `runtime.request` say what they mean). Defaults are the
pipelines' own; frames a second, which they leave to whoever writes the file, are those of their models' training.
"""

from __future__ import annotations

from typing import Any

from ...runtime.sampler import DEFAULT

Config = dict[str, Any]
Configs = dict[str, Config]

MAX_SIDE = 2048
MAX_TOKENS = 2**18
MAX_GROUPS = 128  # of frames that share a latent frame
HUNYUAN_TEMPLATE = (
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the following aspects: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
)
"""What HunyuanVideo was trained with (arXiv 2412.03603): its encoder is asked to describe a video."""
HUNYUAN_SKIP = 95  # the tokens of the template before the prompt


def wan(index: Config, configs: Configs) -> Config:
    """WanPipeline and WanImageToVideoPipeline, 2.1 and 2.2; text filled up with zeros to 512 rows."""
    vae, transformer = configs["vae"], configs["transformer"]
    by_token, channels = index.get("expand_timesteps", False), _is_wider(transformer)
    prompt: Config = {"kind": "text", "encoders": [{"length": 512}], "clean": "entities", "zero_rows": 512}
    if index.get("image_encoder", [None])[0] and transformer.get("image_dim") is not None:
        prompt["image"] = _image(configs["image_processor"])
    return {
        "prompt": prompt,
        "schedule": _schedule(configs, boundary=index.get("boundary_ratio")),
        "limits": _limits(
            vae.get("scale_factor_spatial", 8) * transformer["patch_size"][1],
            vae.get("scale_factor_temporal", 4),
            size=(832, 480),
            frames=81,
            fps=24.0 if by_token else 16.0,
            steps=50,
            guidance=5.0,
            conditions="frames" if by_token else "channels" if channels else "whole",
        ),
    }


def dit(index: Config, configs: Configs) -> Config:
    """DiTPipeline: images of a class."""
    transformer, factor = configs["transformer"], _factor(configs["vae"])
    labels = {label.strip(): int(k) for k, names in (index.get("id2label") or {}).items() for label in names.split(",")}
    side = transformer["sample_size"] * factor
    return {
        "prompt": {"kind": "class", "names": labels, "null": transformer["num_embeds_ada_norm"]},
        "schedule": _schedule(configs),
        "limits": _limits(factor * transformer["patch_size"], 1, size=(side, side), steps=50, guidance=4.0),
    }


def latte(index: Config, configs: Configs) -> Config:
    """LattePipeline: every frame encoded by itself; the filling is hidden from the encoder, but its states are kept
    where the negative prompt is shorter than the prompt."""
    transformer, factor = configs["transformer"], _factor(configs["vae"])
    frames = transformer["video_length"]
    return {
        "prompt": {
            "kind": "text",
            "encoders": [_encoder(configs, "", "<pad>", 120, hidden=True)],
            "clean": "lower",
            "as_prompt": True,
        },
        "schedule": _schedule(configs),
        "limits": _limits(
            factor * transformer["patch_size"],
            1,
            size=(512, 512),
            frames=frames,
            max_frames=frames,
            fps=8.0,
            steps=50,
            guidance=7.5,
        ),
    }


def cogvideox(index: Config, configs: Configs) -> Config:
    """CogVideoXPipeline and CogVideoXImageToVideoPipeline; 226 text states, the filling's too."""
    transformer, vae = configs["transformer"], configs["vae"]
    factor, group = _factor(vae), vae.get("temporal_compression_ratio", 4)
    patch = transformer.get("patch_size_t")
    size = transformer["sample_width"] * factor, transformer["sample_height"] * factor
    learned = transformer.get("use_learned_positional_embeddings", False)
    extra = {"sizes": [size], "max_frames": transformer["sample_frames"]} if learned else {}
    return {
        "prompt": {
            "kind": "text",
            "encoders": [_encoder(configs, "", "<pad>", transformer["max_text_seq_length"])],
            "constants": {"ofs": 2.0} if transformer.get("ofs_embed_dim") is not None else {},
        },
        "schedule": _schedule(configs),
        "limits": _limits(
            factor * transformer["patch_size"],
            group,
            size=size,
            frames=transformer["sample_frames"],
            frame_patch=patch or 1,
            fps=16.0 if patch else 8.0,
            steps=50,
            guidance=6.0,
            conditions="first" if _is_wider(transformer) else "whole",
            **extra,
        ),
    }


def ltx(index: Config, configs: Configs) -> Config:
    """LTXPipeline and LTXImageToVideoPipeline; 128 text states are made and those of the filling left out."""
    transformer, vae = configs["transformer"], configs["vae"]
    halvings = sum(vae.get("spatio_temporal_scaling", (True, True, True, False)))
    space = vae.get("spatial_compression_ratio") or vae.get("patch_size", 4) * 2**halvings
    time = vae.get("temporal_compression_ratio") or vae.get("patch_size_t", 1) * 2**halvings
    return {
        "prompt": {"kind": "text", "encoders": [_encoder(configs, "", "<pad>", 128, keep="real")]},
        "schedule": _schedule(configs, ramp="last"),
        "limits": _limits(
            space * transformer.get("patch_size", 1),
            time,
            size=(704, 512),
            frames=161,
            frame_patch=transformer.get("patch_size_t", 1),
            fps=25.0,
            steps=50,
            guidance=3.0,
            conditions="frames",
        ),
    }


def hunyuan_video(index: Config, configs: Configs) -> Config:
    """HunyuanVideoPipeline: LLaMA's third hidden states from the end, and CLIP's pooled state."""
    transformer, vae = configs["transformer"], configs["vae"]
    told = transformer.get("guidance_embeds", True)
    llama = {"template": HUNYUAN_TEMPLATE, "skip": HUNYUAN_SKIP, "length": HUNYUAN_SKIP + 256, "layer": -3}
    return {
        "prompt": {
            "kind": "text",
            "encoders": [llama, _clip(configs, "_2", "pooler_output")],
            "pooled": ["text_encoder_2"],
            "guidance": 1000.0 if told else None,
        },
        "schedule": _schedule(configs, ramp="zero"),
        "limits": _limits(
            vae.get("spatial_compression_ratio", 8) * transformer["patch_size"],
            vae.get("temporal_compression_ratio", 4),
            size=(1280, 720),
            frames=129,
            frame_patch=transformer["patch_size_t"],
            fps=24.0,
            steps=50,
            guidance=6.0 if told else 1.0,
            guidance_kind="embedded" if told else "none",
        ),
    }


def sd3(index: Config, configs: Configs) -> Config:
    """StableDiffusion3Pipeline: two CLIPs side by side, T5 below, or zeros where T5 was left out."""
    transformer, factor = configs["transformer"], _factor(configs["vae"])
    clips = [_clip(configs, suffix, "text_embeds") | {"layer": -2} for suffix in ("", "_2")]
    for clip in clips:
        clip["length"] = clips[0]["length"]
    names = [clip["component"] for clip in clips]
    prompt: Config = {"kind": "text", "encoders": clips, "text": [names], "pooled": names}
    if index.get("text_encoder_3", [None])[0]:
        clips.append(_encoder(configs, "_3", "<pad>", 256))
        prompt["text"].append(["text_encoder_3"])
    else:
        prompt["append"] = [256, transformer["joint_attention_dim"]]
    side, step = transformer["sample_size"] * factor, factor * transformer["patch_size"]
    most = min(MAX_SIDE, transformer["pos_embed_max_size"] * step)
    return {
        "prompt": prompt,
        "schedule": _schedule(configs),
        "limits": _limits(step, 1, size=(side, side), steps=28, guidance=7.0, max_side=most),
    }


def flux(index: Config, configs: Configs) -> Config:
    """FluxPipeline: CLIP's pooled state and 512 states of T5; the network is told sigma itself."""
    told = configs["transformer"].get("guidance_embeds", False)
    factor = _factor(configs["vae"])
    own = configs["scheduler"].get("use_flow_sigmas", False)
    return {
        "prompt": {
            "kind": "text",
            "encoders": [_clip(configs, "", "pooler_output"), _encoder(configs, "_2", "<pad>", 512)],
            "text": [["text_encoder_2"]],
            "pooled": ["text_encoder"],
            "guidance": 1.0 if told else None,
        },
        "schedule": _schedule(configs, ramp=None if own else "last", divide=1000),
        "limits": _limits(
            2 * factor,
            1,
            size=(128 * factor, 128 * factor),
            steps=28,
            guidance=3.5 if told else 1.0,
            guidance_kind="embedded" if told else "none",
        ),
    }


def _schedule(configs: Configs, **extra: Any) -> Config:
    """scheduler_config.json, its class, and what the pipeline adds."""
    config = configs["scheduler"]
    kept = {name: value for name, value in config.items() if not name.startswith("_")}
    return {"class": config["_class_name"], **kept, **{k: v for k, v in extra.items() if v is not None}}


def _limits(
    side_step: int, frame_step: int, *, size: tuple[int, int], frames: int = 1, fps: float = 24.0, **more: Any
) -> Config:
    """`runtime.request.Limits` of a model; more has the other fields. One of one frame makes images."""
    most = 1 if frames == 1 else max(frames, 1 + MAX_GROUPS * frame_step)
    found = {
        "side_step": side_step,
        "min_side": side_step,
        "max_side": max(MAX_SIDE // side_step * side_step, *size),
        "frame_step": frame_step,
        "max_frames": most,
        "max_tokens": MAX_TOKENS,
        "width": size[0],
        "height": size[1],
        "frames": frames,
        "fps": fps,
        "sampler": DEFAULT,
        "conditions": "whole",
    }
    return {**found, **more}


def _factor(vae: Config) -> int:
    """Pixels of a latent's side, of the VAEs that halve it between blocks."""
    factor: int = 2 ** (len(vae["block_out_channels"]) - 1)
    return factor


def _pad(tokenizer: Config, usual: str) -> str:
    """The token that fills up."""
    token = tokenizer.get("pad_token") or usual
    return str(token["content"] if isinstance(token, dict) else token)


def _is_wider(transformer: Config) -> bool:
    """Whether the network takes channels beside the latents."""
    return bool(transformer["in_channels"] > (transformer.get("out_channels") or transformer["in_channels"]))


def _encoder(configs: Configs, suffix: str, pad: str, length: int, **more: Any) -> Config:
    """The reading of text_encoder`suffix`, which attends to what fills up."""
    tokenizer = f"tokenizer{suffix}"
    pad = _pad(configs[tokenizer], pad)
    return {"component": f"text_encoder{suffix}", "tokenizer": tokenizer, "length": length, "pad": pad, **more}


def _clip(configs: Configs, suffix: str, pooled: str) -> Config:
    most = configs[f"text_encoder{suffix}"]["max_position_embeddings"]
    length = min(most, configs[f"tokenizer{suffix}"].get("model_max_length", most))
    return _encoder(configs, suffix, "<|endoftext|>", length, pooled=pooled)


def _image(processor: Config) -> Config:
    """How a given picture is shown to CLIP: scaled to a shorter side, cropped at the centre, normalized."""
    size, crop = processor["size"], processor["crop_size"]
    return {
        "component": "image_encoder",
        "layer": -2,
        "side": size["shortest_edge"] if isinstance(size, dict) else size,
        "crop": [crop["width"], crop["height"]] if isinstance(crop, dict) else [crop, crop],
        "mean": processor["image_mean"],
        "std": processor["image_std"],
    }
