"""The exceptions that Foldrace raises on purpose.

    FoldraceError
    ├── InputError      the user's input is wrong; raised before anything starts (exit status 2)
    │   └── DataError   a data set is missing, or cannot be fetched, read or verified
    └── StateError      what is on disk or in MLflow does not allow the request (no such sweep)

`InputError` is also a `ValueError`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = [
    "DataError",
    "FoldraceError",
    "InputError",
    "StateError",
    "closest",
    "first_line",
    "nearest",
    "printable",
    "redacted",
]

_LONGEST_VALUE = 120  # characters of a value in a message
# A user and a password before the last @ of an address, but no path after a port; before that of a
# server, a token alone as well.
_SECRETS = re.compile(r"(?<=://)(?:[^\s/@:]*:(?!\d+/)\S*|(?<=http://|ttps://)[^\s/]+)(?=@)")
# Values in an address's query, and in what databases' drivers say of a connection
_NAMED_SECRETS = re.compile(
    r"(?i)([?&;][\w.-]*(?:pass|pwd|token|secret|key|credential|odbc_connect|signature)[\w.-]*="
    r"|\b(?:password|passwd|pwd)\s*=\s*)[^\s&;]+"
)


class FoldraceError(Exception):
    """Base class of every error that Foldrace raises on purpose.

    Its text never contains the password or token of an address.
    """

    def __str__(self) -> str:
        return redacted(super().__str__())


class InputError(FoldraceError, ValueError):
    """The user's input is wrong. The message is one line of printable text.

    Args:
        field: what is wrong, as a path: ``folds.splits``.
        value: the value given; None if there is none to show.
        rule: the rule that the value breaks.
        hint: what to do instead, if there is something to suggest.

    >>> str(InputError("folds.splits", 1, "must be at least 2", "use kind: holdout"))
    'folds.splits: 1: must be at least 2; use kind: holdout'
    """

    def __init__(self, field: str, value: object, rule: str, hint: str = "") -> None:
        self.field, self.value, self.rule, self.hint = field, value, rule, hint
        shown = value if isinstance(value, str) else repr(value)
        if len(shown) > _LONGEST_VALUE:
            shown = shown[: _LONGEST_VALUE - 3] + "..."
        parts = [field, *([shown] if value is not None else []), rule]
        super().__init__(printable(": ".join(parts) + (f"; {hint}" if hint else "")))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.field, self.value, self.rule, self.hint)


class DataError(InputError):
    """A data set is missing, or cannot be fetched, read or verified."""


class StateError(FoldraceError):
    """What is on disk or in MLflow does not allow the request: no such sweep, for instance."""


def closest(value: object, choices: Iterable[str]) -> str:
    """Suggest the closest of ``choices``; empty if none is close.

    >>> closest("adm", ["sgd", "adam"])
    "did you mean 'adam'?"
    """
    close = difflib.get_close_matches(str(value).lower(), sorted(choices), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""


def nearest(value: object, choices: Iterable[str]) -> str:
    """Suggest the closest of ``choices`` (see `closest`), and list them all.

    >>> nearest("adm", ["sgd", "adam"])
    "did you mean 'adam'? (adam, sgd)"
    >>> nearest(7, ["sgd", "adam"])
    'one of: adam, sgd'
    """
    known = sorted(choices)
    listed, close = ", ".join(known), closest(value, known)
    return f"{close} ({listed})" if close else f"one of: {listed}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class if it has no message.

    Of an error of the system: what is wrong, without its number and the file's name.

    >>> first_line(OSError("no network\\ntried twice"))
    'no network'
    >>> first_line(FileNotFoundError(2, "No such file or directory", "x.npz"))
    'No such file or directory'
    >>> first_line(TimeoutError())
    'TimeoutError'
    """
    said = (isinstance(error, OSError) and error.strerror) or str(error)
    return redacted(next(iter(said.splitlines()), "") or type(error).__name__)


def redacted(text: str) -> str:
    """The text without the passwords and tokens of the addresses in it.

    >>> redacted("cannot reach postgresql://me:secret@host/db")
    'cannot reach postgresql://***@host/db'
    >>> redacted("https://token@host, postgresql://me@host/db?password=secret")
    'https://***@host, postgresql://me@host/db?password=***'
    """
    return _NAMED_SECRETS.sub(r"\1***", _SECRETS.sub("***", text))


def printable(text: object) -> str:
    r"""A path, or a name from a user's file, as one line that can be printed and stored.

    >>> printable("a\nb\udcff")
    'a\\nb\\udcff'
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in str(text)
    )
