"""HunyuanVideo's transformer (arXiv 2412.03603), packed: text to video, and image to video by added channels.

T tokens, L text states, S segments, R condition rows, D width, H heads, K dimensions a head, C features of a token.
Blocks of two streams, each with weights of its own and one attention over both, then blocks of one stream.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import gated_residual, linear, modulate, norm_silu, qk_norm_rope, varlen_attention
from ..pack import Grid, Joint, Pack
from .layers import LayerNorm, Linear, parameter
from .transformer import PackedModel, places, rope_angles, rope_table, timestep_features

EPS = 1e-6  # of every norm
FREQUENCIES = 256  # of timesteps and guidance
REFINER_MLP = 4  # times the width; mlp_ratio is of the other blocks


class Perceptron(nn.Module):
    """Two linear layers, that of an embedding or of a block."""

    def __init__(self, cin: int, hidden: int, cout: int, activation: str, *, wide: bool = False) -> None:
        super().__init__()
        self.activation = activation
        self.fc1, self.fc2 = Linear(cin, hidden, wide=wide), Linear(hidden, cout, wide=wide)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x, self.activation))


class Condition(nn.Module):
    """Embeds numbers, timesteps or guidance: [n] -> float32 [n, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = Perceptron(FREQUENCIES, width, width, "silu", wide=True)

    def forward(self, number: Tensor) -> Tensor:
        return self.mlp(timestep_features(number, FREQUENCIES).to(self.mlp.fc1.weight.dtype))


class RefinerBlock(nn.Module):
    """Self-attention and MLP of the text; the condition sets the gates alone."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = LayerNorm(width, EPS), LayerNorm(width, EPS)
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.mlp = Perceptron(width, REFINER_MLP * width, width, "silu")
        self.modulation = Linear(width, 2 * width)

    def forward(self, text_LD: Tensor, active_RD: Tensor, row: Tensor, cu_seqlens: Tensor) -> Tensor:
        """active_RD: the SiLU of the refiner's condition; row: which of its rows each state follows."""
        gate1, gate2 = self.modulation(active_RD).chunk(2, 1)
        q, k, v = self.qkv(self.norm1(text_LD)).view(len(text_LD), 3, self.heads, -1).unbind(1)
        y_LD = self.out(varlen_attention(q, k, v, cu_seqlens).flatten(1))
        shift, scale = (a.expand_as(gate1) for a in (self.norm2.shift, self.norm2.scale))
        text_LD, h_LD = gated_residual(text_LD, y_LD, gate1, row, shift=shift, scale=scale, eps=EPS)
        return gated_residual(text_LD, self.mlp(h_LD), gate2, row)


class Refiner(nn.Module):
    """Text states that follow the timestep and the mean of their prompt's states."""

    def __init__(self, text_width: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.embed = Linear(text_width, width)
        self.time, self.mean = Condition(width), Perceptron(text_width, width, width, "silu")
        self.blocks = nn.ModuleList([RefinerBlock(width, heads) for _ in range(depth)])

    def admit(self, text: Tensor) -> Tensor:
        """Text states [l, text_width] -> [l, 2 * D]: each state's projection beside the embedding of their mean."""
        share = text.new_full((1, len(text)), 1 / len(text), dtype=torch.promote_types(text.dtype, torch.float32))
        mean = linear(text.T.to(share.dtype).contiguous(), share).T.to(text.dtype)
        return torch.cat([self.embed(text), self.mean(mean.contiguous()).expand(len(text), -1)], 1)

    def forward(self, pack: Pack, joint: Joint) -> Tensor:
        """What `admit` gave for the pack's prompts -> [L, D]."""
        text_LD, mean_LD = pack.text.chunk(2, 1)
        mean_SD = mean_LD.index_select(0, pack.cu_seqlens_text[:-1])
        active_RD = silu(self.time(pack.timestep) + mean_SD.index_select(0, pack.row_segment), text_LD.dtype)
        for block in self.blocks:
            text_LD = block(text_LD, active_RD, joint.text_row, pack.cu_seqlens_text)
        return text_LD


class Stream(nn.Module):
    """What tokens or text have of their own in a block of two streams."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = Linear(width, 6 * width)
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.q_norm, self.k_norm = parameter(width // heads), parameter(width // heads)
        self.mlp = Perceptron(width, mlp, width, "gelu_tanh")

    def project(
        self, x_TD: Tensor, tables: tuple[Tensor, ...], row: Tensor, layout: dict[str, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [T, H, K]. Without a layout, as of text, no rotation."""
        h_TD = modulate(x_TD, tables[0], tables[1], row, eps=EPS)
        q, k, v = self.qkv(h_TD).view(len(h_TD), 3, self.heads, -1).unbind(1)
        if layout is None:
            q = norm_silu(q, self.q_norm, activation=False, eps=EPS)
            return q, norm_silu(k, self.k_norm, activation=False, eps=EPS), v
        angles = layout["cos"], layout["sin"]
        return *qk_norm_rope(q, k, *angles, q_weight=self.q_norm, k_weight=self.k_norm, eps=EPS), v

    def finish(self, x_TD: Tensor, y_THK: Tensor, tables: tuple[Tensor, ...], row: Tensor) -> Tensor:
        """x and what the attention gave -> x after the MLP."""
        gate1, shift, scale, gate2 = tables[2:]
        x_TD, h_TD = gated_residual(x_TD, self.out(y_THK.flatten(1)), gate1, row, shift=shift, scale=scale, eps=EPS)
        return gated_residual(x_TD, self.mlp(h_TD), gate2, row)


class DualBlock(nn.Module):
    """Tokens and text, each with its own weights, in one attention."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.video, self.text = Stream(width, heads, mlp), Stream(width, heads, mlp)

    def forward(
        self, x_TD: Tensor, text_LD: Tensor, active_RD: Tensor, pack: Pack, joint: Joint
    ) -> tuple[Tensor, Tensor]:
        video_tables = self.video.modulation(active_RD).chunk(6, 1)
        text_tables = self.text.modulation(active_RD).chunk(6, 1)
        of_video = self.video.project(x_TD, video_tables, pack.row, pack.layout)
        of_text = self.text.project(text_LD, text_tables, joint.text_row, None)
        q, k, v = (joint.gather(a, b) for a, b in zip(of_video, of_text, strict=True))
        y_THK, y_LHK = joint.split(varlen_attention(q, k, v, joint.cu_seqlens, max_seqlen=joint.max_seqlen))
        x_TD = self.video.finish(x_TD, y_THK, video_tables, pack.row)
        return x_TD, self.text.finish(text_LD, y_LHK, text_tables, joint.text_row)


class SingleBlock(nn.Module):
    """Attention and MLP side by side, of tokens and text in joint order [T + L, D]."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = Linear(width, 3 * width)
        self.qkv, self.fc1 = Linear(width, 3 * width), Linear(width, mlp)
        self.q_norm, self.k_norm = parameter(width // heads), parameter(width // heads)
        self.out = Linear(width + mlp, width)

    def forward(self, x_TD: Tensor, active_RD: Tensor, layout: dict[str, Tensor], joint: Joint) -> Tensor:
        """layout: of tokens and text, in joint order."""
        shift, scale, gate = self.modulation(active_RD).chunk(3, 1)
        h_TD = modulate(x_TD, shift, scale, joint.row, eps=EPS)
        q, k, v = self.qkv(h_TD).view(len(h_TD), 3, self.heads, -1).unbind(1)
        angles = layout["cos"], layout["sin"]
        q, k = qk_norm_rope(q, k, *angles, q_weight=self.q_norm, k_weight=self.k_norm, eps=EPS)
        y_THK = varlen_attention(q, k, v, joint.cu_seqlens, max_seqlen=joint.max_seqlen)
        both = torch.cat([y_THK.flatten(1), self.fc1(h_TD, "gelu_tanh")], 1)
        return gated_residual(x_TD, self.out(both), gate, joint.row)


class HunyuanVideoTransformer(PackedModel):
    """What the model predicts, velocity = noise - clean. Timesteps in 0..1000; guidance 1000 times its scale.

    Text is given without padding: what diffusers masks is left out.
    """

    joint = True

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        check_config(config)
        heads, head_dim = config["num_attention_heads"], config["attention_head_dim"]
        width, side = heads * head_dim, config["patch_size"]
        self.patch = (config["patch_size_t"], side, side)
        volume = config["patch_size_t"] * side**2
        self.in_channels = config["in_channels"]
        self.out_channels = config.get("out_channels") or self.in_channels
        self.text_width, pooled = config["text_embed_dim"], config["pooled_projection_dim"]
        self.extras = {"pooled": (pooled,)}
        self.theta, self.axes = config["rope_theta"], tuple(config["rope_axes_dim"])
        self.embed = Linear(self.in_channels * volume, width)
        self.time, self.pooled = Condition(width), Perceptron(pooled, width, width, "silu")
        if config["guidance_embeds"]:
            self.extras = {**self.extras, "guidance": ()}
            self.guidance = Condition(width)
        self.refiner = Refiner(self.text_width, width, heads, config["num_refiner_layers"])
        shape = width, heads, int(width * config["mlp_ratio"])
        self.blocks = nn.ModuleList([DualBlock(*shape) for _ in range(config["num_layers"])])
        self.single_blocks = nn.ModuleList([SingleBlock(*shape) for _ in range(config["num_single_layers"])])
        self.head_modulation = Linear(width, 2 * width)
        self.head = Linear(width, self.out_channels * volume)

    def layout(self, grid: Grid, **extras: float) -> dict[str, Tensor]:
        return rope_table(rope_angles(places(grid), [n // 2 for n in self.axes], self.theta))

    def embed_text(self, text: Tensor) -> Tensor:
        """Text states [l, text_width] -> [l, 2 * D], l at least 1: what the refiner starts from."""
        return self.refiner.admit(text)

    def embed_extra(self, name: str, value: Tensor) -> Tensor:
        """The pooled text [n] -> its embedding [D]; guidance as it is."""
        return self.pooled(value[None])[0] if name == "pooled" else value

    def condition(self, pack: Pack, dtype: torch.dtype) -> Tensor:
        """SiLU of the sum of timestep, guidance and pooled text, [R, D]."""
        total_SD = pack.extra["pooled"]
        if "guidance" in self.extras:
            total_SD = self.guidance(pack.extra["guidance"]) + total_SD
        return silu(self.time(pack.timestep) + total_SD.index_select(0, pack.row_segment), dtype)

    def forward(self, x_TC: Tensor, pack: Pack) -> Tensor:
        """Tokens of the pack [T, C] -> their velocities [T, C_out]."""
        joint = pack.joint
        assert joint is not None
        active_RD = self.condition(pack, x_TC.dtype)
        x_TD, text_LD = self.embed(x_TC), self.refiner(pack, joint)
        for block in self.blocks:
            x_TD, text_LD = block(x_TD, text_LD, active_RD, pack, joint)
        both, layout = joint.gather(x_TD, text_LD), joint_layout(pack.layout, joint)
        for block in self.single_blocks:
            both = block(both, active_RD, layout, joint)
        x_TD, _ = joint.split(both)
        shift, scale = self.head_modulation(active_RD).chunk(2, 1)
        return self.head(modulate(x_TD, shift, scale, pack.row, eps=EPS))


def silu(x_RD: Tensor, dtype: torch.dtype) -> Tensor:
    """SiLU in the dtype of x, then rounded to `dtype`."""
    return norm_silu(x_RD, norm="none").to(dtype)


def joint_layout(layout: dict[str, Tensor], joint: Joint) -> dict[str, Tensor]:
    """cos and sin of tokens and text in joint order; text is not turned."""
    num_text = len(joint.text_place)
    cos, sin = layout["cos"], layout["sin"]
    return {
        "cos": joint.gather(cos, cos.new_ones(num_text, cos.shape[1])),
        "sin": joint.gather(sin, sin.new_zeros(num_text, sin.shape[1])),
    }


def check_config(config: dict[str, Any]) -> None:
    """ValueError for what the packed model cannot do."""
    if config["qk_norm"] != "rms_norm":
        raise ValueError(f"qk_norm must be rms_norm, got {config['qk_norm']!r}")
    kind = config.get("image_condition_type")
    if kind not in (None, "latent_concat"):
        raise ValueError(f"image_condition_type must be latent_concat or null, got {kind!r}")
    head_dim, axes = config["attention_head_dim"], config["rope_axes_dim"]
    if sum(axes) != head_dim or any(n % 2 for n in axes):
        raise ValueError(f"rope_axes_dim must be even and add up to {head_dim}, got {list(axes)}")
