import pytest
import torch

from packdit.kernels import patchify, unpatchify
from packdit.kernels.backend import using

pytest.importorskip("triton")

from packdit.kernels.interpreter import strict

Grid = tuple[int, int, int]
SIZES: list[Grid] = [(2, 4, 6), (4, 2, 2), (0, 4, 4), (6, 8, 10), (2, 2, 2)]


def latents(channels: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(channels)
    return [torch.randn(channels, *size, generator=generator).to(dtype) for size in SIZES]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 2)])
@pytest.mark.parametrize("channels", [1, 3, 16])
def test_both_ways(channels: int, patch: Grid, dtype: torch.dtype) -> None:
    clips = latents(channels, dtype)
    with strict():
        tokens = patchify(clips, patch, backend="triton")
        back = unpatchify(tokens, SIZES, patch, backend="triton")
    assert torch.equal(tokens, patchify(clips, patch, backend="reference"))
    assert len(back) == len(clips)
    for got, clip in zip(back, clips, strict=True):
        assert torch.equal(got, clip)


def test_any_strides() -> None:
    clips = [x.transpose(0, 2).contiguous().transpose(0, 2)[:, :, :, ::2] for x in latents(3) if x.shape[3] % 4 == 0]
    clips += [latents(6)[0].flip(1)[::2]]
    with strict():
        assert torch.equal(patchify(clips, (1, 2, 1), backend="triton"), patchify(clips, (1, 2, 1)))
    tokens = torch.randn(2 * 8, 24)
    for wide in (tokens[:8, 4:16], tokens.t().contiguous().t()[8:, ::2]):
        with strict():
            (got,) = unpatchify(wide, [(2, 4, 4)], (1, 2, 2), backend="triton")
        assert torch.equal(got, unpatchify(wide, [(2, 4, 4)], (1, 2, 2))[0])


def test_what_is_made_on_the_cpu_for_a_gpus_model_is_moved_there() -> None:
    with using("triton"):
        assert torch.equal(patchify(latents(3), (1, 2, 2)), patchify(latents(3), (1, 2, 2), backend="reference"))


def test_nan_stays_where_it_is() -> None:
    clips = latents(3)
    clips[0][1, 1, 2, 3] = torch.nan
    with strict():
        tokens = patchify(clips, (1, 2, 2), backend="triton")
    assert int(tokens.isnan().sum()) == 1


def test_ops() -> None:
    clips = latents(2)[:2]
    sizes = [size for grid in SIZES[:2] for size in grid]
    with strict():
        torch.library.opcheck(torch.ops.packdit.patchify_triton.default, (clips, [1, 2, 2]))
        tokens = patchify(clips, (1, 2, 2))
        torch.library.opcheck(torch.ops.packdit.unpatchify_triton.default, (tokens, sizes, [1, 2, 2]))
