"""When a new configuration may start: the scheduler's side of the search."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Gate"]


class Gate(Protocol):
    """Tells the search when a new configuration may start."""

    def open(self) -> bool:
        """Whether a new configuration may start now."""
        ...

    def over(self) -> bool:
        """Whether no trial will ever run again."""
        ...

    def exhausted(self) -> None:
        """Is called once, when no new configuration is left."""
        ...
