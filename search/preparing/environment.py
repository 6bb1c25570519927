"""What a sweep runs on: git revision, package versions, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["describe_environment", "git_revision", "versions"]

_PACKAGES = (
    "foldrace",
    "ray",
    "torch",
    "torchvision",
    "optuna",
    "scikit-learn",
    "mlflow",
    "numpy",
    "pydantic",
)


def git_revision(folder: Path) -> str | None:
    """The commit checked out in ``folder``, with ``-dirty`` if files differ; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        shown = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return shown.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """The versions of Python and of the installed packages that results depend on."""
    found = {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}
    return {name: version for name, version in found.items() if version is not None}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def describe_environment() -> dict[str, Any]:
    """Git revision, package versions and hardware of the driver's node, as JSON values."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    pages, size = (os.sysconf(n) for n in ("SC_PHYS_PAGES", "SC_PAGE_SIZE"))
    return {
        "git_revision": git_revision(Path.cwd()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_gib": round(pages * size / 2**30, 1),
        "gpus": gpus,
    }
