"""The MLflow runs of one sweep: found by a key before they are made, filled in as few calls as it
takes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.entities import Metric, Param, RunTag

from foldrace.search.recording.events import Outcome, now_ms

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["Change", "Place", "Runs"]

Place = tuple[int | str, ...]
"""Where a run stands: ``()`` the sweep's, ``(7,)`` trial 7's, ``(7, 1)`` its fold 1's,
``("refit",)``."""

_CALL, _NAMES, _PAGE = (
    1000,
    100,
    2000,
)  # what MLflow takes at once: entities, of them params or tags; runs a page
_OWN = (
    "level",
    "sweep",
    "sweep_key",
    "key",
    "trial",
    "fold",
    "pruned_at",
    "failure",
)  # tags that no caller gives


@dataclass
class Change:
    """What is to be written to one run.

    Attributes:
        at: when the run began if it is new, in ms.
        files: (name among the artifacts, content).
        folders: (file or folder, folder among the artifacts or "").
        running: the run goes on, if it had ended.
        ending: how and when it ended, in ms.
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
    """Makes, fills and ends a sweep's runs.

    Every run carries a deterministic ``foldrace.key``, by which it is looked up before it is made.

    Attributes:
        reached: of each trial, the fold-epochs at its last report in the store.
        incumbents: (trial, loss) of every best trial that the sweep's run has had.
        written: counts runs that a `write` has been through with: a sign of life.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, sweep: str, key: str) -> None:
        self.client, self._experiment_id, self._sweep, self._key = (
            client,
            experiment_id,
            sweep,
            key,
        )
        self._ids: dict[
            int | str | None, dict[Place, str]
        ] = {}  # by trial, so that one trial's are at hand
        self._open: dict[int | str | None, set[Place]] = {}
        self._tags: dict[int | str, dict[str, str]] = {}
        self._complete = (
            False  # whether all runs of the sweep that are in the store are known here
        )
        self._doubtful: set[Place] = set()  # runs that may have been made by a call that failed
        self.reached: dict[int, int] = {}
        self.incumbents: set[tuple[int, float]] = set()
        self.written = 0

    # --- what is there ---------------------------------------------------------------------------

    def load(self) -> None:
        """Looks all the sweep's runs up, once, and keeps of each little more than its id."""
        if self._complete:
            return
        for run in self.search(""):
            place = self._place(run)
            self._remember(place, run)
            if len(place) == 1 and isinstance(place[0], int):
                self.reached[place[0]] = int(run.data.metrics.get("fold_epochs", 0))
                self.tag_trial(place[0], _given_tags(run))
            if not place and "best_trial" in run.data.metrics:
                self.incumbents = self._incumbents_of(run.info.run_id)
        self._complete = True

    def _incumbents_of(self, run: str) -> set[tuple[int, float]]:
        losses, trials = (
            {point.timestamp: point.value for point in self.client.get_metric_history(run, name)}
            for name in ("val_loss", "best_trial")
        )
        return {(int(trial), losses[at]) for at, trial in trials.items() if at in losses}

    def search(self, condition: str) -> Iterator[Run]:
        """This sweep's runs of which ``condition`` holds too."""
        mine = f"tags.`foldrace.sweep_key` = '{self._key}'"
        token = None
        while True:
            page = self.client.search_runs(
                [self._experiment_id],
                f"{mine} and {condition}" if condition else mine,
                max_results=_PAGE,
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def find(self, place: Place) -> Run | None:
        """A run as the store has it; None if it is not there."""
        return next(self.search(f"tags.`foldrace.key` = '{self._text(place)}'"), None)

    def _text(self, place: Place) -> str:
        return "/".join([self._key, *map(str, place)])

    def _place(self, run: Run) -> Place:
        parts = run.data.tags["foldrace.key"].removeprefix(self._key).split("/")[1:]
        return tuple(int(part) if part.isdigit() else part for part in parts)

    def _remember(self, place: Place, run: Run) -> None:
        group = place[0] if place else None
        self._ids.setdefault(group, {})[place] = run.info.run_id
        if run.info.status == "RUNNING":
            self._open.setdefault(group, set()).add(place)

    def known(self, trial: int) -> Sequence[Place]:
        """The trial's own run and those of its folds, of which this object has heard."""
        return [*self._ids.get(trial, ())]

    def is_known(self, place: Place) -> bool:
        """Whether this object has heard of a run."""
        return self._known_id(place) is not None

    def all_open(self) -> list[Place]:
        """Every run below the sweep's that has not ended."""
        return [
            place for group, places in self._open.items() if group is not None for place in places
        ]

    def is_open(self, place: Place) -> bool:
        """Whether a run is there and has not ended."""
        return place in self._open.get(place[0] if place else None, ())

    # --- what is made ----------------------------------------------------------------------------

    def tag_trial(self, trial: int, tags: Mapping[str, object]) -> None:
        """Runs of this trial and its folds that are made from now on have these tags beside those
        that all have."""
        if tags:
            self._tags[trial] = {name: str(value) for name, value in tags.items()}

    def id(self, place: Place, at: int | None = None) -> str:
        """A run's id; it is made, and what is above it, if it is not there yet: with ``at`` as its
        beginning, in ms, or now."""
        if self._known_id(place) is None:
            self._find_or_make(place, at or now_ms(), {})
        found = self._known_id(place)
        assert found is not None
        return found

    def _known_id(self, place: Place) -> str | None:
        return self._ids.get(place[0] if place else None, {}).get(place)

    def _find_or_make(self, place: Place, at: int, tags: Mapping[str, str]) -> bool:
        """Whether it had to be made, with these tags beside its own."""
        if not self._complete or place in self._doubtful:
            there = self.find(place)
            if there is not None:
                self._remember(place, there)
                return False
        every = self._tags_of(place) | dict(tags)
        if place:
            every["mlflow.parentRunId"] = self.id(place[:-1], at)
        self._doubtful.add(place)  # until it is certain, as a call that fails may have made it
        made = self.client.create_run(
            self._experiment_id, start_time=at, tags=every, run_name=self._name(place)
        )
        self._doubtful.discard(place)
        self._remember(place, made)
        return True

    def _name(self, place: Place) -> str:
        match place:
            case ():
                return self._sweep
            case (int(trial),):
                return f"trial {trial:04d}"
            case (int(trial), int(fold)):
                return f"trial {trial:04d} fold {fold}"
        return str(place[0])

    def _tags_of(self, place: Place) -> dict[str, str]:
        numbers = [str(part) for part in place if isinstance(part, int)]
        level = str(place[0]) if place and not numbers else ("sweep", "trial", "fold")[len(place)]
        own = {
            "level": level,
            "sweep": self._sweep,
            "sweep_key": self._key,
            "key": self._text(place),
        }
        own |= dict(zip(("trial", "fold"), numbers, strict=False))
        given = self._tags.get(place[0], {}) if place else {}
        return {f"foldrace.{name}": value for name, value in {**own, **given}.items()}

    # --- what is written -------------------------------------------------------------------------

    def write(self, changes: Mapping[Place, Change]) -> None:
        """Writes changes, each run's in one go. May be called again with the same ones after it
        has failed: nothing is stored twice.

        A trial's own figures come after its folds' and all its files, so that what is in the store
        up to its fold-epochs there is whole.
        """
        made = set()
        for place in sorted(changes, key=len):
            if self._known_id(place) is None and self._find_or_make(
                place, changes[place].at, changes[place].tags
            ):
                made.add(place)  # and has its tags
        for place in sorted(changes, key=len, reverse=True):
            self._write(place, changes[place], {} if place in made else changes[place].tags)
            self.written += 1

    def _write(self, place: Place, change: Change, also: Mapping[str, str]) -> None:
        run = self.id(place)
        if change.running and change.ending is None and not self.is_open(place):
            self.client.update_run(run, status="RUNNING")
            self._open.setdefault(place[0] if place else None, set()).add(place)
        # before the figures, by which a trial is known to be whole up to there
        for name, content in change.files:
            self._log_file(run, name, content)
        for path, into in change.folders:
            log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
            log(run, str(path), into or None)
        params = iter([Param(name, value) for name, value in change.params.items()])
        tags = iter([RunTag(name, value) for name, value in also.items()])
        metrics = iter(change.metrics)
        while True:
            few = {"params": list(islice(params, _NAMES)), "tags": list(islice(tags, _NAMES))}
            many = list(islice(metrics, _CALL - len(few["params"]) - len(few["tags"])))
            if not (many or few["params"] or few["tags"]):
                break
            self.client.log_batch(run, metrics=many, **few)
        if change.ending is not None:
            outcome, at = change.ending
            self.client.set_terminated(run, status=outcome.value, end_time=at)
            self._closed(place)

    def _log_file(self, run: str, name: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, Path(name).name)
            path.write_bytes(content)
            into = str(Path(name).parent)
            self.client.log_artifact(run, str(path), None if into == "." else into)

    def _closed(self, place: Place) -> None:
        group = place[0] if place else None
        open_ = self._open.get(group, set())
        open_.discard(place)
        if not open_:
            self._open.pop(group, None)


def _given_tags(run: Run) -> dict[str, str]:
    """Those of a trial's tags that its `Started` gave."""
    found = {
        name.removeprefix("foldrace."): value
        for name, value in run.data.tags.items()
        if "foldrace." in name
    }
    return {name: value for name, value in found.items() if name not in _OWN}
