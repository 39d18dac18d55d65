import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from packdit.kernels import flash, varlen_attention
from packdit.kernels.backend import available, choose, using
from packdit.kernels.testing import offsets


class Gpu:
    """What `choose` asks of a tensor on a GPU."""

    is_cuda, requires_grad, device = True, False, torch.device("cuda")

    def __init__(self, dtype: torch.dtype, *shape: int) -> None:
        self.dtype, self.shape = dtype, torch.Size(shape)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    flash.found.cache_clear()
    yield
    flash.found.cache_clear()


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: Any, cu_k: Any, **options: Any) -> torch.Tensor:
    out = varlen_attention(q, k, v, cu_q, cu_k, **options)
    out[: cu_q[0]] = out[cu_q[-1] :] = torch.nan  # which libraries leave as they were
    return out


def torch_2_11(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, *, return_aux: Any = None,
    scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
) -> torch.Tensor:  # fmt: skip
    assert query.shape[1] == key.shape[1]
    assert (max_q, max_k) == (7, 7)
    return exact(query, key, value, cu_seq_q, cu_seq_k, causal=window_size == (-1, 0), scale=scale)


def torch_2_13(
    query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, *, return_aux: Any = None,
    scale: float | None = None, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
    num_splits: int | None = None,
) -> torch.Tensor:  # fmt: skip
    assert enable_gqa
    assert num_splits == 1
    return exact(query, key, value, cu_seq_q, cu_seq_k, causal=window_size == (-1, 0), scale=scale)


def flash_attn_2(
    q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
) -> torch.Tensor:  # fmt: skip
    assert dropout_p == 0
    return exact(q, k, v, cu_seqlens_q, cu_seqlens_k, causal=causal, scale=softmax_scale)


def flash_attn_cute(q: Any, k: Any, v: Any, **options: Any) -> tuple[torch.Tensor, None]:
    assert options["max_seqlen_q"] == 7
    return exact(
        q,
        k,
        v,
        options["cu_seqlens_q"],
        options["cu_seqlens_k"],
        causal=options["causal"],
        scale=options["softmax_scale"],
    ), None


@pytest.mark.parametrize(
    ("library", "name", "call"),
    [
        ("torch.nn.attention.varlen", "varlen_attn", torch_2_11),
        ("torch.nn.attention.varlen", "varlen_attn", torch_2_13),
        ("flash_attn", "flash_attn_varlen_func", flash_attn_2),
        ("flash_attn.cute", "flash_attn_varlen_func", flash_attn_cute),
    ],
)
@pytest.mark.parametrize("causal", [False, True])
def test_libraries_are_called_as_they_want(
    library: str, name: str, call: Any, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType(library)
    setattr(module, name, call)
    monkeypatch.setitem(sys.modules, library, module)
    monkeypatch.setattr(flash, "chosen", lambda: library)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(20, heads, 8, generator=generator) for heads in (4, 2, 2))
    cu = offsets([3, 0, 7, 6], start=2)
    got = flash.varlen_attention_flash(q, k, v, cu, cu, 7, causal, 0.3)
    torch.testing.assert_close(got, varlen_attention(q, k, v, cu, causal=causal, scale=0.3))
    torch.library.opcheck(torch.ops.packdit.varlen_attention_flash.default, (q, k, v, cu, cu, 7, causal, 0.3))


def test_the_bound_is_what_shapes_say_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = []

    def attention(q: torch.Tensor, *rest: Any) -> torch.Tensor:
        bounds.append(rest[4:6])
        return torch.ones_like(q)

    monkeypatch.setitem(flash.LIBRARIES, "flash_attn", attention)
    monkeypatch.setattr(flash, "chosen", lambda: "flash_attn")
    q, k = torch.zeros(5, 1, 8), torch.zeros(9, 1, 8)
    for bound in (None, 7, 100):
        flash.varlen_attention_flash(q, k, k, offsets([5]), offsets([9]), bound, False, 1.0)
    assert bounds == [(5, 9), (5, 7), (5, 9)]
    empty = flash.varlen_attention_flash(q, k[:0], k[:0], offsets([5]), offsets([0]), None, False, 1.0)
    assert not empty.any()


def test_without_a_gpu_it_says_so() -> None:
    flash.found.cache_clear()
    assert flash.found()["torch.nn.attention.varlen"] == "PyTorch finds no CUDA GPU"
    assert flash.found()["flash_attn"] == flash.found()["flash_attn.cute"] == "not installed"
    assert available()["flash"] == "PyTorch finds no CUDA GPU"
    with pytest.raises(ValueError, match="PyTorch finds no CUDA GPU; allowed here: cpu"):
        choose("varlen_attention", "flash", torch.zeros(1, 1, 8))


@pytest.mark.usefixtures("hopper")
def test_pytorchs_own_is_taken_where_nothing_else_is_installed() -> None:
    assert flash.chosen() == "torch.nn.attention.varlen"
    assert available()["flash"] == "ok"


@pytest.mark.usefixtures("hopper")
def test_what_gpus_and_libraries_lack_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (7, 5))
    assert "torch.nn.attention.varlen: it needs a GPU of capability 8.0 or more, got 7.x" in flash.why_none()
    monkeypatch.setattr(flash, "import_module", lambda name: (_ for _ in ()).throw(ImportError("no symbol\nat all")))
    flash.found.cache_clear()
    assert flash.found()["torch.nn.attention.varlen"] == "it does not import: no symbol"


@pytest.mark.usefixtures("hopper")
def test_a_model_on_flash_runs_the_rest_on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PACKDIT_BACKEND", raising=False)
    monkeypatch.setattr("packdit.kernels.backend._has_triton", True)
    heads: Any = Gpu(torch.bfloat16, 5, 2, 64)
    assert choose("varlen_attention", "flash", heads) == "flash"
    with using("flash"):
        assert choose("varlen_attention", None, heads) == "flash"
        assert choose("modulate", None, heads) == "triton"
        assert choose("linear_int8", None, heads) == "reference"
        assert choose("varlen_attention with a key_bias", None, heads) == "triton"
        assert choose("varlen_attention", None, Gpu(torch.float32, 5, 2, 64)) == "triton"  # type: ignore[arg-type]
        assert choose("varlen_attention", None, Gpu(torch.bfloat16, 5, 2, 36)) == "triton"  # type: ignore[arg-type]
    for op, tensor, reason in (
        ("modulate", heads, "FlashAttention has no modulate; allowed here: reference"),
        ("varlen_attention", Gpu(torch.float32, 5, 2, 64), "got float32 heads of 64 on cuda"),
        ("varlen_attention", Gpu(torch.bfloat16, 5, 2, 36), "in multiples of 8 on cuda, got bfloat16 heads of 36"),
    ):
        with pytest.raises(ValueError, match=reason):
            choose(op, "flash", tensor)  # type: ignore[arg-type]
