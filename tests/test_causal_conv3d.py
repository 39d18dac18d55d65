from itertools import product

import pytest
import torch

from packdit.kernels import carried, causal_conv3d
from packdit.kernels.causal_conv3d import Padding, causal_conv3d_reference, fastest_layout
from packdit.kernels.testing import assert_same_bits, check_cpu, check_triton

Triple = tuple[int, int, int]


def inputs(
    size: Triple, channels: tuple[int, int] = (5, 7), kernel: Triple = (3, 3, 3)
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(size) * 100 + sum(channels))
    x = torch.randn(*size, channels[0], generator=generator)
    weight = torch.randn(channels[1], *kernel, channels[0], generator=generator) / (27 * channels[0]) ** 0.5
    return x, weight, torch.randn(channels[1], generator=generator)


@pytest.mark.parametrize("edges", ["zeros", "nearest"])
@pytest.mark.parametrize("padding", [None, ((0, 2), (1, 0))])
@pytest.mark.parametrize("past_frames", [None, 0, 1, 2])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 1, 2)])
def test_the_reference_is_the_formula(stride: Triple, past_frames: int | None, padding: object, edges: str) -> None:
    x, weight, bias = (t.double() for t in inputs((4, 4, 5), (2, 3)))
    past = None if past_frames is None else torch.randn(past_frames, 4, 5, 2).double()
    got = causal_conv3d(x, weight, bias, past=past, stride=stride, padding=padding, edges=edges)  # type: ignore[arg-type]
    before = torch.zeros(2, 4, 5, 2).double() if past is None else past
    clip = torch.cat((before, x))
    (top, bottom), (left, right) = ((1, 1), (1, 1)) if padding is None else padding  # type: ignore[misc]
    framed = torch.zeros(clip.shape[0], top + 4 + bottom, left + 5 + right, 2).double()
    if edges == "nearest":
        rows, columns = torch.arange(-top, 4 + bottom).clamp(0, 3), torch.arange(-left, 5 + right).clamp(0, 4)
        framed = clip[:, rows][:, :, columns]
    framed[:, top : top + 4, left : left + 5] = clip
    st, sh, sw = stride
    for t, y, z in product(*map(range, got.shape[:3])):
        window = framed[st * t : st * t + 3, sh * y : sh * y + 3, sw * z : sw * z + 3]
        torch.testing.assert_close(got[t, y, z], torch.einsum("ijlc,oijlc->o", window, weight) + bias)
    assert got.shape[0] == (clip.shape[0] - 3) // st + 1


def test_the_reference_computes_in_float32_and_differentiates() -> None:
    x, weight, bias = inputs((2, 3, 3), (1, 2), (2, 1, 3))
    assert causal_conv3d(x.half(), weight.half(), bias.half()).dtype == torch.float16
    wide = [t.double().requires_grad_() for t in (x, weight, bias, x[:1])]
    around = ((1, 1), (0, 1))
    assert torch.autograd.gradcheck(lambda *t: causal_conv3d_reference(*t, (1, 2, 1), around, "nearest"), wide)


@pytest.mark.parametrize(
    ("size", "channels", "kernel", "stride"),
    [
        ((1, 1, 1), (1, 1), (1, 1, 1), (1, 1, 1)),
        ((5, 9, 7), (12, 20), (3, 3, 3), (1, 1, 1)),
        ((5, 9, 7), (17, 33), (3, 3, 3), (2, 2, 2)),
        ((4, 8, 8), (48, 96), (1, 3, 3), (1, 2, 2)),
        ((6, 5, 4), (96, 48), (3, 1, 1), (1, 1, 1)),
        ((3, 6, 6), (3, 5), (2, 5, 3), (1, 1, 1)),
        ((0, 6, 6), (3, 5), (2, 3, 3), (1, 1, 1)),
        ((2, 4, 29), (70, 16), (1, 3, 3), (1, 1, 1)),
        ((2, 3, 40), (20, 32), (1, 3, 5), (1, 1, 1)),
        ((2, 3, 31), (7, 16), (3, 3, 3), (1, 2, 1)),
        ((1, 3, 6), (200, 48), (1, 1, 3), (1, 1, 1)),
    ],
)
def test_cpu(size: Triple, channels: tuple[int, int], kernel: Triple, stride: Triple) -> None:
    x, weight, bias = inputs(size, channels, kernel)
    past = torch.randn(kernel[0] - 1, *x.shape[1:], generator=torch.Generator().manual_seed(1))
    if size[0]:
        check_cpu(causal_conv3d, x, weight, stride=stride)
    (got,) = check_cpu(causal_conv3d, torch.cat((x, x[:1], past[:1])), weight, bias, past=past, stride=stride)
    check_cpu(causal_conv3d, torch.cat((x, past)), weight, bias, stride=stride, edges="nearest")
    by_depth = weight.permute(1, 2, 3, 4, 0).contiguous().permute(4, 0, 1, 2, 3)
    for other in (by_depth, fastest_layout(weight)):
        again = causal_conv3d(torch.cat((x, x[:1], past[:1])), other, bias, past=past, stride=stride, backend="cpu")
        assert_same_bits(again, got)


@pytest.mark.parametrize("width", [5, 23])
def test_cpu_of_even_kernels(width: int) -> None:
    x, weight, bias = inputs((2, 4, width), (30, 20), (1, 2, 2))
    check_cpu(causal_conv3d, x, weight, bias, padding=((0, 1), (1, 0)))
    check_cpu(causal_conv3d, x, weight, bias, padding=((2, 1), (3, 2)), edges="nearest")


def test_the_fastest_layout() -> None:
    weight = torch.randn(32, 1, 2, 3, 5)
    packed = fastest_layout(weight)
    assert packed.shape == (2, 1, 2, 3, 5, 16)
    assert torch.equal(packed[1, 0, 1, 2, 4], weight[16:, 0, 1, 2, 4])
    for other in (weight[:31], weight.double(), weight.to("meta")):
        assert fastest_layout(other) is other
    x = torch.randn(2, 4, 4, 5)
    for backend in ("reference", "cpu"):
        got = causal_conv3d(x, packed, padding=((0, 1), (1, 1)), backend=backend)
        torch.testing.assert_close(got, causal_conv3d(x, weight, padding=((0, 1), (1, 1)), backend="reference"))
    with pytest.raises(ValueError, match=r"^causal_conv3d: weight is float32 \[2, 1, 2, 3, 5, 16\] .* 7, 16\]"):
        causal_conv3d(torch.randn(2, 4, 4, 7), packed)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("chunks", [(1, 4, 4, 4), (1,) * 13, (13,), (5, 8), (2, 3, 8)])
@pytest.mark.parametrize("kernel_and_stride", [(3, 1), (1, 1), (4, 1), (3, 2), (2, 2)])
def test_streaming_equals_the_whole_clip(
    kernel_and_stride: tuple[int, int], chunks: tuple[int, ...], backend: str
) -> None:
    kt, st = kernel_and_stride
    x, weight, bias = inputs((13, 5, 6), kernel=(kt, 3, 3))
    whole = causal_conv3d(x, weight, bias, stride=(st, 1, 1), backend=backend)
    past, outputs = None, []
    for chunk in x.split(chunks):
        before = kt - 1 if past is None else past.shape[0]
        if before + chunk.shape[0] >= kt:
            outputs.append(causal_conv3d(chunk, weight, bias, past=past, stride=(st, 1, 1), backend=backend))
        past = carried(past, chunk, kt, st)
    assert_equal = assert_same_bits if backend == "cpu" else torch.testing.assert_close
    assert_equal(torch.cat(outputs), whole)


def test_carried_frames_are_copies_of_the_last() -> None:
    x = torch.randn(5, 2, 2, 3)
    assert torch.equal(carried(None, x, 3, 1), x[3:])
    assert torch.equal(carried(None, x[:1], 3, 1), torch.cat((torch.zeros(1, 2, 2, 3), x[:1])))
    assert torch.equal(carried(x[:2], x[2:3], 3, 1), x[1:3])
    assert carried(None, x, 1, 1).shape == (0, 2, 2, 3)
    assert torch.equal(carried(x[:1], x[1:], 3, 2), x[4:])
    kept = carried(None, x, 3, 1)
    assert kept.untyped_storage().nbytes() == kept.numel() * 4
    with pytest.raises(ValueError, match=r"^carried: stride is 2; allowed: at most the kernel's 1 frames"):
        carried(None, x, 1, 2)


def test_cpu_keeps_nan_in_its_window() -> None:
    x, weight, bias = inputs((6, 8, 8))
    expected = causal_conv3d(x, weight, bias, backend="cpu")
    x[3, 4, 4] = torch.nan
    got = causal_conv3d(x, weight, bias, backend="cpu")
    touched = torch.zeros(6, 8, 8, dtype=torch.bool)
    touched[3:6, 3:6, 3:6] = True
    assert got[touched].isnan().all()
    assert_same_bits(got[~touched], expected[~touched])


def test_cpu_reads_views() -> None:
    x, weight, bias = inputs((4, 5, 6))
    expected = causal_conv3d(x, weight, bias, past=x[:2], backend="cpu")
    channels_first = x.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    got = causal_conv3d(channels_first, weight, bias, past=channels_first[:2], backend="cpu")
    assert_same_bits(got, expected)


def test_bad_arguments() -> None:
    x, weight, bias = inputs((2, 4, 5))
    for arguments, options, message in [
        ((x[0], weight), {}, r"x is float32 \[4, 5, 5\]"),
        ((x[..., :4], weight), {}, r"weight is .*allowed: float32 \[any, any, any, any, 4\]"),
        ((x, weight, bias[:6]), {}, r"bias is float32 \[6\] on cpu; allowed: float32 \[7\]"),
        ((x, weight), {"past": x[:, :3]}, r"past is float32 \[2, 3, 5, 5\] on cpu; allowed: float32 \[any, 4, 5, 5\]"),
        ((x, weight), {"past": torch.cat((x, x))}, "past has 4 frames; allowed: 0 to 2"),
        ((x, weight), {"past": x[:0]}, r"padded input is \(2, 6, 7\); allowed: at least the kernel, \(3, 3, 3\)"),
        ((x, weight), {"stride": (1, 0, 1)}, r"stride is \(1, 0, 1\); allowed: at least 1"),
        ((x, weight), {"edges": "wrap"}, "edges is 'wrap'; allowed: zeros, nearest"),
        ((x, weight), {"padding": ((0, -1), (0, 0))}, "padding is .*; allowed: at least 0"),
        ((x, weight[:, :, :2]), {}, "kernel is 2x3; allowed without padding: odd sizes"),
    ]:
        with pytest.raises(ValueError, match=f"^causal_conv3d: {message}"):
            causal_conv3d(*arguments, **options)


def test_op() -> None:
    x, weight, bias = inputs((3, 4, 5))
    op = torch.ops.packdit.causal_conv3d.default
    torch.library.opcheck(op, (x, weight, bias, x[:2].clone(), [1, 2, 1], [1, 1, 0, 2]))
    torch.library.opcheck(op, (x, weight, None, None, [1, 1, 1], [1, 1, 1, 1]))
    packed = fastest_layout(torch.zeros(16, 3, 3, 3, 5))
    torch.library.opcheck(op, (x, packed, torch.zeros(16), None, [1, 1, 1], [1, 1, 1, 1]))
    torch.library.opcheck(op, (x, weight, None, None, [1, 1, 1], [1, 1, 1, 1], "nearest"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("edges", ["zeros", "nearest"])
@pytest.mark.parametrize("padding", [None, ((0, 2), (1, 0))])
def test_a_gpus_library_call(padding: Padding | None, edges: str, dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    x, weight, bias = (t.to(dtype) for t in inputs((4, 4, 5), (8, 16)))
    for stride, past in (((1, 1, 1), None), ((2, 1, 2), x[:1])):
        check_triton(causal_conv3d, x, weight, bias, past=past, stride=stride, padding=padding, edges=edges)
