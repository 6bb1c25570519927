"""What the command line prints, and the status it exits with.

Results go to standard output (`out`), notes and errors to standard error (`err`).
"""

from __future__ import annotations

import codecs
import json
import math
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from foldrace.search.sweeps.result import SweepResult

__all__ = [
    "FAILED",
    "FAILED_TRIALS",
    "INTERRUPTED",
    "WRONG_INPUT",
    "UserConsole",
    "closing_lines",
    "discard_output",
    "err",
    "out",
    "prepare_streams",
    "print_json",
    "say",
    "show",
    "show_error",
]

FAILED, WRONG_INPUT, FAILED_TRIALS, INTERRUPTED = 1, 2, 3, 130
"""Exit statuses; 0 is success."""

_PLAIN = {
    "✓": "+",
    "✗": "x",
    "·": ".",
    "×": "x",
    "±": "+/-",
    "–": "-",
    "—": "-",
    "…": "...",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "°": "o",
    "∞": "inf",
}
"""What stands for a character where the terminal has none such; for all others it is ``?``."""


class UserConsole(Console):
    """A console for texts that are a user's: no markup, no emoji codes; styles are given as such.

    If nobody reads what it prints any more, a sweep goes on without it.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(markup=False, emoji=False, **given)

    def on_broken_pipe(self) -> None:
        """Prints nothing from now on."""
        discard_output()


out = UserConsole()
err = UserConsole(stderr=True)


def prepare_streams() -> None:
    """Makes standard output and error take any text, whatever the terminal's encoding, and stand
    for nothing where they are closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would get what is printed
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error("foldrace", _plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="foldrace")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in wrong), error.end


def discard_output() -> None:
    """Lets standard output and error that nobody reads, or that are full, take no more text."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)


def say(line: str, *, style: str = "") -> None:
    """Prints a note on standard error as it is: no markup, no emoji codes, no line breaks."""
    err.print(Text(line, style=style), soft_wrap=True)


def show(line: str) -> None:
    """Prints a line of the result on standard output, as it is."""
    out.print(Text(line), soft_wrap=True)


def show_error(text: str) -> None:
    """Prints ``Error: text`` on standard error."""
    err.print(Text.assemble(("Error:", "bold red"), " ", text), soft_wrap=True)


def print_json(value: Any) -> None:
    """Prints an object on one line of standard output, for ``--json``; what is not finite is null,
    as JSON has no name for it."""
    print(json.dumps(_finite(value), allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def closing_lines(
    result: SweepResult, place: str, *, refitted: bool, again: str = "resume"
) -> list[str]:
    """How a sweep ended, and the commands that can follow.

    Args:
        result: the sweep's result.
        place: the ``--dir`` option that those commands need, or "".
        refitted: whether the best trial has been refitted already.
        again: the command that continues an interrupted sweep.
    """
    from foldrace.command_hints import program
    from foldrace.search.recording.outbox import waiting_records

    command, at = program(), f"{result.sweep}{place}"
    counts = ", ".join(f"{count} {name}" for name, count in result.trials.items())
    spent = f"{result.fold_epochs} fold-epochs in {result.wall_seconds:.0f} s"
    lines = [f"{result.sweep}: {counts}; {spent}"]
    if result.trials["failed"]:
        lines.append(f"Why trials failed:                     {command} status {at}")
    if result.interrupted:
        lines.append(f"Interrupted; everything is kept. Continue with:  {command} {again} {at}")
    elif result.best is None:
        lines.append("No trial completed, so there is no best trial.")
    elif not refitted and not waiting_records(result.folder):
        lines.append(f"Refit the best trial and test it once: {command} refit {at}")
    picture = result.folder / "overview.png"
    if picture.is_file():
        lines.append(f"The sweep in one picture:              {picture}")
    if result.fold_epochs:
        lines.append(f"Write its reports:                     {command} report {at}")
    lines.append(f"Open the record in MLflow:             {command} ui{place}")
    return lines
