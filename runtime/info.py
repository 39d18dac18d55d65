"""What `packdit info` shows: the machine, the backends, the models that ship."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .bundle import Bundle, shipped


def gather() -> dict[str, Any]:
    """All of it, as what JSON can hold; sizes in bytes."""
    import torch

    from ..kernels.backend import available
    from ..kernels.flash import found

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "packdit": version("packdit"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": {"model": cpu_model(), "cores": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads()},
        "instruction_sets": instruction_sets(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
        "backends": available(),
        "flash_libraries": found(),
        "models": {name: model(name) for name in shipped()},
    }


def cpu_model() -> str:
    """The processor's own name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def instruction_sets() -> dict[str, Any]:
    """Which the C++ kernels use, and which they could use here, best first; products of int8 have sets of their own."""
    try:
        from ..kernels import _C
    except ImportError:
        return {"used": None, "usable": [], "int8": {"used": None, "usable": []}}
    return {"used": _C.isa(), "usable": _C.isas(), "int8": {"used": _C.int8_isa(), "usable": _C.int8_isas()}}


def model(name: str) -> dict[str, Any]:
    """A model that ships; only "error" where its bundle is damaged."""
    try:
        bundle = Bundle.open(name)
    except ValueError as error:
        return {"error": str(error)}
    limits = {field: getattr(bundle.limits, field) for field in bundle.limits.__slots__}
    size = sum(entry["bytes"] for entry in bundle.description["files"].values())
    return {"family": bundle.family, "dtype": bundle.description["dtype"], "bytes": size, "limits": limits}


def describe(facts: dict[str, Any]) -> str:
    """The same for a person to read."""
    cpu, sets = facts["cpu"], facts["instruction_sets"]
    rows = [
        ("packdit", f"{facts['packdit']}, Python {facts['python']}, torch {facts['torch']}"),
        ("processor", f"{cpu['model']}, {cpu['cores']} cores, {cpu['threads']} threads used"),
        ("instructions", describe_sets(sets)),
        ("for int8", describe_sets(sets["int8"])),
        ("memory", f"{facts['memory_bytes'] / 2**30:.1f} GiB"),
    ]
    rows += [("GPU", f"{gpu['name']}, {gpu['memory_bytes'] / 2**30:.0f} GiB") for gpu in facts["gpus"]]
    if not facts["gpus"]:
        rows.append(("GPU", "none that PyTorch finds"))
    rows += [
        (f"backend {name}", "ready" if state == "ok" else f"not used: {state}")
        for name, state in facts["backends"].items()
    ]
    libraries = [f"{name}: {'ready' if state == 'ok' else state}" for name, state in facts["flash_libraries"].items()]
    rows.append(("flash libraries", f"the first that is ready of {'; '.join(libraries)}"))
    rows += [(f"model {name}", describe_model(found)) for name, found in facts["models"].items()]
    if not facts["models"]:
        rows.append(("models", "none ship with this installation; use --model DIR"))
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:{width}}  {text}" for label, text in rows)


def describe_sets(sets: dict[str, Any]) -> str:
    """One line."""
    return f"{sets['used'] or 'none: the C++ kernels are not built'} (of {', '.join(sets['usable'])})"


def describe_model(found: dict[str, Any]) -> str:
    """One line."""
    if "error" in found:
        return f"cannot be used: {found['error']}"
    limits = found["limits"]
    return (
        f"family {found['family']}, {found['dtype']}, {found['bytes'] / 1e6:.1f} MB; sides {limits['min_side']} to "
        f"{limits['max_side']} in steps of {limits['side_step']}, 1 to {limits['max_frames']} frames in steps of "
        f"{limits['frame_step']}, {limits['fps']:g} a second"
    )
