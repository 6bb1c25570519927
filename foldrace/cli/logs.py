"""The library's log messages on the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from foldrace.errors import redacted

__all__ = ["ConsoleHandler", "shown_log"]


class ConsoleHandler(logging.Handler):
    """Prints the text of each record on a console, as it is; warnings and errors in yellow.

    The console may have a live display at the same time: the text appears above it.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one record."""
        try:
            style = "yellow" if record.levelno >= logging.WARNING else ""
            self._console.print(Text(redacted(self.format(record)), style=style), soft_wrap=True)
        except Exception:  # a full disk or a closed pipe must not end the sweep
            self.handleError(record)


@contextmanager
def shown_log(console: Console) -> Iterator[None]:
    """Within the block, a console shows what ``foldrace`` logs at INFO and above.

    Messages propagate to the root logger as before.
    """
    logger, handler = logging.getLogger("foldrace"), ConsoleHandler(console)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
