import torch

from packdit.export.entry import Entry
from packdit.export.vae_makes import axes, conv, convolution, inputs, matrices, outputs, pixel_conv, vector


def test_convolutions_have_their_channels_last() -> None:
    cube, square = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 3, 4, 5)
    assert torch.equal(convolution([cube]), cube.permute(0, 2, 3, 4, 1))
    assert torch.equal(convolution([square]), square[:, :, None].permute(0, 2, 3, 4, 1))


def test_channels_are_reordered() -> None:
    rows = torch.arange(2 * 3 * 4)
    reorder = axes((3, 4), (2, 1, 0))  # of c 2, x 3, y 4
    want = rows.view(2, 3, 4).permute(2, 1, 0).flatten()
    assert torch.equal(reorder([rows]), want)
    weight = torch.randn(24, 24, 3, 3)
    assert torch.equal(outputs(reorder)([weight]), convolution([weight[want]]))
    assert torch.equal(inputs(reorder)([weight]), convolution([weight[:, want]]))


def test_what_is_flattened_and_joined() -> None:
    assert vector([torch.ones(4, 1, 1)]).shape == (4,)
    a, b = torch.randn(2, 3, 1, 1), torch.randn(4, 3)
    assert torch.equal(matrices([a, b]), torch.cat((a.flatten(1), b)))


def test_entries() -> None:
    assert conv("a", "b") == [Entry("a.weight", ("b.weight",), convolution), Entry("a.bias", ("b.bias",))]
    assert pixel_conv("a", "b", "c") == [
        Entry("a.weight", ("b.weight", "c.weight"), matrices),
        Entry("a.bias", ("b.bias", "c.bias")),
    ]
