"""What entries are made with."""

import torch

from packdit.export.entry import Entry, rows
from packdit.export.makes import channels_first, first, layer_norm, less_one, linear, matrix, stack
from packdit.kernels import patchify, unpatchify


def test_weight_and_bias_of_several_layers() -> None:
    assert linear("qkv", "to_q", "to_k") == [
        Entry("qkv.weight", ("to_q.weight", "to_k.weight"), rows),
        Entry("qkv.bias", ("to_q.bias", "to_k.bias"), rows),
    ]


def test_a_norms_weight_becomes_a_scale_about_one() -> None:
    scale, shift = layer_norm("norm", "norm2")
    assert (scale, shift) == (Entry("norm.scale", ("norm2.weight",), less_one), Entry("norm.shift", ("norm2.bias",)))
    assert scale.make([torch.tensor([1.0, 0.5])]).tolist() == [0, -0.5]


def test_stack_and_first() -> None:
    assert stack([torch.zeros(2), torch.ones(2)]).tolist() == [[0, 0], [1, 1]]
    assert first([torch.ones(1, 2)]).tolist() == [1, 1]


def test_a_convolution_over_patches_is_a_matrix_over_tokens() -> None:
    x, weight = torch.randn(3, 2, 4, 6, dtype=torch.float64), torch.randn(5, 3, 1, 2, 3, dtype=torch.float64)
    want = torch.nn.functional.conv3d(x[None], weight, stride=(1, 2, 3))[0].flatten(1).t()
    torch.testing.assert_close(patchify([x], (1, 2, 3)) @ matrix([weight]).t(), want)


def test_a_heads_rows_come_in_the_order_of_unpatchify() -> None:
    rows_of_a_token = torch.arange(12.0)  # (pt, ph, pw, c) of a patch (1, 2, 2) with 3 channels
    token = channels_first(4)([rows_of_a_token])
    (latent,) = unpatchify(token[None], [(1, 2, 2)], (1, 2, 2))
    assert torch.equal(latent, rows_of_a_token.view(1, 2, 2, 3).permute(3, 0, 1, 2))
    weight = torch.randn(12, 5)
    assert torch.equal(channels_first(4)([weight]), weight[channels_first(4)([torch.arange(12)])])
