"""``foldrace cluster init``: the files that make a cluster, copied out of the package."""

from __future__ import annotations

import functools
import re
import shutil
from importlib import metadata
from pathlib import Path

from foldrace.errors import InputError

__all__ = ["NAMES", "next_steps", "pinned", "wheel_name", "write_templates"]

_TEMPLATES = Path(__file__).parent / "templates"

NAMES = (
    "onprem.yaml",
    "cluster.yaml",
    "gcp.yaml",
    "kuberay.yaml",
    "Dockerfile",
    "constraints.txt",
)
"""The files that are copied."""


def write_templates(folder: Path, *, overwrite: bool = False) -> None:
    """Copies the files into a folder, which is created if it is missing.

    Raises:
        InputError: one of the files exists there, and not ``overwrite``; or the folder cannot be
            written.
    """
    present = [name for name in NAMES if (folder / name).exists()]
    if present and not overwrite:
        rule = f"has {', '.join(present)} already"
        raise InputError("DIR", str(folder), rule, "choose another folder, or overwrite: --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            shutil.copyfile(_TEMPLATES / name, folder / name)
    except OSError as error:
        raise InputError("DIR", str(folder), f"cannot be written: {error.strerror}") from error


def wheel_name() -> str:
    """The name of Foldrace's own wheel, which the files install."""
    return f"foldrace-{metadata.version('foldrace')}-py3-none-any.whl"


def next_steps(folder: Path) -> list[str]:
    """What to do with the files, a line each."""
    return [
        f"{folder}: wrote {', '.join(NAMES)}",
        "Next:",
        f"1. Copy Foldrace's wheel there: {wheel_name()}",
        f"   (in a checkout: pip wheel . --no-deps --wheel-dir {folder}).",
        "2. Change the lines marked CHANGE in the file for your machines: onprem.yaml (by SSH),",
        "   cluster.yaml (AWS), gcp.yaml (Google Cloud) or kuberay.yaml (Kubernetes).",
        f"3. See what is left: foldrace cluster check --ready {folder / 'onprem.yaml'}",
        f"4. Bring it up: cd {folder} && RAY_UP_enable_autoscaler_v2=0 ray up onprem.yaml",
    ]


@functools.cache
def pinned(package: str) -> str:
    """The version of a package in constraints.txt. Raises: InputError if it has none there."""
    text = (_TEMPLATES / "constraints.txt").read_text()
    found = re.search(rf"^{re.escape(package)}==(\S+)$", text, re.MULTILINE)
    if found is None:
        raise InputError("constraints.txt", package, "is not pinned there")
    return found[1]
