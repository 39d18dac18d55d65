"""The streaming VAE: chunks are the whole clip, frames come early, and memory does not grow with duration."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from packdit.kernels.backend import using
from packdit.runtime import load_vae
from packdit.runtime.models.shapes_vae import ShapesVAE
from packdit.runtime.vae import StreamingVAE, to_bytes


@pytest.fixture(scope="module")
def vae(bundle_dir: Path) -> StreamingVAE:
    return load_vae(bundle_dir)


def random_latent(t: int, h: int, w: int) -> Tensor:
    return torch.randn(4, t, h, w, generator=torch.Generator().manual_seed(t * h * w))


def random_video(frames: int, height: int, width: int) -> Tensor:
    return torch.rand(3, frames, height, width, generator=torch.Generator().manual_seed(frames)) * 2 - 1


@torch.inference_mode()
def whole(module: torch.nn.Module, x: Tensor, backend: str) -> Tensor:
    """All frames of [C, T, H, W] in one chunk."""
    with using(backend):
        y: Tensor = module(x.permute(1, 2, 3, 0).contiguous(), {})
    return y.permute(3, 0, 1, 2)


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 3, 5), (6, 4, 2)])
def test_a_streamed_decode_is_the_whole_clips(bundle_dir: Path, vae: StreamingVAE, shape: tuple[int, int, int]) -> None:
    latent = random_latent(*shape)
    assert torch.equal(vae.decode(latent), whole(vae.model.decoder, latent, "cpu"))
    reference = load_vae(bundle_dir, backend="reference")
    want = whole(vae.model.decoder, latent, "reference")
    assert (reference.decode(latent) - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize("shape", [(1, 32, 32), (5, 24, 40), (17, 16, 16)])
def test_a_streamed_encode_is_the_whole_clips(bundle_dir: Path, vae: StreamingVAE, shape: tuple[int, int, int]) -> None:
    video = random_video(*shape)
    assert torch.equal(vae.encode(video), whole(vae.model.encoder, video, "cpu"))
    reference = load_vae(bundle_dir, backend="reference")
    want = whole(vae.model.encoder, video, "reference")
    assert (reference.encode(video) - want).abs().max() <= 1e-5 * want.abs().max()


def test_a_frame_depends_on_its_past_alone(vae: StreamingVAE) -> None:
    latent = random_latent(4, 4, 4)
    changed = latent.clone()
    changed[:, 3] += 1
    before, after = vae.decode(latent), vae.decode(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9:], after[:, 9:])


def test_frames_come_before_the_last_latent_is_decoded(vae: StreamingVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    monkeypatch.setattr(vae.model.decoder, "forward", lambda z, stream: decoded.append(len(z)) or z)
    chunks = vae.stream(random_latent(3, 2, 2))
    assert decoded == []
    next(chunks)
    assert decoded == [1]


def test_chunks_are_one_frame_then_groups_of_four(vae: StreamingVAE) -> None:
    assert [tuple(chunk.shape) for chunk in vae.stream(random_latent(3, 2, 4))] == [
        (1, 16, 32, 3),
        (4, 16, 32, 3),
        (4, 16, 32, 3),
    ]


def test_two_streams_at_once_do_not_mix(vae: StreamingVAE) -> None:
    a, b = random_latent(3, 4, 2), random_latent(3, 2, 4)
    chunks = list(zip(vae.stream(a), vae.stream(b), strict=True))
    for latent, parts in ((a, [c for c, _ in chunks]), (b, [c for _, c in chunks])):
        assert torch.equal(torch.cat(parts).permute(3, 0, 1, 2), vae.decode(latent))


def test_sizes(vae: StreamingVAE) -> None:
    assert vae.latent_grid(width=96, height=64, frames=17) == (5, 8, 12)
    assert vae.encode(random_video(17, 64, 96)).shape == (4, 5, 8, 12)
    assert vae.decode(random_latent(5, 8, 12)).shape == (3, 17, 64, 96)


def test_tiles_are_blended_and_say_so(vae: StreamingVAE) -> None:
    latent, video = random_latent(3, 4, 9), random_video(5, 32, 72)
    whole_frames, whole_latent = vae.decode(latent, tile=72), vae.encode(video, tile=72)
    with pytest.warns(UserWarning, match="frames are in tiles of 40 pixels, which is not equal to whole frames"):
        frames = vae.decode(latent, tile=40)
    with pytest.warns(UserWarning, match="frames are in tiles of 40 pixels"):
        encoded = vae.encode(video, tile=40)
    for got, want in ((frames, whole_frames), (encoded, whole_latent)):
        assert got.shape == want.shape
        assert 0 < (got - want).abs().mean() < 0.5 * want.abs().mean()
    with pytest.warns(UserWarning, match="tiles"), pytest.raises(ValueError, match="at least 2 latents, got 1"):
        vae.decode(latent, tile=15)


def test_far_from_a_seam_tiles_are_whole_frames(vae: StreamingVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the convolutions; the context sees all of a frame."""
    assert isinstance(vae.model, ShapesVAE)
    monkeypatch.setattr(vae.model.decoder.context, "forward", lambda z, stream: 0.0)
    latent = random_latent(1, 2, 24)
    with pytest.warns(UserWarning, match="tiles"):
        got = vae.decode(latent, tile=16 * 8)
    torch.testing.assert_close(got[..., : 5 * 8], vae.decode(latent)[..., : 5 * 8])


def test_conditions_that_the_model_has_not(vae: StreamingVAE) -> None:
    with pytest.raises(TypeError, match="timestep"):
        vae.decode(random_latent(1, 2, 2), timestep=0.0)


def test_normalizing_goes_there_and_back(vae: StreamingVAE) -> None:
    latent = random_latent(2, 4, 4)
    normal = vae.normalize(latent)
    mean, std = torch.tensor([0.1, -0.2, 0.3, 0.0]), torch.tensor([1.0, 0.5, 2.0, 1.5])
    torch.testing.assert_close(normal, (latent - mean[:, None, None, None]) / std[:, None, None, None])
    torch.testing.assert_close(vae.denormalize(normal), latent)


def test_bytes_are_rounded_and_clamped() -> None:
    pixels = torch.tensor([-2.0, -1.0, -0.999, 0.0, 1 / 255, 0.999, 1.0, 2.0])
    assert to_bytes(pixels).tolist() == [0, 0, 0, 128, 128, 255, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(every.float() / 127.5 - 1), every)


@pytest.mark.parametrize("shape", [(3, 2, 16, 16), (3, 0, 16, 16), (1, 1, 16, 16), (3, 16, 16), (3, 1, 0, 16)])
def test_what_is_no_video(vae: StreamingVAE, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a video must be \[3, 1 \+ 4k, height, width\], got \["):
        vae.encode(torch.zeros(shape))


@pytest.mark.parametrize(("height", "width"), [(12, 16), (16, 20), (1, 1)])
def test_sizes_that_the_vae_cannot_do(vae: StreamingVAE, height: int, width: int) -> None:
    with pytest.raises(ValueError, match=rf"must be multiples of 8, got \[{height}, {width}\]"):
        vae.encode(torch.zeros(3, 1, height, width))


@pytest.mark.parametrize("shape", [(3, 1, 4, 4), (4, 0, 4, 4), (4, 4, 4), (4, 1, 0, 4)])
def test_what_is_no_latent(vae: StreamingVAE, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"a latent must be \[4, T, H, W\], not empty, got \["):
        vae.decode(torch.zeros(shape))


PEAK = """
import resource, sys, torch
from packdit.runtime import load_vae
from packdit.runtime.models.shapes_vae import ShapesVAE
torch.set_num_threads(1)
vae = load_vae(sys.argv[1], backend=sys.argv[2])
for frames in (17, 257):
    for chunk in vae.stream(torch.randn(4, 1 + frames // 4, 16, 16)):
        del chunk
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_memory_does_not_grow_with_duration(bundle_dir: Path, backend: str) -> None:
    """At 128x128 pixels, where a decode of 257 frames in one piece would hold 50 MB in its last layer alone."""
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(bundle_dir), backend], capture_output=True, text=True, check=True
    )
    short, long = (int(line) * 1024 for line in run.stdout.split())
    assert long - short < 4e6
