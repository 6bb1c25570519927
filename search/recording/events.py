"""What happens in a sweep that its record keeps: the events, as JSON and back, and the face that
takes them."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from foldrace.trainables.tasks.parameters import Value

if TYPE_CHECKING:
    from foldrace.trainables.training.reports import EpochReport, FoldReport

__all__ = [
    "Closed",
    "Event",
    "EventSink",
    "Files",
    "Finished",
    "Incumbent",
    "Outcome",
    "Reported",
    "Started",
    "from_json",
    "now_ms",
    "to_json",
]


class Outcome(Enum):
    """How a sweep, a trial or a fold ended, as MLflow's run status."""

    COMPLETED = "FINISHED"
    PRUNED = "KILLED"
    FAILED = "FAILED"


def now_ms() -> int:
    """Milliseconds since the epoch, as MLflow counts."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Started:
    """A trial begins, or goes on after an interruption. ``at`` is a time in ms since the epoch,
    here and below."""

    trial: int
    params: Mapping[str, Value]
    tags: Mapping[str, object]
    at: int


@dataclass(frozen=True)
class Reported:
    """A trial at an aligned point; ``picture`` is a PNG in base64, ``parameters`` its model's
    trainable weights."""

    trial: int
    report: EpochReport
    picture: str | None
    at: int
    parameters: int | None


@dataclass(frozen=True)
class Finished:
    """A trial ends, and its folds with it; ``tags`` is what else there is to say of it."""

    trial: int
    outcome: Outcome
    folds: tuple[FoldReport, ...]
    reason: str
    detail: str
    at: int
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Incumbent:
    """A new best fully evaluated trial, at the fold-epochs that the sweep has spent."""

    trial: int
    val_loss: float
    standard_error: float
    fold_epochs: int
    at: int


@dataclass(frozen=True)
class Files:
    """A file or a folder's files belong to a run: the sweep's, a trial's, or a fold's.

    Attributes:
        place: ``()``, ``(trial,)`` or ``(trial, fold)``.
        path: below the sweep's folder.
        into: the folder among the run's artifacts; "": at their top.
    """

    place: tuple[int, ...]
    path: str
    into: str
    at: int


@dataclass(frozen=True)
class Closed:
    """The sweep ends, and any trial that is left open with it (given up)."""

    outcome: Outcome
    tags: Mapping[str, object]
    note: str
    at: int


Event = Started | Reported | Finished | Incumbent | Files | Closed
_KINDS: Mapping[str, type[Any]] = {
    kind.__name__.lower(): kind for kind in (Started, Reported, Finished, Incumbent, Files, Closed)
}


def to_json(event: Event) -> str:
    """An event as one line of JSON, without its end. `from_json` gives back an equal one, NaN and
    infinities included; NumPy's scalars come back as Python's, of the same value."""
    return json.dumps(
        {"event": type(event).__name__.lower(), **vars(event)},
        default=_plain,
        separators=(",", ":"),
    )


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return vars(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be kept in the spool")


def from_json(line: str | bytes) -> Event:
    """The event of a line. Raises: ValueError, KeyError or TypeError if it is none."""
    from foldrace.trainables.training.reports import EpochReport

    told = json.loads(line)
    kind = _KINDS[told.pop("event")]
    if "outcome" in told:
        told["outcome"] = Outcome(told["outcome"])
    if "folds" in told:
        told["folds"] = _folds(told["folds"])
    if "place" in told:
        told["place"] = tuple(told["place"])
    if "report" in told:
        report = told["report"]
        folds = {"folds": _folds(report["folds"]), "trained": _folds(report["trained"])}
        told["report"] = EpochReport(
            **{**report, **folds, "rungs": tuple(map(tuple, report["rungs"]))}
        )
    event: Event = kind(**told)
    return event


def _folds(told: Iterable[Mapping[str, Any]]) -> tuple[FoldReport, ...]:
    from foldrace.trainables.training.reports import FoldReport

    return tuple(FoldReport(**fold) for fold in told)


class EventSink(ABC):
    """Where the events of a sweep go. What becomes of them is `_take`'s: they are written at once,
    or kept and sent."""

    @abstractmethod
    def _take(self, event: Event) -> None: ...

    def sync(self) -> None:  # noqa: B027 (nothing is to be done where events are written at once)
        """Makes all that it has been told safe from a power failure, here or where it was
        written."""

    def started(
        self, trial: int, params: Mapping[str, Value], tags: Mapping[str, object] | None = None
    ) -> None:
        """A trial begins, or goes on after an interruption.

        Args:
            tags: of its run and its folds' runs, beside those that all have.
        """
        self._take(Started(trial, params, tags or {}, now_ms()))

    def reported(
        self,
        trial: int,
        report: EpochReport,
        picture: str | None,
        timestamp: int,
        parameters: int | None = None,
    ) -> None:
        """A trial at an aligned point: each fold's metrics at each epoch since the last, their
        means at the fold-epochs spent.

        Args:
            picture: a PNG in base64, originals above reconstructions of fold 0, or None.
            timestamp: when the report was made, in ms.
            parameters: trainable weights of the trial's model.

        A trial that goes on after an interruption makes some reports again, with the same numbers;
        they are left out.
        """
        self._take(Reported(trial, report, picture, timestamp, parameters))

    def finished(
        self,
        trial: int,
        outcome: Outcome,
        folds: Iterable[FoldReport] = (),
        reason: str = "",
        detail: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """A trial ends, and its folds with it.

        Args:
            reason: why it failed or where it was given up, in one line.
            detail: a traceback, kept as an artifact.
            tags: what else there is to say of it.
        """
        self._take(Finished(trial, outcome, tuple(folds), reason, detail, now_ms(), tags or {}))

    def incumbent(
        self, trial: int, val_loss: float, standard_error: float, fold_epochs: int, timestamp: int
    ) -> None:
        """A new best fully evaluated trial, at the fold-epochs that the sweep has spent."""
        self._take(Incumbent(trial, val_loss, standard_error, fold_epochs, timestamp))

    def files(self, place: tuple[int, ...], path: str, into: str = "") -> None:
        """A file, or the files of a folder, belong to a run; see `Files`."""
        self._take(Files(place, path, into, now_ms()))

    def close(self, outcome: Outcome, tags: Mapping[str, object], note: str) -> None:
        """Ends the sweep's run, and any trial left open with it (given up)."""
        self._take(Closed(outcome, tags, note, now_ms()))
