"""How a command is typed here: for messages that say what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["at", "program"]


def program() -> str:
    """The command as it can be typed here: its path, where ``foldrace`` alone would not find
    it."""
    called = Path(sys.argv[0])
    if called.name != "foldrace" or shutil.which("foldrace") == str(called.absolute()):
        return "foldrace"
    return os.path.relpath(called)


def at(directory: Path, default: Path) -> str:
    """The option that names a folder of sweeps; nothing where it is the default."""
    return "" if directory == default else f" --dir {shlex.quote(str(directory))}"
