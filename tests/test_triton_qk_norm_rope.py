import itertools

import pytest
import torch

from packdit.kernels import qk_norm_rope
from packdit.kernels.norm import NORMS
from packdit.kernels.qk_norm_rope import LAYOUTS
from packdit.kernels.testing import assert_same_bits, check_triton

pytest.importorskip("triton")

from packdit.kernels.interpreter import strict


def inputs(
    tokens: int, head_dim: int, angles: int, dtype: torch.dtype = torch.float32, heads: int = 3, kv_heads: int = 2
) -> tuple[torch.Tensor, ...]:
    """q, k as views of a fused projection, cos, sin."""
    generator = torch.Generator().manual_seed(tokens * 1000 + head_dim)
    fused = torch.randn(tokens, heads + 2 * kv_heads, head_dim, generator=generator).to(dtype)
    fused[:, heads + kv_heads :] = torch.nan  # v, which the op has no business with
    angle = torch.randn(tokens, angles, generator=generator) * 3
    return fused[:, :heads], fused[:, heads : heads + kv_heads], angle.cos(), angle.sin()


def weights(head_dim: int, across_heads: bool, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(head_dim)
    sizes = (
        {"q_weight": 3 * head_dim, "k_weight": 2 * head_dim}
        if across_heads
        else dict.fromkeys(("q_weight", "k_weight"), head_dim)
    )
    return {name: torch.randn(size, generator=generator).to(dtype) for name, size in sizes.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("tokens", "head_dim", "angles"), [(1, 1, 0), (2, 2, 1), (30, 15, 5), (3, 72, 36), (4, 128, 64), (5, 96, 20)]
)
def test_norms_and_weights(tokens: int, head_dim: int, angles: int, layout: str) -> None:
    arguments = inputs(tokens, head_dim, angles)
    for norm, across_heads in itertools.product(NORMS, (False, True)):
        options = {"norm": norm, "across_heads": across_heads, "layout": layout, "eps": 1e-5}
        check_triton(qk_norm_rope, *arguments, **options)
        check_triton(qk_norm_rope, *arguments, **options, **weights(head_dim, across_heads, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("across_heads", [False, True])
def test_half_precision(across_heads: bool, layout: str, dtype: torch.dtype) -> None:
    options = {"across_heads": across_heads, "layout": layout, **weights(80, across_heads, dtype)}
    check_triton(qk_norm_rope, *inputs(33, 80, 40, dtype), **options)


def test_no_tokens_and_many_heads() -> None:
    check_triton(qk_norm_rope, *inputs(0, 8, 4))
    check_triton(qk_norm_rope, *inputs(2, 128, 64, heads=40, kv_heads=8), layout="half")
    check_triton(qk_norm_rope, *inputs(2, 128, 64, heads=40, kv_heads=8), across_heads=True)


def test_what_is_not_rotated_stays_apart() -> None:
    q, k, cos, sin = inputs(3, 8, 2)
    q, k = q.contiguous(), k.contiguous()
    q[0, 0, 7], k[1, 1, 0] = torch.inf, torch.nan
    for layout in LAYOUTS:
        got, _ = check_triton(qk_norm_rope, q, k, cos, sin, norm="none", layout=layout)
        assert int((~got.isfinite()).sum()) == 1


def test_tokens_depend_on_nothing_else() -> None:
    q, k, cos, sin = inputs(20, 24, 12)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    with strict():
        whole = qk_norm_rope(q, k, cos, sin, backend="triton")
        mixed = qk_norm_rope(*(x[order] for x in (q, k, cos, sin)), backend="triton")
    for got, expected in zip(mixed, whole, strict=True):
        assert_same_bits(got, expected[order])


def test_op() -> None:
    arguments = (*inputs(4, 8, 3), None, None, "rms", False, "half", 1e-6)
    with strict():
        torch.library.opcheck(torch.ops.packdit.qk_norm_rope_triton.default, arguments)
