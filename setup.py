"""Maps the folders of the checkout to packdit.* and builds packdit.kernels._C. All metadata is in pyproject.toml."""

from glob import glob
from pathlib import Path

import pybind11
from pybind11.setup_helpers import ParallelCompile
from setuptools import Extension, find_packages, setup

FOLDERS = [name for name in ("kernels", "runtime", "export", "bench") if Path(name, "__init__.py").exists()]
SUBPACKAGES = [f"packdit.{folder}.{sub}" for folder in FOLDERS for sub in find_packages(folder)]

core = Extension(
    "packdit.kernels._C",
    sources=sorted(glob("csrc/*.cpp")),
    depends=["setup.py", *sorted(glob("csrc/*.h"))],
    include_dirs=[pybind11.get_include()],
    # -ffp-contract=off: products and sums fused by the compiler would give each instruction set other bits.
    extra_compile_args=[
        *("-O3", "-g0", "-std=c++17", "-fopenmp", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra")
    ],
    extra_link_args=["-fopenmp"],
)

with ParallelCompile():
    setup(
        package_dir={f"packdit.{folder}": folder for folder in FOLDERS},
        packages=[f"packdit.{folder}" for folder in FOLDERS] + SUBPACKAGES,
        package_data={"packdit.kernels": ["_C.pyi"], "packdit.runtime": ["bundles/**/*"], "*": ["py.typed"]},
        include_package_data=False,
        ext_modules=[core],
    )
