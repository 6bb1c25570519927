"""``foldrace``: the application that holds all commands, and how its errors are shown."""

from __future__ import annotations

import atexit
import errno
import gc
import signal
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import typer

from foldrace.cli import cluster, data, results, sweeps
from foldrace.cli.logs import shown_log
from foldrace.cli.messages import INTERRUPTED, WRONG_INPUT, err, say, show_error
from foldrace.errors import FoldraceError, redacted
from foldrace.search.tune.interrupts import repeat_swallowed_interrupts

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help=(
        "Cross-validated hyperparameter search of PyTorch models. Each fold is scheduled, pruned,"
        " resumed and recorded."
    ),
)
for group in (sweeps, results, data, cluster):
    app.add_typer(group.app)
app.add_typer(cluster.files, name="cluster", rich_help_panel=cluster.PANEL)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; those of the process if None.

    Returns:
        The exit status: 0 success, 2 wrong input, 3 failed trials, 130 interrupted.
    """
    # A last search for garbage among all that is imported would take seconds.
    atexit.register(gc.freeze)
    if arguments is None:
        repeat_swallowed_interrupts()
    try:
        with shown_log(err):
            return _guarded(
                lambda: app(args=arguments, prog_name="foldrace", standalone_mode=False)
            )
    finally:
        # Otherwise Ctrl-C during the interpreter's shutdown would show tracebacks.
        if arguments is None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            sys.excepthook = _show_traceback  # Typer has put its own there


def _guarded(command: Callable[[], Any]) -> int:
    """Runs a command; turns the errors that have a message for users into an exit status."""
    try:
        status = command()  # the number of a typer.Exit, or None
    except FoldraceError as error:
        show_error(str(error))
        return WRONG_INPUT
    except (KeyboardInterrupt, typer.Abort) as error:
        # Typer turns any EOFError into Abort, as if the user had ended a prompt.
        if isinstance(error.__cause__, EOFError):
            raise error.__cause__ from None
        say("Interrupted.")
        return INTERRUPTED
    except Exception as error:
        # Typer's usage errors show themselves; their class is not public.
        if (show_usage := getattr(error, "show", None)) is not None:
            show_usage()
            return WRONG_INPUT
        full = _full_disk(error)
        if full is None:
            raise
        where = f" ({full.filename})" if full.filename else ""
        show_error(
            f"no space is left to write to{where}: free some; `foldrace resume` continues an"
            " interrupted sweep"
        )
        return WRONG_INPUT
    return status if isinstance(status, int) else 0


def _show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What Python does with an error that nothing has caught, without the passwords in it."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))


def _full_disk(error: BaseException | None) -> OSError | None:
    """The error that says that a disk is full, among an error and its causes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error
        error = error.__cause__ or error.__context__
    return None
