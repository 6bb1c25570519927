"""Where a running sweep shows its trials."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from foldrace.search.tune.state import TrialRecord, TrialTable

__all__ = ["View"]


class View(Protocol):
    """Where the sweep shows itself."""

    def say(self, line: str) -> None:
        """One line that stays."""
        ...

    def update(self, ledger: TrialTable, changed: TrialRecord | None = None) -> None:
        """The ledger as it is now; ``changed`` has just ended, if it is given."""
        ...

    def __enter__(self) -> View: ...
    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None: ...
