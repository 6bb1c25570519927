"""Objects of this process that pickled Tune callbacks and schedulers find again by a key.

Ray Tune pickles its callbacks and its scheduler into the experiment's folder, and unpickles them
when an experiment is restored. The objects that they act on (open files, threads, clocks, a
terminal) cannot be pickled. So they hold only a key, and look up the object that the process has
attached under that key for the time of a run. This is the only process-wide state of
`foldrace.search`, and it is empty outside a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["attached", "live_object"]

T = TypeVar("T")

_attached: dict[tuple[type[Any], str], Any] = {}


@contextmanager
def attached(key: str, live: object) -> Iterator[None]:
    """Within this block, `live_object` finds ``live`` under its type and ``key``.

    A second object of the same type and key takes the first one's place until its block ends.
    """
    place = type(live), key
    before = _attached.get(place)
    _attached[place] = live
    try:
        yield
    finally:
        if before is None:
            del _attached[place]
        else:
            _attached[place] = before


def live_object(kind: type[T], key: str) -> T:
    """The object of type ``kind`` that is attached under ``key``.

    Raises:
        LookupError: none is attached: a pickled callback or scheduler runs outside its sweep.

    >>> with attached("a-sweep", 3.5):
    ...     live_object(float, "a-sweep")
    3.5
    """
    try:
        live: T = _attached[kind, key]
    except KeyError:
        raise LookupError(f"{key}: no {kind.__name__} is attached in this process") from None
    return live
