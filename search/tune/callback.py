"""Between Ray Tune and the sweep: a callback that updates the trials, the record and the view."""

from __future__ import annotations

import logging
import re
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback, Checkpoint
from ray.tune.experiment import Trial
from ray.util import placement_group_table

from foldrace.search.live_objects import attached, live_object
from foldrace.search.recording.events import EventSink, now_ms
from foldrace.search.recording.schema import Outcome
from foldrace.search.sampling.comparison_plan import TrialRole
from foldrace.search.tune.snapshots import Snapshots
from foldrace.search.tune.state import TrialRecord, TrialStatus, TrialTable
from foldrace.search.tune.view import View
from foldrace.trainables.ray.trainable import DEVICE, DROPPED, GPUS, RAISED
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.training.reports import EpochReport

__all__ = ["RunningSweep", "SweepCallback", "Waiting"]

log = logging.getLogger(__name__)

_OUTCOMES = {
    TrialStatus.COMPLETED: Outcome.COMPLETED,
    TrialStatus.PRUNED: Outcome.PRUNED,
    TrialStatus.FAILED: Outcome.FAILED,
}
_REASON = 160  # characters
_WAIT = 60.0  # seconds
_KEYS = ("CPU", "GPU")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class RunningSweep:
    """What the events of one running sweep act on. Nothing here waits for MLflow, since Tune's
    loop would wait with it.

    Attributes:
        events: where the record goes.
        running: the trials that train now, by number.
        snapshots: None: Tune's state is not saved.
        on_failure: called with each trial that fails.
        begun: the trials whose runs this session has created or reopened.
        saved: by trial, the fold-epochs in its newest checkpoint.
        waiting: says it when no trial can begin.
    """

    trials: TrialTable
    events: EventSink
    view: View
    task: LoadedTask
    running: dict[int, Trial] = field(default_factory=dict)
    snapshots: Snapshots | None = None
    on_failure: Callable[[TrialRecord], None] | None = None
    begun: set[int] = field(default_factory=set)
    saved: dict[int, int] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=lambda: Waiting())


def _free() -> Mapping[str, float] | None:
    """What is free, if somebody waits for it; else None."""
    groups = placement_group_table().values()
    if not any(group["state"] == "PENDING" for group in groups):
        return None
    free: Mapping[str, float] = ray.available_resources()
    return free


class Waiting:
    """Says what is missing when for a minute no trial runs and one waits.

    Args:
        free: what is free in the cluster, by resource; None: the trial has what it asks for, and
            its worker is starting.
        clock: in seconds.
    """

    def __init__(
        self,
        free: Callable[[], Mapping[str, float] | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._free, self._clock = free or _free, clock
        self._since: float | None = None
        self._pause = _WAIT

    def look(self, trials: list[Trial]) -> None:
        """Looks at all trials of the experiment; called again and again."""
        waiting = [trial for trial in trials if trial.status == Trial.PENDING]
        if not waiting or any(trial.status == Trial.RUNNING for trial in trials):
            self._since, self._pause = None, _WAIT
            return
        now = self._clock()
        self._since = now if self._since is None else self._since
        if now - self._since < self._pause:
            return
        asked, there = waiting[0].placement_group_factory.required_resources, self._free()
        if there is None:
            return
        wants = ", ".join(f"{asked[key]:g} {key}" for key in _KEYS if asked.get(key))
        has = ", ".join(f"{there.get(key, 0):g} {key}" for key in _KEYS)
        log.warning(
            "no trial could begin for %d s: it asks for %s on one machine; free are %s on all"
            " together",
            now - self._since,
            wants,
            has,
        )
        self._pause *= 10


class SweepCallback(Callback):  # type: ignore[misc]
    """Translates Tune's events into the sweep's.

    Tune pickles its callbacks, so this one keeps only a key to the live `RunningSweep`
    (`foldrace.search.live_objects`).
    """

    def __init__(self, key: str) -> None:
        self._key = key

    def acting_on(self, sweep: RunningSweep) -> AbstractContextManager[None]:
        """Within this block, events reach ``sweep``."""
        return attached(self._key, sweep)

    @property
    def _sweep(self) -> RunningSweep:
        return live_object(RunningSweep, self._key)

    # --- the experiment --------------------------------------------------------------------------

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._take_over(trials)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        sweep = self._sweep
        for number, trial in list(sweep.running.items()):
            if trial.status == Trial.PAUSED:  # Tune has no event for a pause
                record = sweep.trials.records[number]
                record.status, record.reason = TrialStatus.PAUSED, _where(record.report)
                sweep.trials.note(record)
                sweep.view.update(sweep.trials, changed=record)
            if trial.status != Trial.RUNNING:
                del sweep.running[number]
        if sweep.snapshots is not None:
            sweep.snapshots.keep_newest_soon(trials, self._without_future())
        sweep.waiting.look(trials)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self._take_over(trials)  # a restored experiment in which all trials have ended has no step
        snapshots = self._sweep.snapshots
        if snapshots is not None:
            snapshots.keep_newest(trials, self._without_future())
            # Tune has written its last state before this event
            snapshots.clear(self._without_future())

    def _take_over(self, trials: list[Trial]) -> None:
        """Notes the trials of a restored experiment that had ended or paused before."""
        if self._sweep.trials.records:
            return
        for trial in trials:
            if trial.status in (Trial.TERMINATED, Trial.ERROR, Trial.PAUSED):
                self._sweep.trials.note(_restored(trial))

    def _without_future(self) -> Iterator[int]:
        """The trials whose checkpoints are not needed any more: pruned or failed. An interrupted
        trial is neither, although Tune has stopped it."""
        for number, record in self._sweep.trials.records.items():
            if record.status in (TrialStatus.PRUNED, TrialStatus.FAILED):
                yield number

    # --- its trials ------------------------------------------------------------------------------

    def on_checkpoint(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        checkpoint: Checkpoint,
        **info: Any,
    ) -> None:
        sweep, number = self._sweep, trial.config["trial"]
        if sweep.snapshots is not None:
            sweep.snapshots.checkpointed(Path(checkpoint.path))
        done = (trial.last_result or {}).get("fold_epochs", 0)
        if done > sweep.saved.get(number, 0):
            # those before cost nothing any more: `max_failures` is of failures without progress
            sweep.saved[number], trial.run_metadata.num_failures = done, 0

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        record = self._record(trial)
        record.status = TrialStatus.RUNNING
        self._sweep.trials.note(record)
        self._sweep.running[record.number] = trial
        self._sweep.view.update(self._sweep.trials)

    def _record(self, trial: Trial) -> TrialRecord:
        """The trial's record; its run is created or reopened at its first event."""
        sweep, number = self._sweep, trial.config["trial"]
        record = sweep.trials.records.get(number) or _new_record(trial.config)
        if number not in sweep.begun:
            sweep.begun.add(number)
            completed = sweep.task.complete(record.params)
            complete = {name: value for name, value in completed.items() if value is not None}
            tags = record.part.tags if record.part else {}
            sweep.events.started(number, {**record.params, **complete}, tags)
        return record

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        sweep, record = self._sweep, self._record(trial)
        record.parameters = result.get("parameters", record.parameters)
        if DROPPED in result:
            record.tags["remark"] = (
                f"printed too much: {result[DROPPED]:,} characters were dropped"
            )
        if "hostname" in result:  # Tune's own
            record.tags["node"] = str(result["hostname"])
        if result.get(GPUS):
            record.tags |= {"gpus": result[GPUS], "device": result[DEVICE]}
        for earlier, at in result.pop("earlier", ()):
            record.report = earlier
            sweep.events.reported(record.number, earlier, None, at, record.parameters)
        if RAISED in result:
            sweep.trials.note(record)
            return
        report: EpochReport = result["report"]
        record.report = report
        sweep.trials.note(record)
        picture, at = result.pop("picture", None), result["reported_ms"]
        sweep.events.reported(record.number, report, picture, at, record.parameters)
        sweep.view.update(sweep.trials)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        sweep, record = self._sweep, self._record(trial)
        previous = sweep.trials.best
        raised = (trial.last_result or {}).get(RAISED)
        self._end(record, *_ending(record.report, raised), raised[1] if raised else "")
        if sweep.trials.best is not previous:
            score, error = record.val_loss, record.standard_error
            sweep.events.incumbent(record.number, score, error, sweep.trials.fold_epochs, now_ms())

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        record = self._record(trial)
        detail = _error_text(trial)
        lines = [line for line in detail.splitlines() if line.strip()]
        reason = textwrap.shorten(lines[-1], _REASON) if lines else "its worker died"
        self._end(record, TrialStatus.FAILED, reason, detail)

    def _end(
        self, record: TrialRecord, status: TrialStatus, reason: str = "", detail: str = ""
    ) -> None:
        sweep = self._sweep
        was_paused = record.status is TrialStatus.PAUSED and status is TrialStatus.PRUNED
        record.status, record.reason = status, reason
        sweep.trials.note(record)
        folds = record.report.folds if record.report else ()
        sweep.events.finished(record.number, _OUTCOMES[status], folds, reason, detail, record.tags)
        # a paused trial has been shown already, and at the end many of them are pruned at once
        sweep.view.update(sweep.trials, changed=None if was_paused else record)
        if status is TrialStatus.FAILED and sweep.on_failure is not None:
            sweep.on_failure(record)


def _new_record(config: Mapping[str, Any]) -> TrialRecord:
    return TrialRecord(config["trial"], config["params"], part=TrialRole.of(config))


def _restored(trial: Trial) -> TrialRecord:
    """The record of a trial that had ended or paused before the experiment was restored."""
    last = trial.last_result or {}
    record = _new_record(trial.config)
    record.report, record.parameters = last.get("report"), last.get("parameters")
    if trial.status == Trial.PAUSED:
        record.status = TrialStatus.PAUSED
    elif trial.status == Trial.ERROR:
        record.status, record.reason = TrialStatus.FAILED, "failed before the interruption"
    else:
        record.status, record.reason = _ending(record.report, last.get(RAISED))
    return record


def _ending(
    report: EpochReport | None, raised: tuple[str, str] | None = None
) -> tuple[TrialStatus, str]:
    """The status and reason of a trial that Tune has ended without an error.

    Args:
        raised: what its task has raised: (message, traceback).
    """
    if raised is not None:
        return TrialStatus.FAILED, textwrap.shorten(raised[0], _REASON)
    if report is not None and report.diverged:
        return TrialStatus.FAILED, f"diverged: {report.diverged}"
    if report is not None and report.finished:
        return TrialStatus.COMPLETED, ""
    return TrialStatus.PRUNED, f"pruned {_where(report)}"


def _where(report: EpochReport | None) -> str:
    """``at epoch 3 of 1 fold``."""
    if report is None:
        return "at the start"
    folds = len(report.folds)
    return f"at epoch {report.epoch} of {folds} fold{'s' if folds > 1 else ''}"


def _error_text(trial: Trial) -> str:
    """The traceback that Tune has just written for a trial, or ""."""
    path = trial.error_file  # local; Tune copies it into the storage later
    try:
        return _COLOUR.sub("", Path(path).read_text("utf-8", "replace")) if path else ""
    except OSError:
        return ""
