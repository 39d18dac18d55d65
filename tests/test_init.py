"""The lazy public names of the packages."""

import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

import packdit.kernels
import packdit.runtime


@pytest.mark.parametrize("package", [packdit.kernels, packdit.runtime], ids=["kernels", "runtime"])
def test_public_names_resolve(package: ModuleType) -> None:
    for name, file in package._FILE_OF.items():
        assert name in dir(package)
        assert getattr(package, name) is getattr(sys.modules[f"{package.__name__}.{file}"], name)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = package.nonsense


def test_an_op_is_its_function_even_after_its_file_was_imported_first() -> None:
    code = """
import packdit.kernels.linear
from packdit.kernels import linear
from packdit.kernels.linear import linear as inner
assert linear is inner and callable(packdit.kernels.linear)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_op_has_a_public_wrapper_that_takes_a_backend() -> None:
    no_ops = {"carried", "patchify", "unpatchify", "Residual"}  # they move data, or hold it
    for name in packdit.kernels._FILE_OF.keys() - no_ops:
        op: Callable[..., object] = getattr(packdit.kernels, name)
        assert "backend" in op.__kwdefaults__
