"""The events of a sweep that are recorded, their JSON form, and the interface that takes them."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from foldrace.search.recording.schema import Outcome
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


def now_ms() -> int:
    """The time in milliseconds since 1970, as MLflow counts."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Started:
    """A trial starts, or is resumed.

    Attributes:
        tags: of its run and its folds' runs, beside those that all runs have.
        at: when, in ms since 1970; so in all events.
    """

    trial: int
    params: Mapping[str, Value]
    tags: Mapping[str, object]
    at: int


@dataclass(frozen=True)
class Reported:
    """A trial has reached an aligned point: all its folds have trained the same epochs.

    Attributes:
        picture: a PNG in base64, images above their reconstructions; None if there is none.
        parameters: the number of the model's trainable weights, if known.
    """

    trial: int
    report: EpochReport
    picture: str | None
    at: int
    parameters: int | None


@dataclass(frozen=True)
class Finished:
    """A trial ends, and its folds with it.

    Attributes:
        reason: in one line, why it failed or where it was pruned.
        detail: a traceback, kept as an artifact.
        tags: further tags of its run.
    """

    trial: int
    outcome: Outcome
    folds: tuple[FoldReport, ...]
    reason: str
    detail: str
    at: int
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Incumbent:
    """A new best completed trial.

    Attributes:
        fold_epochs: what the sweep has spent so far.
    """

    trial: int
    val_loss: float
    standard_error: float
    fold_epochs: int
    at: int


@dataclass(frozen=True)
class Files:
    """A file, or all files of a folder, become artifacts of a run.

    Attributes:
        place: the run: ``()`` the sweep's, ``(trial,)`` or ``(trial, fold)``.
        path: of the file or the folder, relative to the sweep's folder.
        into: the artifact folder; "" for the top.
    """

    place: tuple[int, ...]
    path: str
    into: str
    at: int


@dataclass(frozen=True)
class Closed:
    """The sweep ends. Trials that are still open end as `Outcome.PRUNED`.

    Attributes:
        note: the description of the sweep's run, in Markdown.
    """

    outcome: Outcome
    tags: Mapping[str, object]
    note: str
    at: int


Event = Started | Reported | Finished | Incumbent | Files | Closed
_KINDS: Mapping[str, type[Any]] = {
    kind.__name__.lower(): kind for kind in (Started, Reported, Finished, Incumbent, Files, Closed)
}


def to_json(event: Event) -> str:
    """An event as one line of JSON, without the newline.

    `from_json` returns an equal event, NaN and infinities included. NumPy scalars come back as
    Python numbers of the same value.
    """
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
    raise TypeError(f"an event cannot hold a {type(value).__name__}")


def from_json(line: str | bytes) -> Event:
    """The event that `to_json` wrote as this line.

    Raises:
        ValueError, KeyError, TypeError: the line is not an event.
    """
    from foldrace.trainables.training.reports import EpochReport

    fields = json.loads(line)
    kind = _KINDS[fields.pop("event")]
    if "outcome" in fields:
        fields["outcome"] = Outcome(fields["outcome"])
    if "folds" in fields:
        fields["folds"] = _folds(fields["folds"])
    if "place" in fields:
        fields["place"] = tuple(fields["place"])
    if "report" in fields:
        report = fields["report"]
        folds = {"folds": _folds(report["folds"]), "trained": _folds(report["trained"])}
        fields["report"] = EpochReport(
            **{**report, **folds, "rungs": tuple(map(tuple, report["rungs"]))}
        )
    event: Event = kind(**fields)
    return event


def _folds(reports: Iterable[Mapping[str, Any]]) -> tuple[FoldReport, ...]:
    from foldrace.trainables.training.reports import FoldReport

    return tuple(FoldReport(**fold) for fold in reports)


class EventSink(ABC):
    """Takes the events of a sweep.

    A subclass defines in `_take` what happens to an event: it is written to MLflow at once, or
    kept on disk and delivered later.
    """

    @abstractmethod
    def _take(self, event: Event) -> None: ...

    def sync(self) -> None:  # noqa: B027 (a sink that writes at once has nothing to do)
        """Makes all events so far safe from a power failure."""

    def started(
        self, trial: int, params: Mapping[str, Value], tags: Mapping[str, object] | None = None
    ) -> None:
        """Records `Started`, now."""
        self._take(Started(trial, params, tags or {}, now_ms()))

    def reported(
        self,
        trial: int,
        report: EpochReport,
        picture: str | None,
        timestamp: int,
        parameters: int | None = None,
    ) -> None:
        """Records `Reported`.

        A resumed trial repeats some of its reports, with the same numbers; the repeated ones are
        not stored again.

        Args:
            timestamp: when the report was made, in ms since 1970.
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
        """Records `Finished`, now."""
        self._take(Finished(trial, outcome, tuple(folds), reason, detail, now_ms(), tags or {}))

    def incumbent(
        self, trial: int, val_loss: float, standard_error: float, fold_epochs: int, timestamp: int
    ) -> None:
        """Records `Incumbent`; ``timestamp`` in ms since 1970."""
        self._take(Incumbent(trial, val_loss, standard_error, fold_epochs, timestamp))

    def files(self, place: tuple[int, ...], path: str, into: str = "") -> None:
        """Records `Files`, now."""
        self._take(Files(place, path, into, now_ms()))

    def close(self, outcome: Outcome, tags: Mapping[str, object], note: str) -> None:
        """Records `Closed`, now."""
        self._take(Closed(outcome, tags, note, now_ms()))
