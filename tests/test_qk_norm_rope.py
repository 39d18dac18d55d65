from itertools import product

import pytest
import torch

from packdit.kernels import qk_norm_rope
from packdit.kernels.norm import NORMS, normalize
from packdit.kernels.qk_norm_rope import LAYOUTS, norm_rope_reference
from packdit.kernels.testing import assert_same_bits, check_cpu


def inputs(tokens: int, head_dim: int, angles: int, heads: int = 4, kv_heads: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(tokens * 1000 + head_dim)
    q = torch.randn(tokens, heads, head_dim, generator=generator) * 2
    k = torch.randn(tokens, kv_heads, head_dim, generator=generator)
    angle = torch.rand(tokens, angles, generator=generator) * 100
    return q, k, angle.cos(), angle.sin()


@pytest.mark.parametrize("across_heads", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_the_reference_is_the_formula(norm: str, across_heads: bool) -> None:
    q, k, cos, sin = (t.double() for t in inputs(5, 10, 3))
    weight = torch.randn(40 if across_heads else 10).double()
    got, _ = qk_norm_rope(q, k, cos, sin, q_weight=weight, norm=norm, across_heads=across_heads)
    shape = (5, 40) if across_heads else (5, 4, 10)
    normed = (normalize(q.view(shape), norm, 1e-6) * weight).view(5, 4, 10)
    turn = torch.complex(cos, sin)[:, None]
    turned = torch.view_as_real(torch.view_as_complex(normed[..., :6].unflatten(-1, (3, 2)).contiguous()) * turn)
    torch.testing.assert_close(got, torch.cat((turned.flatten(-2), normed[..., 6:]), -1))


def test_the_layouts_are_one_rotation_of_reordered_dimensions() -> None:
    q, k, cos, sin = inputs(5, 10, 3)
    half_of_pair = [0, 3, 1, 4, 2, 5, 6, 7, 8, 9]  # interleaved position -> position in the half layout
    for backend in ("reference", "cpu"):
        half, _ = qk_norm_rope(q, k, cos, sin, norm="none", layout="half", backend=backend)
        pairs, _ = qk_norm_rope(q[..., half_of_pair], k, cos, sin, norm="none", backend=backend)
        torch.testing.assert_close(pairs, half[..., half_of_pair])


def test_the_reference_differentiates() -> None:
    q, _, cos, sin = inputs(2, 6, 2, heads=2)
    arguments = (q.double().requires_grad_(), torch.linspace(0.5, 2, 6).double().requires_grad_())
    for norm, layout in product(NORMS, LAYOUTS):
        assert torch.autograd.gradcheck(
            lambda q, w, norm=norm, layout=layout: norm_rope_reference(q, cos, sin, w, norm, False, layout, 1e-6),
            arguments,
        )


@pytest.mark.parametrize(
    ("tokens", "head_dim", "angles"),
    [(0, 8, 4), (97, 2, 1), (7, 17, 8), (7, 17, 0), (33, 32, 16), (19, 72, 36), (60, 64, 24), (9, 256, 128)],
)
def test_cpu(tokens: int, head_dim: int, angles: int) -> None:
    torch.manual_seed(tokens)
    q, k, cos, sin = inputs(tokens, head_dim, angles)
    for norm, across_heads, layout in product(NORMS, (False, True), LAYOUTS):
        widths = (4 * head_dim, 2 * head_dim) if across_heads else (head_dim, head_dim)
        weights = {"q_weight": torch.randn(widths[0]), "k_weight": torch.randn(widths[1])}
        options = {"norm": norm, "across_heads": across_heads, "layout": layout}
        check_cpu(qk_norm_rope, q, k, cos, sin, **weights, **options)
    check_cpu(qk_norm_rope, q, k, cos, sin)


def test_cpu_reads_a_fused_projection_in_place() -> None:
    q, k, cos, sin = inputs(300, 32, 16, kv_heads=4)
    for packed in (torch.stack((q, k, k), 1), torch.stack((q, k, k), 2)):  # [T, 3, H, D] and [T, H, 3, D]
        views = packed.unbind(1 if packed.shape[1] == 3 else 2)
        got = qk_norm_rope(views[0], views[1], cos, sin, backend="cpu")
        for a, b in zip(got, qk_norm_rope(q, k, cos, sin, backend="cpu"), strict=True):
            assert_same_bits(a, b)
            assert a.is_contiguous()


def test_cpu_rows_depend_on_nothing_else() -> None:
    q, k, cos, sin = inputs(600, 32, 16)
    q[100] = torch.nan
    whole, _ = qk_norm_rope(q, k, cos, sin, backend="cpu")
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    shuffled, _ = qk_norm_rope(q[order], k[order], cos[order], sin[order], backend="cpu")
    assert_same_bits(shuffled, whole[order])
    alone, _ = qk_norm_rope(q[77:78], k[77:78], cos[77:78], sin[77:78], backend="cpu")
    assert_same_bits(alone, whole[77:78])
    assert whole[100].isnan().all()
    assert whole[101:].isfinite().all()


def test_bad_arguments() -> None:
    q, k, cos, sin = inputs(4, 8, 4)
    for arguments, options, message in [
        ((q[0], k, cos, sin), {}, r"q is float32 \[4, 8\]"),
        ((q, k[..., :6], cos, sin), {}, r"k is float32 \[4, 2, 6\] on cpu; allowed: float32 \[4, any, 8\]"),
        ((q, k, cos.half(), sin), {}, r"cos is float16 \[4, 4\] on cpu; allowed: float32"),
        ((q, k, cos, sin[:, :3]), {}, r"sin is float32 \[4, 3\]"),
        ((q, k, torch.ones(4, 5), torch.ones(4, 5)), {}, "cos has 5 angles; allowed: at most 4, half a head"),
        ((q, k, cos, sin), {"norm": "l2"}, "norm is 'l2'"),
        ((q, k, cos, sin), {"layout": "neox"}, "layout is 'neox'; allowed: interleaved, half"),
        ((q, k, cos, sin), {"q_weight": torch.ones(32)}, r"q_weight is float32 \[32\] on cpu; allowed: .* \[8\]"),
        ((q, k, cos, sin), {"k_weight": torch.ones(8), "across_heads": True}, r"k_weight .* allowed: .* \[16\]"),
    ]:
        with pytest.raises(ValueError, match=f"^qk_norm_rope: {message}"):
            qk_norm_rope(*arguments, **options)


def test_op() -> None:
    q, k, cos, sin = inputs(5, 8, 3)
    for weights in ((torch.ones(8), torch.ones(8)), (None, None)):
        arguments = (q, k, cos, sin, *weights, "rms", False, "half", 1e-6)
        torch.library.opcheck(torch.ops.packdit.qk_norm_rope.default, arguments)
