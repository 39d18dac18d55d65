"""The rules of the house, read from the sources: who may import whom, what stays free of torch, how long a file is."""

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("kernels", "runtime", "export", "bench")  # each may import itself and those before it
WITHOUT_TORCH = ("packdit.runtime.request", "packdit.runtime.scheduler", "packdit.runtime.plan")
MAX_LINES = {"kernels": 400, "csrc": 400}
SCRIPTS = ("tests", "examples")


def sources(folder: str, *patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns or ("*.py",) for path in (ROOT / folder).rglob(pattern))


def module_name(path: Path) -> str:
    """runtime/models/dit.py -> packdit.runtime.models.dit, and a folder's __init__.py -> the folder's package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("packdit", *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {module_name(path): path for folder in FOLDERS for path in sources(folder)}


def absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module that a from-import names."""
    if node.level == 0:
        return node.module or ""
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def imports(nodes: Iterator[ast.AST], path: Path) -> Iterator[tuple[str, bool]]:
    """(dotted name, is relative) for each imported name; a from-import gives `module.name`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{absolute(node, path)}.{alias.name}", node.level > 0) for alias in node.names)


def run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the file is imported: no function bodies, nothing under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from run_on_import(child)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def loaded_by(module: str, seen: set[str]) -> set[str]:
    """What importing a project module loads: its packages' __init__ and, transitively, all that these import."""
    parts = module.split(".")
    for loaded in (".".join(parts[:count]) for count in range(2, len(parts) + 1)):
        if loaded in seen:
            continue
        seen.add(loaded)
        for name, _ in imports(run_on_import(parse(MODULES[loaded])), MODULES[loaded]):
            inner = name if name in MODULES else name.rpartition(".")[0]
            seen |= loaded_by(inner, seen) if inner in MODULES else {name}
    return seen


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_go_one_way(folder: str) -> None:
    later = FOLDERS[FOLDERS.index(folder) + 1 :]
    for path in sources(folder):
        for name, relative in imports(ast.walk(parse(path)), path):
            assert relative or not is_within(name, "packdit"), f"{path}: import {name} relatively"
            assert not any(is_within(name, f"packdit.{other}") for other in later), f"{path}: may not import {name}"
            assert not any(is_within(name, script) for script in SCRIPTS), f"{path}: may not import {name}"


@pytest.mark.parametrize("folder", SCRIPTS)
def test_scripts_import_the_installed_package(folder: str) -> None:
    for path in sources(folder):
        for name, _ in imports(ast.walk(parse(path)), path):
            assert name.split(".")[0] not in FOLDERS, f"{path}: import packdit.{name}"
            private = any(part.startswith("_") for part in name.split("."))
            if folder == "examples" and is_within(name, "packdit"):
                assert not private, f"{path}: {name} is not public"


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_nothing_that_schedules_loads_torch(module: str) -> None:
    heavy = [name for name in loaded_by(module, set()) if re.match(r"(torch|transformers|safetensors)\b", name)]
    assert module in MODULES
    assert not heavy, f"{module} loads {heavy}"


@pytest.mark.parametrize("folder", [*FOLDERS, "csrc", *SCRIPTS])
def test_files_are_short(folder: str) -> None:
    limit = MAX_LINES.get(folder, 300)
    for path in sources(folder, "*.py", "*.cpp", "*.h"):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= limit, f"{path} has {lines} lines; allowed: {limit}"


def test_only_the_bindings_know_python() -> None:
    for path in sources("csrc", "*.cpp", "*.h"):
        headers = re.findall(r'#include [<"]([^>"]+)', path.read_text(encoding="utf-8"))
        foreign = [name for name in headers if re.match(r"(pybind11|torch|ATen|c10|numpy)/|Python\.h", name)]
        assert path.name == "bindings.cpp" or not foreign, f"{path} includes {foreign}"


def test_no_folder_and_no_conftest_at_the_root() -> None:
    assert not (ROOT / "packdit").exists()  # it would break `python -m pytest`
    assert not (ROOT / "conftest.py").exists()  # it would put the root on sys.path


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if (ROOT / folder / "__init__.py").exists()])
def test_the_installed_package_is_the_sources(folder: str) -> None:
    installed = Path(import_module(f"packdit.{folder}").__path__[0])
    assert shipped(installed) == shipped(ROOT / folder)


def shipped(package: Path) -> list[str]:
    files = [path.relative_to(package) for path in package.rglob("*") if path.is_file()]
    return sorted(str(path) for path in files if path.suffix in {".py", ".pyi", ".typed"} or path.parts[0] == "bundles")
