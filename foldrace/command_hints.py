"""Parts of command lines, for messages that say what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["dir_option", "program"]


def program() -> str:
    """The command to type: ``foldrace``, or its path if the shell would not find it."""
    called = Path(sys.argv[0])
    if called.name != "foldrace" or shutil.which("foldrace") == str(called.absolute()):
        return "foldrace"
    return os.path.relpath(called)


def dir_option(directory: Path, default: Path) -> str:
    """The option that names the folder of all sweeps; empty for the default.

    >>> dir_option(Path("my runs"), Path("runs"))
    " --dir 'my runs'"
    """
    return "" if directory == default else f" --dir {shlex.quote(str(directory))}"
