"""``foldrace``: the application that holds all commands, and how its errors are shown."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any

import typer

from foldrace.cli import cluster, data, results, sweeps
from foldrace.cli.logs import shown_log
from foldrace.cli.messages import (
    FAILED,
    INTERRUPTED,
    WRONG_INPUT,
    discard_output,
    err,
    prepare_streams,
    say,
    show_error,
)
from foldrace.errors import FoldraceError, first_line, redacted
from foldrace.private import give_home
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
    prepare_streams()
    # A last search for garbage among all that is imported would take seconds.
    atexit.register(gc.freeze)
    if arguments is None:
        repeat_swallowed_interrupts()
    try:
        with shown_log(err):
            return _guarded(lambda: _run(arguments))
    finally:
        discard_output()
        # Otherwise Ctrl-C during the interpreter's shutdown would show tracebacks.
        if arguments is None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            sys.excepthook = _show_traceback  # Typer has put its own there


def _run(arguments: list[str] | None) -> Any:
    """Runs a command, and brings all that it printed to where it is read."""
    give_home()
    status = app(args=arguments, prog_name="foldrace", standalone_mode=False)
    sys.stdout.flush()
    return status


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
        discard_output()
        if isinstance(error, BrokenPipeError):  # as in `foldrace schema | head`
            return FAILED
        line = _explained(error)
        if line is None:
            raise
        with suppress(OSError):  # standard error may be what is full
            show_error(line)
        return WRONG_INPUT
    return status if isinstance(status, int) else 0


def _show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What Python does with an error that nothing has caught, without the passwords in it."""
    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))


def _explained(error: Exception) -> str | None:
    """What is wrong around us, and a remedy; None if the error may be one of our own."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" ({cause.filename})" if cause.filename else ""
            return (
                f"the disk is full{where}: free some space, then run the command again; a sweep"
                " that has begun continues with `foldrace resume`"
            )
    for cause in causes:
        if type(cause).__module__.partition(".")[0] in ("mlflow", "sqlalchemy"):
            remedy = "see `foldrace doctor`; waiting records are kept for `foldrace sync`"
            return f"the tracking store refuses: {first_line(cause)}; {remedy}"
    if isinstance(error, OSError) and error.filename is not None:
        path = os.fsdecode(error.filename)
        return f"{path}: {first_line(error)}; check the path and its permissions"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised from or after."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
