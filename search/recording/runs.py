"""Finds, creates, fills and ends the MLflow runs of one sweep."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.entities import Metric, Param, RunTag

from foldrace.search.recording.events import now_ms
from foldrace.search.recording.mlflow_internals import Cause, cause_of
from foldrace.search.recording.reader import metric_points, search_runs
from foldrace.search.recording.schema import (
    ASKED_FILE,
    BEST_TRIAL,
    FOLD_EPOCHS,
    RUNNING,
    VAL_LOSS,
    Level,
    Outcome,
    Place,
    Tag,
    having,
    prefixed,
    run_name,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["Change", "Runs"]

# what MLflow takes in one call: entities in all, and params or tags among them
_CALL, _NAMES = 1000, 100
# tags that a `Started` event does not give
_OWN = {
    Tag.LEVEL,
    Tag.SWEEP,
    Tag.SWEEP_KEY,
    Tag.KEY,
    Tag.TRIAL,
    Tag.FOLD,
    Tag.PRUNED_AT,
    Tag.FAILURE,
}


@dataclass
class Change:
    """What is to be written to one run.

    Attributes:
        at: when the run starts if it is new, in ms since 1970.
        files: (artifact path, content).
        folders: (file or folder, artifact folder or "").
        running: reopen the run if it has ended.
        ending: how and when the run ends, in ms since 1970.
    """

    at: int
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)
    folders: list[tuple[Path, str]] = field(default_factory=list)
    running: bool = False
    ending: tuple[Outcome, int] | None = None


class Runs:
    """The MLflow runs of one sweep.

    Every run has a deterministic key (`Tag.KEY`), by which it is looked up before it is created.

    Attributes:
        reached: by trial, the fold-epochs at its last report in the store.
        incumbents: (trial, loss) of every incumbent recorded in the sweep's run.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, sweep: str, key: str) -> None:
        self.client, self._experiment_id = client, experiment_id
        self._sweep, self._key = sweep, key
        self._ids: dict[Place, str] = {}
        self._open: set[Place] = set()
        self._refusals: list[Exception] = []
        self._suspect = False
        self._known: dict[int | str, list[Place]] = {}  # the runs of a trial and its folds
        self._tags: dict[int | str, dict[str, str]] = {}
        # whether every run that the store has of the sweep is in `_ids`
        self._complete = False
        # runs that a failed call may have created
        self._doubtful: set[Place] = set()
        self.reached: dict[int, int] = {}
        self.incumbents: set[tuple[int, float]] = set()
        self._whole = self._furthest = 0

    @property
    def written(self) -> int:
        """Grows with what is written for the first time, as a sign of progress."""
        return self._whole + self._furthest

    # --- what is there ---------------------------------------------------------------------------

    def load(self) -> None:
        """Looks up all runs of the sweep, once; of each little more than the id is kept."""
        if self._complete:
            return
        for run in self.search():
            place = self._place(run)
            self._remember(place, run)
            if len(place) == 1 and isinstance(place[0], int):
                self.reached[place[0]] = int(run.data.metrics.get(FOLD_EPOCHS, 0))
                if given := _given_tags(run):
                    self._tags[place[0]] = given
            if not place and BEST_TRIAL in run.data.metrics:
                self.incumbents = self._incumbents_of(run.info.run_id)
        self._complete = True

    def _incumbents_of(self, run: str) -> set[tuple[int, float]]:
        points = metric_points(self.client, [run], [VAL_LOSS, BEST_TRIAL])
        losses = {point.timestamp: point.value for point in points[run, VAL_LOSS]}
        return {
            (int(point.value), losses[point.timestamp])
            for point in points[run, BEST_TRIAL]
            if point.timestamp in losses
        }

    def search(self, **tags: object) -> Iterator[Run]:
        """The sweep's runs that have these tags too; names without their prefix."""
        condition = having(sweep_key=self._key, **tags)
        return search_runs(self.client, condition, [self._experiment_id])

    def find(self, place: Place) -> Run | None:
        """A run as the store has it; None if it does not exist."""
        return next(self.search(key=self._text(place)), None)

    def _text(self, place: Place) -> str:
        return "/".join([self._key, *map(str, place)])

    def _place(self, run: Run) -> Place:
        parts = run.data.tags[Tag.KEY].removeprefix(self._key).split("/")[1:]
        return tuple(int(part) if part.isdigit() else part for part in parts)

    def _remember(self, place: Place, run: Run) -> None:
        self._ids[place] = run.info.run_id
        if place:
            self._known.setdefault(place[0], []).append(place)
        if run.info.status == RUNNING:
            self._open.add(place)

    def known(self, trial: int) -> Collection[Place]:
        """The trial's own run and its folds' runs, as far as they are known here."""
        return self._known.get(trial, ())

    def is_known(self, place: Place) -> bool:
        """Whether the run is known here."""
        return place in self._ids

    def all_open(self) -> set[Place]:
        """Every run below the sweep's that has not ended."""
        return self._open - {()}

    def is_open(self, place: Place) -> bool:
        """Whether the run exists and has not ended."""
        return place in self._open

    # --- what is created -------------------------------------------------------------------------

    def tag_trial(self, trial: int, tags: Mapping[str, object]) -> None:
        """Gives these tags to runs of the trial and its folds that are created from now on."""
        if tags:
            self._tags[trial] = prefixed(tags)

    def id(self, place: Place, at: int | None = None) -> str:
        """The id of a run, which is created if it does not exist, and the runs above it too.

        Args:
            at: when a new run starts, in ms since 1970; None: now.
        """
        if place not in self._ids:
            self._find_or_create(place, at or now_ms(), {})
        return self._ids[place]

    def _find_or_create(self, place: Place, at: int, tags: Mapping[str, str]) -> bool:
        """Whether the run had to be created, with these tags beside its own."""
        if not self._complete or place in self._doubtful:
            there = self.find(place)
            if there is not None:
                self._remember(place, there)
                return False
        every = self._tags_of(place) | dict(tags)
        if place:
            every["mlflow.parentRunId"] = self.id(place[:-1], at)
        # a call that fails may have created it all the same
        self._doubtful.add(place)
        created = self.client.create_run(
            self._experiment_id,
            start_time=at,
            tags=every,
            run_name=run_name(self._sweep, place),
        )
        self._doubtful.discard(place)
        self._remember(place, created)
        return True

    def _tags_of(self, place: Place) -> dict[str, str]:
        numbers = [str(part) for part in place if isinstance(part, int)]
        level = place[0] if place and not numbers else [*Level][len(place)]
        own: dict[str, str] = {
            Tag.LEVEL: str(level),
            Tag.SWEEP: self._sweep,
            Tag.SWEEP_KEY: self._key,
            Tag.KEY: self._text(place),
        }
        own.update(zip((Tag.TRIAL, Tag.FOLD), numbers, strict=False))
        given = self._tags.get(place[0], {}) if place else {}
        return {str(name): value for name, value in (own | given).items()}

    # --- what is written -------------------------------------------------------------------------

    def set_aside(self, place: Place) -> None:
        """Gives up a run, if there is one: it stays, and another one is created in its place."""
        if (run := self.find(place)) is not None:
            if run.info.status == RUNNING:  # of a process that was killed
                self.client.set_terminated(run.info.run_id, status=Outcome.FAILED.value)
            self.client.set_tag(run.info.run_id, Tag.KEY, f"{self._text(place)}/{run.info.run_id}")
        self._ids.pop(place, None)
        self._open.discard(place)

    def ask(self) -> None:
        """Gives the sweep's run a new tag and a new file, to see whether the store takes them.

        Raises:
            KeyError: there is no such run yet.
        """
        run, now = self._ids[()], str(now_ms())
        self.client.set_tag(run, Tag.ASKED, now)
        self._log_file(run, ASKED_FILE, now.encode())

    def write(self, changes: Mapping[Place, Change], *, suspect: bool = False) -> None:
        """Writes the changes, each run's in as few calls as possible.

        After an error it may be called again with the same changes: nothing is stored twice. What
        MLflow refuses does not keep the rest from being written; the first refusal is then raised.
        A trial's own metrics are written after its folds' and after all its files. So everything
        up to the fold-epochs of the trial's run is complete in the store.

        Args:
            suspect: what fails for a reason that is not clear is taken to be refused.
        """
        self._suspect = suspect
        created = set()
        self._refusals.clear()
        for place in sorted(changes, key=len):
            change = changes[place]
            if place not in self._ids and self._find_or_create(place, change.at, change.tags):
                created.add(place)  # and has its tags
        for number, place in enumerate(sorted(changes, key=len, reverse=True), 1):
            self._write(place, changes[place], {} if place in created else changes[place].tags)
            self._furthest = max(self._furthest, number)
        if self._refusals:
            raise self._refusals[0]
        self._whole, self._furthest = self._whole + len(changes), 0

    def _write(self, place: Place, change: Change, new_tags: Mapping[str, str]) -> None:
        run = self.id(place)
        if change.running and change.ending is None and not self.is_open(place):
            self.client.update_run(run, status=RUNNING)
            self._open.add(place)
        # before the metrics, by which a trial is known to be complete up to there
        for name, content in change.files:
            self._attempt(partial(self._log_file, run, name, content))
        for path, into in change.folders:
            self._attempt(partial(self._log_path, run, path, into))
        params = iter([Param(name, value) for name, value in change.params.items()])
        tags = iter([RunTag(name, value) for name, value in new_tags.items()])
        metrics = iter(change.metrics)
        while True:
            few = {"params": list(islice(params, _NAMES)), "tags": list(islice(tags, _NAMES))}
            many = list(islice(metrics, _CALL - len(few["params"]) - len(few["tags"])))
            if not (many or few["params"] or few["tags"]):
                break
            self._log(run, [*few["params"], *few["tags"], *many])
        if change.ending is not None:
            outcome, at = change.ending
            self.client.set_terminated(run, status=outcome.value, end_time=at)
            self._open.discard(place)

    def _log(self, run: str, items: Sequence[Param | RunTag | Metric]) -> None:
        """Writes in one call; what MLflow refuses, in halves, until the bad items stand alone."""
        kinds = {"params": Param, "tags": RunTag, "metrics": Metric}
        batch = {name: [i for i in items if isinstance(i, kind)] for name, kind in kinds.items()}
        try:
            self.client.log_batch(run, **batch)
        except Exception as error:
            self._check_refused(error)
            if len(items) == 1:
                self._refusals.append(error)
                return
            self._log(run, items[: len(items) // 2])
            self._log(run, items[len(items) // 2 :])

    def _attempt(self, write: Callable[[], None]) -> None:
        """Notes it if what is written is refused, so that the rest of the run is written."""
        try:
            write()
        except Exception as error:
            self._check_refused(error)
            self._refusals.append(error)

    def _check_refused(self, error: Exception) -> None:
        """Raises the error if a retry may succeed."""
        cause = cause_of(error)
        if cause is Cause.STORE or (cause is Cause.UNCLEAR and not self._suspect):
            raise error

    def _log_path(self, run: str, path: Path, into: str) -> None:
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        log(run, str(path), into or None)

    def _log_file(self, run: str, name: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, Path(name).name)
            path.write_bytes(content)
            into = str(Path(name).parent)
            self.client.log_artifact(run, str(path), None if into == "." else into)


def _given_tags(run: Run) -> dict[str, str]:
    """The tags of a trial's run that its `Started` event gave, with their prefix."""
    return {
        name: value
        for name, value in run.data.tags.items()
        if name.startswith("foldrace.") and name not in _OWN
    }
