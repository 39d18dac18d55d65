import torch
import torch.nn.functional as F

from packdit.runtime.models.frames import enlarge, fold, mean_of_groups, unfold, unfold_by_channel

SIDES = (2, 3, 4)


def test_unfolding_and_folding() -> None:
    x = torch.randn(4, 6, 8, 5)
    unfolded = unfold(x, SIDES)
    assert unfolded.shape == (2, 2, 2, 2 * 3 * 4 * 5)
    assert torch.equal(unfolded[1, 0, 1].view(2, 3, 4, 5), x[2:4, 0:3, 4:8])
    assert torch.equal(fold(unfolded, SIDES), x)
    by_channel = unfold_by_channel(x, SIDES)[1, 0, 1].view(5, 2, 3, 4)
    assert torch.equal(by_channel, x[2:4, 0:3, 4:8].movedim(-1, 0))


def test_enlarging_is_nearest_neighbour_interpolation() -> None:
    x = torch.randn(2, 3, 4, 5)
    want = F.interpolate(x.permute(3, 0, 1, 2)[None], scale_factor=SIDES)[0].permute(1, 2, 3, 0)
    assert torch.equal(enlarge(x, SIDES), want)


def test_means_of_groups() -> None:
    x = torch.randn(2, 3, 12)
    torch.testing.assert_close(mean_of_groups(x, 4), x.view(2, 3, 4, 3).mean(-1))
    assert torch.equal(mean_of_groups(x, 12), x)
