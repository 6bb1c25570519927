"""The library's log messages on the terminal."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.text import Text

__all__ = ["ConsoleHandler", "show_log"]


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
            self._console.print(Text(self.format(record), style=style), soft_wrap=True)
        except Exception:  # a full disk or a closed pipe must not end the sweep
            self.handleError(record)


def show_log(console: Console) -> None:
    """Shows what ``foldrace`` logs at INFO and above on a console.

    Messages propagate to the root logger as before. A second call replaces the console.
    """
    logger = logging.getLogger("foldrace")
    for handler in [h for h in logger.handlers if isinstance(h, ConsoleHandler)]:
        logger.removeHandler(handler)
    logger.addHandler(ConsoleHandler(console))
    logger.setLevel(logging.INFO)
