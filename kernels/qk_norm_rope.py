"""Normalization of queries and keys, then rotary position embedding.

Sources: query-key normalization, arXiv 2302.05442, section 2 (per head) and Wan's blocks (across heads); rotary
embedding, arXiv 2104.09864, section 3.2, in its interleaved layout, pairs (2i, 2i + 1), and GPT-NeoX's half layout,
pairs (i, i + R). A pair (a, b) becomes (a cos - b sin, b cos + a sin); cos and sin come from tables, so that the three
axes of a position may share the head's dimensions in any way.
"""

import torch
from torch import Tensor

from .backend import choose, native
from .norm import NORMS, normalize
from .op import custom_op
from .tensors import accurate, address, check_choice, check_tensor, dense_rows, heads

LAYOUTS = ("interleaved", "half")


def rotate(x: Tensor, cos: Tensor, sin: Tensor, layout: str) -> Tensor:
    """x [T, H, D] with its first 2R dimensions rotated by the angles whose cos and sin [T, R] are given."""
    num_rotated = 2 * cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]
    first, rest = x[..., :num_rotated], x[..., num_rotated:]
    if layout == "interleaved":
        a, b = first[..., 0::2], first[..., 1::2]
        rotated = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    else:
        a, b = first.chunk(2, -1)
        rotated = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    return torch.cat((rotated, rest), -1)


def norm_rope_reference(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    weight: Tensor | None,
    norm: str,
    across_heads: bool,
    layout: str,
    eps: float,
) -> Tensor:
    """The definition for one of q and k, in plain PyTorch; differentiable. Arguments as in `qk_norm_rope`."""
    wide = accurate(x)
    wide = normalize(wide.flatten(1), norm, eps) if across_heads else normalize(wide, norm, eps)
    if weight is not None:
        wide = wide * accurate(weight)
    return rotate(wide.view(x.shape), cos.to(wide.dtype), sin.to(wide.dtype), layout).to(x.dtype)


@custom_op("qk_norm_rope")
def _qk_norm_rope(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    norm: str,
    across_heads: bool,
    layout: str,
    eps: float,
) -> tuple[Tensor, Tensor]:
    cos, sin = cos.contiguous(), sin.contiguous()
    outs = []
    for x, weight in ((q, q_weight), (k, k_weight)):
        x, weight = dense_rows(x), None if weight is None else weight.contiguous()
        out = x.new_empty(x.shape)
        native().norm_rope(
            *(heads(x), x.shape[0], x.shape[2], address(weight), NORMS.index(norm), across_heads, eps),
            *(address(cos), address(sin), cos.shape[1], layout == "interleaved"),
            *(address(out), torch.get_num_threads()),
        )
        outs.append(out)
    return outs[0], outs[1]


@custom_op("qk_norm_rope_triton", device_types="default")
def _qk_norm_rope_triton(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    norm: str,
    across_heads: bool,
    layout: str,
    eps: float,
) -> tuple[Tensor, Tensor]:
    from .triton_qk_norm_rope import launch_norm_rope  # triton is optional

    angles = cos.contiguous(), sin.contiguous()
    q_weight, k_weight = (None if weight is None else weight.contiguous() for weight in (q_weight, k_weight))
    return (
        launch_norm_rope(dense_rows(q), *angles, q_weight, norm, across_heads, layout, eps),
        launch_norm_rope(dense_rows(k), *angles, k_weight, norm, across_heads, layout, eps),
    )


@torch.library.register_fake("packdit::qk_norm_rope_triton")
@torch.library.register_fake("packdit::qk_norm_rope")
def _(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    norm: str,
    across_heads: bool,
    layout: str,
    eps: float,
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape)


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    norm: str = "rms",
    across_heads: bool = False,
    layout: str = "interleaved",
    eps: float = 1e-6,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """q and k, normalized and rotated: new contiguous tensors of their shapes and dtype.

    q [T, H, D], k [T, Hk, D], also as strided views of a fused projection; cos, sin float32 (or float64 with float64 q)
    [T, R] with 2R <= D: the first 2R dimensions of a head are rotated, the rest passes; norm "rms", "layer" or "none"
    over D, or over all heads when across_heads; weights [D], or [H * D] and [Hk * D] when across_heads;
    layout "interleaved" or "half". ValueError for anything else.
    """
    check_choice("qk_norm_rope: norm", norm, NORMS)
    check_choice("qk_norm_rope: layout", layout, LAYOUTS)
    check_tensor("qk_norm_rope: q", q, (None, None, None))
    num_tokens, num_heads, head_dim = q.shape
    check_tensor("qk_norm_rope: k", k, (num_tokens, None, head_dim), (q.dtype,), q.device)
    angle_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    check_tensor("qk_norm_rope: cos", cos, (num_tokens, None), (angle_dtype,), q.device)
    check_tensor("qk_norm_rope: sin", sin, tuple(cos.shape), (angle_dtype,), q.device)
    if 2 * cos.shape[1] > head_dim:
        raise ValueError(f"qk_norm_rope: cos has {cos.shape[1]} angles; allowed: at most {head_dim // 2}, half a head")
    for name, weight, count in (("q_weight", q_weight, num_heads), ("k_weight", k_weight, k.shape[1])):
        if weight is not None:
            check_tensor(f"qk_norm_rope: {name}", weight, (count * head_dim if across_heads else head_dim,))
    weights = [weight for weight in (q_weight, k_weight) if weight is not None]
    chosen = choose("qk_norm_rope", backend, q, k, cos, sin, *weights)
    if chosen != "reference":
        kernel = _qk_norm_rope_triton if chosen == "triton" else _qk_norm_rope
        return kernel(q, k, cos, sin, q_weight, k_weight, norm, across_heads, layout, eps)
    return (
        norm_rope_reference(q, cos, sin, q_weight, norm, across_heads, layout, eps).contiguous(),
        norm_rope_reference(k, cos, sin, k_weight, norm, across_heads, layout, eps).contiguous(),
    )
