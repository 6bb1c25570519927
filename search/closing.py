"""The last words of a command: what was done, and what to type next."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from search.result import SweepResult
from search.spool import waiting_records

__all__ = ["at", "closing_lines", "program"]


def program() -> str:
    """The command as it can be typed here: its path, where ``foldrace`` alone would not find it."""
    called = Path(sys.argv[0])
    if called.name != "foldrace" or shutil.which("foldrace") == str(called.absolute()):
        return "foldrace"
    return os.path.relpath(called)


def at(directory: Path, default: Path) -> str:
    """The option that names a folder of sweeps; nothing where it is the default."""
    return "" if directory == default else f" --dir {shlex.quote(str(directory))}"


def closing_lines(result: SweepResult, place: str, *, refitted: bool, again: str = "resume") -> list[str]:
    """How a sweep ended, and the commands that go on from there.

    Args:
        place: `at` the sweep's folder.
        again: the command that goes on with what was interrupted.
    """
    command = program()
    counts = ", ".join(f"{count} {name}" for name, count in result.trials.items())
    lines = [f"{result.sweep}: {counts}; {result.fold_epochs} fold-epochs in {result.wall_seconds:.0f} s"]
    if result.trials["failed"]:
        lines.append(f"Why trials failed:                     {command} status {result.sweep}{place}")
    if result.interrupted:
        lines.append(f"Interrupted; all of it is kept.  Go on:  {command} {again} {result.sweep}{place}")
    elif result.best is None:
        lines.append("No trial was evaluated to the end, so there is no winner.")
    elif not refitted and not waiting_records(result.folder):
        lines.append(f"Refit the winner and test it once:     {command} refit {result.sweep}{place}")
    if (result.folder / "overview.png").is_file():
        lines.append(f"The sweep in one picture:              {result.folder / 'overview.png'}")
    if result.fold_epochs:
        lines.append(f"Its reports:                           {command} report {result.sweep}{place}")
    lines.append(f"Open the record in MLflow:             {command} ui{place}")
    return lines
