"""LTX-Video's transformer (arXiv 2501.00103), packed: 2B and 13B.

T tokens, R condition rows, L text states, N blocks, D width, C features of a token. A condition row is one timestep of
one sequence: given frames follow rows of timestep 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import gated_residual, modulate, norm_silu, qk_norm_rope, varlen_attention
from ..pack import Grid, Pack
from .layers import Linear, parameter
from .transformer import PackedModel, places, rope_table, timestep_features
from .wan import Attention

FREQUENCIES = 256  # of the timestep
QK_EPS = 1e-5  # of the norms of queries and keys; the config's is of the blocks'
HEAD_EPS = 1e-6
SECONDS, PIXELS = 20, 2048  # that positions count from 0 to 1
THETA = 10000.0
FIXED = {
    "activation_fn": "gelu-approximate",
    "qk_norm": "rms_norm_across_heads",
    "norm_elementwise_affine": False,
    "attention_bias": True,
    "attention_out_bias": True,
    "patch_size": 1,
    "patch_size_t": 1,
}


class Block(nn.Module):
    """Self-attention, cross-attention, MLP. Only the first and the last have norms and gates."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads, self.eps = heads, eps
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.q_norm, self.k_norm = parameter(width), parameter(width)
        self.cross = Attention(width, heads, QK_EPS)
        self.fc1, self.fc2 = Linear(width, 4 * width), Linear(4 * width, width)

    def attention(self, h_TD: Tensor, pack: Pack) -> Tensor:
        """Every head turns by angles of its own, so that for the rotation all are one of width D."""
        q_T1D, k_T1D, v_T1D = self.qkv(h_TD).view(len(h_TD), 3, 1, -1).unbind(1)
        qk = qk_norm_rope(
            *(q_T1D, k_T1D, pack.layout["cos"], pack.layout["sin"]),
            q_weight=self.q_norm,
            k_weight=self.k_norm,
            across_heads=True,
            eps=QK_EPS,
        )
        q, k, v = (a.view(len(h_TD), self.heads, -1) for a in (*qk, v_T1D.squeeze(1)))
        return self.out(varlen_attention(q, k, v, pack.cu_seqlens, max_seqlen=pack.max_seqlen).flatten(1))

    def forward(
        self, x_TD: Tensor, h_TD: Tensor, text_L2D: Tensor, tables: tuple[Tensor, ...], pack: Pack
    ) -> tuple[Tensor, Tensor]:
        """x, and x normed and modulated for this block -> x, and what its MLP adds to it.

        text_L2D: this block's keys and values of the text; tables: its gate, shift and scale [R, D] after the first
        two.
        """
        gate, shift, scale = tables
        x_TD = gated_residual(x_TD, self.attention(h_TD, pack), gate, pack.row)
        y_TD = self.cross(x_TD, text_L2D, None, pack)
        whole = torch.ones_like(gate[:1]).expand_as(gate)
        x_TD, h_TD = gated_residual(x_TD, y_TD, whole, pack.row, shift=shift, scale=scale, norm="rms", eps=self.eps)
        return x_TD, self.fc2(self.fc1(h_TD, "gelu_tanh"))


class LTXTransformer(PackedModel):
    """What the model predicts, velocity = noise - clean. Timesteps in 0..1000.

    Beside text a clip tells `latent_seconds`, the time from one latent frame to the next, and `latent_pixels`, the side
    of a latent in pixels: 8 / frames per second, and 32, with LTX's own VAE.
    """

    extras = {"latent_seconds": (), "latent_pixels": ()}  # noqa: RUF012
    layout_extras = ("latent_seconds", "latent_pixels")
    patch = (1, 1, 1)

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        heads, depth, eps = config["num_attention_heads"], config["num_layers"], config["norm_eps"]
        width = heads * config["attention_head_dim"]
        check_config(config, width)
        self.in_channels = config["in_channels"]
        self.out_channels = config["out_channels"] or self.in_channels
        self.text_width = config["caption_channels"]
        self.width, self.depth, self.eps = width, depth, eps
        self.embed = Linear(self.in_channels, width)
        self.time1, self.time2 = Linear(FREQUENCIES, width, wide=True), Linear(width, width, wide=True)
        self.text1, self.text2 = Linear(self.text_width, width), Linear(width, width)
        self.text_kv, self.text_k_norm = Linear(width, 2 * depth * width), parameter(depth, width)
        self.time_modulation = Linear(width, 6 * width, bias=False)  # each block has a bias of its own
        self.modulation, self.head_modulation = parameter(depth, 6 * width, wide=True), parameter(2, width, wide=True)
        self.blocks = nn.ModuleList([Block(width, heads, eps) for _ in range(depth)])
        self.head = Linear(width, self.out_channels)

    def layout(self, grid: Grid, **extras: float) -> dict[str, Tensor]:
        """Angles are rounded to float32 at each operation, as the checkpoints are run: the largest are 15708, and their
        rounding shows."""
        seconds, pixels = extras["latent_seconds"], extras["latent_pixels"]
        scales = (seconds, SECONDS), (pixels, PIXELS), (pixels, PIXELS)
        t_y_x = [p.float() * scale / whole for p, (scale, whole) in zip(places(grid), scales, strict=True)]
        position_T31 = torch.stack(t_y_x, 1)[:, :, None]
        exponents = torch.linspace(0, 1, self.width // 6, dtype=torch.float32)
        waves = THETA**exponents * math.pi / 2
        angles = (waves * (position_T31 * 2 - 1)).transpose(1, 2).flatten(1)
        still = torch.zeros(len(angles), self.width // 2 - angles.shape[1])  # the first pairs, where 6 does not divide
        return rope_table(torch.cat([still, angles], 1).double())

    def embed_text(self, text: Tensor) -> Tensor:
        """Text states [l, text_width] -> keys, normed, and values of all blocks, [l, N * 2 * D]."""
        states_LD = self.text2(self.text1(text, "gelu_tanh"))
        both = self.text_kv(states_LD).unflatten(1, (self.depth, 2, self.width))
        for i, weight_D in enumerate(self.text_k_norm):
            both[:, i, 0] = norm_silu(both[:, i, 0], weight_D, activation=False, eps=QK_EPS)
        return both.flatten(1)

    def condition(self, timestep_R: Tensor) -> tuple[Tensor, Tensor]:
        """The time embedding [R, D], float32, and its part [R, 6 * D] of every block's modulation."""
        waves = timestep_features(timestep_R, FREQUENCIES).to(self.time1.weight.dtype)
        time_RD = self.time2(self.time1(waves, "silu"))
        active_RD = norm_silu(time_RD, norm="none").to(self.time_modulation.weight.dtype)
        return time_RD, self.time_modulation(active_RD)

    def forward(self, x_TC: Tensor, pack: Pack) -> Tensor:
        """Tokens of the pack [T, C] -> their velocities [T, C_out]."""
        time_RD, shared = self.condition(pack.timestep)
        text = pack.text.unflatten(1, (self.depth, 2, self.width)).unbind(1)
        x_TD = self.embed(x_TC)
        tables = (shared + self.modulation[0]).chunk(6, 1)
        h_TD = modulate(x_TD, tables[0], tables[1], pack.row, norm="rms", eps=self.eps)
        for i, block in enumerate(self.blocks):
            x_TD, y_TD = block(x_TD, h_TD, text[i], tables[2:5], pack)
            gate = tables[5]
            if i + 1 < self.depth:
                tables, norm, eps = (shared + self.modulation[i + 1]).chunk(6, 1), "rms", self.eps
            else:
                tables, norm, eps = tuple(time_RD + table_D for table_D in self.head_modulation), "layer", HEAD_EPS
            shift, scale = tables[:2]
            x_TD, h_TD = gated_residual(x_TD, y_TD, gate, pack.row, shift=shift, scale=scale, norm=norm, eps=eps)
        return self.head(h_TD)


def check_config(config: dict[str, Any], width: int) -> None:
    """ValueError for what no checkpoint of the class has had."""
    for name, allowed in FIXED.items():
        if config.get(name, allowed) != allowed:
            raise ValueError(f"{name} must be {allowed!r}, got {config[name]!r}")
    if config["cross_attention_dim"] != width:
        raise ValueError(f"cross_attention_dim must be the width {width}, got {config['cross_attention_dim']}")
