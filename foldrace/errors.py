"""What can go wrong, as a tree.

FoldraceError
├── InputError       what the user gave cannot be used; raised before anything starts (exit 2)
│   └── DataError    a data set that cannot be found, fetched, read or trusted
└── StateError       what is on disk or in the tracker does not fit what is asked (no such sweep)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "DataError",
    "FoldraceError",
    "InputError",
    "StateError",
    "closest",
    "first_line",
    "nearest",
]


class FoldraceError(Exception):
    """Base of every error that Foldrace raises on purpose."""


class InputError(FoldraceError, ValueError):
    """Wrong input: names the field, the value, the rule it breaks and, where there is one, the way
    out.

    >>> str(InputError("folds.splits", 1, "must be at least 2", "use kind: holdout"))
    'folds.splits: 1: must be at least 2; use kind: holdout'
    """

    def __init__(self, field: str, value: object, rule: str, hint: str = "") -> None:
        self.field, self.value, self.rule, self.hint = field, value, rule, hint
        shown = value if isinstance(value, str) else repr(value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        parts = [field, *([shown] if value is not None else []), rule]
        super().__init__(": ".join(parts) + (f"; {hint}" if hint else ""))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.field, self.value, self.rule, self.hint)


class DataError(InputError):
    """A data set that cannot be found, fetched, read or trusted."""


class StateError(FoldraceError):
    """What is on disk or in the tracker does not fit what is asked."""


def closest(value: object, choices: Iterable[str]) -> str:
    """A hint that names the closest of ``choices``, ``did you mean 'adam'?``; empty if none is
    close."""
    close = difflib.get_close_matches(str(value).lower(), sorted(choices), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""


def nearest(value: object, choices: Iterable[str]) -> str:
    """The same with a list of them all: ``did you mean 'adam'? (adam, sgd)``."""
    known = sorted(choices)
    listed, close = ", ".join(known), closest(value, known)
    return f"{close} ({listed})" if close else f"one of: {listed}"


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, in one line: its first, or its kind if it says
    nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
