import pytest
import torch

from packdit.kernels import patchify, unpatchify

PATCH = (2, 1, 3)
GRIDS = [(2, 2, 3), (4, 1, 6), (2, 3, 9)]


def clips(*grids: tuple[int, int, int], channels: int = 4) -> list[torch.Tensor]:
    return [torch.randn(channels, *grid, dtype=torch.float64) for grid in grids]


def test_tokens_run_over_t_y_x_and_features_over_c_pt_ph_pw() -> None:
    latents = clips(*GRIDS)
    tokens = patchify(latents, PATCH)
    assert tokens.shape == (2 + 4 + 9, 4 * 6)
    # the third clip has 1 x 3 x 3 tokens, the first two have 6: token (0, 2, 1) of it is 6 + 2 * 3 + 1
    assert torch.equal(tokens[13], latents[2][:, 0:2, 2:3, 3:6].flatten())
    assert torch.equal(tokens[3], latents[1][:, 0:2, 0:1, 3:6].flatten())
    assert torch.equal(tokens[4], latents[1][:, 2:4, 0:1, 0:3].flatten())


@pytest.mark.parametrize("patch", [PATCH, (1, 1, 1), (2, 1, 1)])
def test_unpatchify_is_the_inverse(patch: tuple[int, int, int]) -> None:
    latents = clips(*GRIDS)
    back = unpatchify(patchify(latents, patch), GRIDS, patch)
    assert len(back) == 3
    for got, latent in zip(back, latents, strict=True):
        assert torch.equal(got, latent)
        assert got.is_contiguous()


def test_results_share_no_memory() -> None:
    (latent,) = clips((2, 1, 3), channels=1)
    tokens = patchify([latent], (1, 1, 1))
    (back,) = unpatchify(tokens, [(2, 1, 3)], (1, 1, 1))
    assert len({t.data_ptr() for t in (latent, tokens, back)}) == 3


def test_gradients() -> None:
    latents = [clip.requires_grad_() for clip in clips((2, 2, 3), (2, 1, 3), channels=1)]
    assert torch.autograd.gradcheck(lambda *t: patchify(list(t), PATCH), latents)
    tokens = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: unpatchify(t, [(2, 2, 3), (2, 1, 3)], PATCH), tokens)


def test_bad_arguments() -> None:
    latents = clips(*GRIDS)
    for arguments, message in [
        (([], PATCH), "latents is empty; allowed: at least one clip"),
        ((clips((3, 2, 3)), PATCH), r"the grid of latents\[0\] is \(3, 2, 3\); allowed: .* multiples of \(2, 1, 3\)"),
        (([latents[0], latents[1][:3]], PATCH), r"latents\[1\] is float64 \[3, 4, 1, 6\]"),
        (([latents[0], latents[1].float()], PATCH), r"latents\[1\] is float32"),
        ((latents, (2, 0, 3)), r".*patch is \(2, 0, 3\); allowed: three sizes of at least 1"),
    ]:
        with pytest.raises(ValueError, match=f"^patchify: {message}"):
            patchify(*arguments)
    tokens = patchify(latents, PATCH)
    for arguments, message in [
        ((tokens, GRIDS[:2], PATCH), r"tokens is float64 \[15, 24\] on cpu; allowed: float64 \[6, any\]"),
        ((tokens[:, :23], GRIDS, PATCH), "tokens have 23 features; allowed: multiples of 6"),
        ((tokens, [(3, 3, 3)], PATCH), r"grids\[0\] is \(3, 3, 3\)"),
    ]:
        with pytest.raises(ValueError, match=f"^unpatchify: {message}"):
            unpatchify(*arguments)


def test_op() -> None:
    latents = [clip.requires_grad_() for clip in clips((2, 2, 3), (2, 1, 3))]
    torch.library.opcheck(torch.ops.packdit.patchify.default, (latents, [2, 1, 3]))
    tokens = torch.randn(3, 12, requires_grad=True)
    torch.library.opcheck(torch.ops.packdit.unpatchify.default, (tokens, [2, 2, 3, 2, 1, 3], [2, 1, 3]))
