import subprocess
import sys

import torch

from packdit.kernels.op import custom_op


def test_a_registered_op_passes_pytorchs_checks() -> None:
    @custom_op("test_twice")
    def twice(x: torch.Tensor, count: int) -> torch.Tensor:
        return x * 2

    @torch.library.register_fake("packdit::test_twice")
    def _(x: torch.Tensor, count: int) -> torch.Tensor:
        return torch.empty_like(x)

    assert torch.equal(twice(torch.ones(3), 1), torch.full((3,), 2.0))
    torch.library.opcheck(torch.ops.packdit.test_twice.default, (torch.ones(3), 1))


def test_calling_an_op_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch; from packdit.kernels import norm_silu, patchify;"
        "norm_silu(torch.ones(2, 3)); patchify([torch.ones(1, 1, 2, 2)], (1, 1, 1));"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0
