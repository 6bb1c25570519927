"""Keeps what Ray and MLflow log in a file of the sweep's folder, and off the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

from foldrace.errors import redacted

__all__ = ["LIBRARY_LOG", "library_log"]

LIBRARY_LOG = "libraries.log"
"""The file's name in the sweep's folder."""

_LIBRARIES = ("ray", "mlflow", "mlflow.store", "alembic")
_BYTES = 4_000_000


class _File(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignores a full disk: nothing depends on this file."""


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


@contextmanager
def library_log(folder: Path) -> Iterator[None]:
    """Within this block, what Ray and MLflow log from INFO on goes to a file, and nowhere else.

    Records are appended to `LIBRARY_LOG` in ``folder``. The file is made with the first record,
    and starts anew after 4 MB; one older file is kept.
    """
    path = folder / LIBRARY_LOG
    file = _File(path, maxBytes=_BYTES, backupCount=1, encoding="utf-8", delay=True)
    file.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    with ExitStack() as stack:
        stack.callback(file.close)
        for name in _LIBRARIES:
            stack.enter_context(_only_to(file, logging.getLogger(name)))
        yield


@contextmanager
def _only_to(handler: logging.Handler, logger: logging.Logger) -> Iterator[None]:
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:], logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers[:], level, logger.propagate = before
        logger.setLevel(level)
