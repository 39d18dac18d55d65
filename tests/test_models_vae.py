"""The parts of VAEs: convolutions in streams, with and without look-ahead; upsampling folded into one; attention."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from packdit.runtime.models.layers import lay_out
from packdit.runtime.models.vae import (
    END,
    Attention,
    Conv3d,
    GroupNorm,
    Middle,
    Res,
    RmsNorm,
    UpConv3d,
    VideoVAE,
    conv2d,
    held,
    is_first,
)


def filled(module: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator) * (p.numel() / len(p)) ** -0.5
    return module


def plain(conv: Conv3d, x: Tensor, before: int, after: int, mode: str) -> Tensor:
    """PyTorch's convolution of the whole clip."""
    first, last = (torch.zeros_like(x[:1]) if mode == "zeros" else end for end in (x[:1], x[-1:]))
    clip = torch.cat((*[first] * before, x, *[last] * after)).permute(3, 0, 1, 2)[None]
    out = F.conv3d(clip, conv.weight.permute(0, 4, 1, 2, 3), conv.bias, padding=(0, 1, 1))
    return out[0].permute(1, 2, 3, 0)


@pytest.mark.parametrize("chunks", [(7,), (1, 2, 4), (1,) * 7])
@pytest.mark.parametrize(("repeat", "ahead"), [(False, 0), (True, 0), (True, 1)])
def test_a_convolution_in_chunks_is_that_of_the_clip(repeat: bool, ahead: int, chunks: tuple[int, ...]) -> None:
    conv = filled(Conv3d(3, 5, (3, 3, 3), repeat=repeat, ahead=ahead))
    x, stream = torch.randn(7, 4, 5, 3), {}
    outputs = []
    for i, chunk in enumerate(x.split(chunks)):
        if i == len(chunks) - 1:
            stream[END] = True
        outputs.append(conv(chunk, stream))
    got = torch.cat([conv(x[:0], {}), *outputs])
    want = plain(conv, x, 2 - ahead, ahead, "repeat" if repeat else "zeros")
    assert torch.equal(torch.cat([conv(x, {END: True})]), got)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("edges", ["zeros", "nearest"])
def test_upsampling_is_folded_into_the_convolution(edges: str, frames: int) -> None:
    conv = filled(UpConv3d(3, 5, frames, edges=edges, repeat=True))
    x = torch.randn(4, 2, 3, 3)
    large = F.interpolate(x.permute(3, 0, 1, 2)[None], scale_factor=(1.0, 2.0, 2.0))
    mode = "constant" if edges == "zeros" else "replicate"
    framed = F.pad(F.pad(large, (0, 0, 0, 0, frames - 1, 0), mode="replicate"), (1, 1, 1, 1, 0, 0), mode=mode)
    want = F.conv3d(framed, conv.weight.permute(0, 4, 1, 2, 3), conv.bias)[0].permute(1, 2, 3, 0)
    torch.testing.assert_close(conv(x, {}), want)
    lay_out(conv)
    assert conv.weight.shape == (2, 2, 5, frames, 2, 2, 3)
    stream: dict[Any, Any] = {}
    got = torch.cat([conv(chunk, stream) for chunk in x.split([1, 1, 2])])
    torch.testing.assert_close(got, want)


def test_weights_in_half_precision_are_not_summed() -> None:
    conv = filled(UpConv3d(3, 5)).bfloat16()
    lay_out(conv)
    assert conv.weight.shape == (5, 1, 3, 3, 3)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_within_frames_or_over_the_past(causal: bool) -> None:
    attention = filled(Attention(6, RmsNorm(6, activation=False, eps=1e-6), causal=causal))
    x = torch.randn(3, 2, 2, 6)
    q, k, v = F.linear(
        F.rms_norm(x, (6,), attention.norm.weight, 1e-6), attention.qkv.weight, attention.qkv.bias
    ).chunk(3, -1)
    frame = torch.arange(3).repeat_interleave(4)
    visible = frame[:, None] >= frame if causal else frame[:, None] == frame
    y = F.scaled_dot_product_attention(*(t.reshape(1, 12, 6) for t in (q, k, v)), attn_mask=visible)
    want = x + F.linear(y.view(x.shape), attention.out.weight, attention.out.bias)
    torch.testing.assert_close(attention(x, {}), want)


@pytest.mark.parametrize("across", [False, True])
def test_group_norm_is_of_a_frame_or_of_all(across: bool) -> None:
    norm = filled(GroupNorm(6, 3, across=across))
    x = torch.randn(3, 2, 4, 6)
    clips = x.permute(3, 0, 1, 2)[None] if across else x.permute(0, 3, 1, 2)
    normed = F.silu(F.group_norm(clips, 3, norm.weight, norm.bias, 1e-6))
    want = normed[0].permute(1, 2, 3, 0) if across else normed.permute(0, 2, 3, 1)
    torch.testing.assert_close(norm(x, {}), want)


def test_residual_blocks_project_where_the_width_changes() -> None:
    def norm(channels: int) -> nn.Module:
        return RmsNorm(channels, eps=1e-6)

    x = torch.randn(2, 3, 3, 4)
    wider = filled(Res(4, 6, norm, conv2d))
    assert wider(x, {}).shape == (2, 3, 3, 6)
    same = filled(Res(4, 4, norm, conv2d))
    assert same.shortcut is None
    middle = Middle(same, None, same)
    torch.testing.assert_close(middle(x, {}), same(same(x, {}), {}))


def test_what_a_stream_holds() -> None:
    part, stream, x = nn.Identity(), {}, torch.arange(6.0).view(6, 1, 1, 1)
    assert is_first(part, stream)
    assert not is_first(part, stream)
    frames = [held(part, chunk, count, stream) for chunk, count in ((x[:2], 0), (x[2:3], 2), (x[3:], 4))]
    assert torch.equal(torch.cat(frames), x)
    assert list(stream) == [part]


def test_chunks_of_a_clip() -> None:
    vae = VideoVAE()
    vae.group = 4
    assert vae.latent_chunks(3) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert vae.pixel_chunks(9) == [slice(0, 1), slice(1, 5), slice(5, 9)]
