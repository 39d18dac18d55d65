import pytest
import torch

from packdit.kernels import gated_residual, linear, modulate, norm_silu, qk_norm_rope, varlen_attention
from packdit.kernels.backend import available, check, choose, using

X = torch.zeros(2, 3)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PACKDIT_BACKEND", raising=False)


def test_float32_on_the_cpu_takes_the_cpu_kernels() -> None:
    assert available()["reference"] == available()["cpu"] == "ok"
    assert choose("op", None, X) == "cpu"
    assert choose("op", None, X, X.bfloat16()) == "reference"
    assert choose("op", None, X.to("meta")) == "reference"


def test_what_needs_a_gradient_takes_the_reference() -> None:
    x = torch.zeros(2, requires_grad=True)
    assert choose("op", None, X, x) == "reference"
    with torch.no_grad():
        assert choose("op", None, X, x) == "cpu"
    with pytest.raises(ValueError, match="it computes no gradients, which a tensor here requires; allowed here: ref"):
        choose("op", "cpu", x)


def test_argument_before_block_before_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACKDIT_BACKEND", "reference")
    assert choose("op", None, X) == "reference"
    with using("cpu"):
        assert choose("op", None, X) == "cpu"
        assert choose("op", "reference", X) == "reference"
        with using(None):
            assert choose("op", None, X) == "cpu"
    assert choose("op", None, X) == "reference"


def test_what_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^op: backend is 'cuda'; allowed: auto, reference, cpu, triton, flash$"):
        choose("op", "cuda", X)
    with pytest.raises(ValueError, match="it takes float32 on cpu, got bfloat16 on cpu; allowed here: reference"):
        choose("op", "cpu", X.bfloat16())
    monkeypatch.setenv("PACKDIT_BACKEND", "cpu")
    with pytest.raises(ValueError, match="got float32 on meta"):
        choose("op", None, X.to("meta"))
    monkeypatch.setattr("packdit.kernels.backend._native_error", "it is not built")
    assert available()["cpu"] == "it is not built"
    with pytest.raises(ValueError, match="it is not built"):
        choose("op", "cpu", X)


def test_triton_runs_interpreted_where_asked_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packdit.kernels.backend._has_triton", True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert available()["triton"] == "ok"
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert choose("op", "triton", X.to(dtype)) == "triton"
    assert choose("op", None, X) == "cpu"
    for x, reason in ((X.double(), "got float64 on cpu"), (X.to("meta"), "got float32 on meta")):
        with pytest.raises(ValueError, match=f"it takes .* on cuda, {reason}; allowed here: reference"):
            choose("op", "triton", x)
    with pytest.raises(ValueError, match="it computes no gradients"):
        choose("op", "triton", torch.zeros(2, requires_grad=True))


def test_a_model_on_triton_runs_library_calls_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packdit.kernels.backend._has_triton", True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with using("triton"):
        assert choose("op", None, X) == "triton"
        assert choose("linear_int8", None, X) == "reference"
    with pytest.raises(ValueError, match="there is no Triton kernel of linear_int8; allowed here: cpu"):
        choose("linear_int8", "triton", X)


def test_a_model_on_the_cpu_kernels_runs_references_too() -> None:
    with using("cpu"):
        assert choose("op", None, X) == "cpu"
        assert choose("linear_fp8", None, X) == "reference"
    assert choose("linear_fp8", None, X) == "reference"
    with pytest.raises(ValueError, match=r"there is no C\+\+ kernel of linear_fp8; allowed here: reference"):
        choose("linear_fp8", "cpu", X)


def test_triton_needs_the_package_and_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packdit.kernels.backend._has_triton", False)
    with pytest.raises(ValueError, match="backend 'triton' cannot be used: the package triton is not installed"):
        check("triton")
    monkeypatch.setattr("packdit.kernels.backend._has_triton", True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="PyTorch finds no CUDA GPU; allowed here: cpu"):
        choose("op", "triton", X)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(ValueError, match="got float32 on cpu"):
        choose("op", "triton", X)


def test_a_backend_can_be_checked_before_work() -> None:
    for name in ("auto", "reference", "cpu"):
        check(name)
    with pytest.raises(ValueError, match="backend 'warp' cannot be used"):
        check("warp")


def block(x: torch.Tensor, table: torch.Tensor, weight: torch.Tensor, backend: str | None) -> torch.Tensor:
    """A transformer block in miniature, of every op that a model traces."""
    cu = torch.tensor([0, 3, 8], dtype=torch.int32)
    row = torch.tensor([0] * 3 + [1] * 5, dtype=torch.int32)
    angles = torch.ones(8, 2)
    h = modulate(x, table, table, row, backend=backend)
    heads = linear(h, weight, activation="gelu", backend=backend).view(8, 2, 4)
    q, k = qk_norm_rope(heads, heads, angles.cos(), angles.sin(), backend=backend)
    h = varlen_attention(q, k, heads, cu, max_seqlen=5, backend=backend).flatten(1)
    x, h = gated_residual(x, h, table, row, shift=table, scale=table, backend=backend)
    return x + norm_silu(h, backend=backend)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 8, 8, generator=generator)
    return x, torch.randn(2, 8, generator=generator), weight


@pytest.mark.parametrize("backend", ["reference", "cpu", None])
def test_ops_trace_into_one_graph(backend: str | None) -> None:
    x, table, weight = inputs()
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, table, weight, backend), block(x, table, weight, backend))


def test_ops_run_in_inference_mode_and_on_meta() -> None:
    x, table, weight = inputs()
    with torch.inference_mode():
        torch.testing.assert_close(block(x, table, weight, "cpu"), block(x, table, weight, "reference"))
    with torch.device("meta"):
        assert block(x.to("meta"), table.to("meta"), weight.to("meta"), None).shape == (8, 8)
