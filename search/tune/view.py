"""Where a running sweep shows its trials; the views that print are in `foldrace.cli.views`."""

from __future__ import annotations

from typing import Protocol

from foldrace.search.tune.state import TrialRecord, TrialTable

__all__ = ["View"]


class View(Protocol):
    """Shows the trials of a running sweep. What else there is to say goes through `logging`."""

    def update(self, trials: TrialTable, changed: TrialRecord | None = None) -> None:
        """Shows the trials as they are now; ``changed`` has just ended or paused."""
        ...
