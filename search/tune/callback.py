"""Between Ray Tune and the rest: keeps the ledger, feeds the recorder, moves the view."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.tune import Callback, Checkpoint
from ray.tune.experiment import Trial

from foldrace.search.recording.events import EventSink, Outcome, now_ms
from foldrace.search.sampling.comparison_plan import TrialRole
from foldrace.search.tune.progress import View
from foldrace.search.tune.snapshots import Snapshots
from foldrace.search.tune.state import TrialRecord, TrialStatus, TrialTable
from foldrace.trainables.ray.trainable import DROPPED, GPUS, RAISED
from foldrace.trainables.tasks.protocol import LoadedTask
from foldrace.trainables.training.cross_validation import EpochReport

__all__ = ["RunningSweep", "SweepCallback"]

_OUTCOMES = {
    TrialStatus.COMPLETED: Outcome.COMPLETED,
    TrialStatus.PRUNED: Outcome.PRUNED,
    TrialStatus.FAILED: Outcome.FAILED,
}


@dataclass(frozen=True)
class RunningSweep:
    """What the events of one running sweep act on. None of it may wait for MLflow: Tune's loop
    would."""

    ledger: TrialTable
    recorder: EventSink
    view: View
    task: LoadedTask
    running: dict[int, Trial] = field(default_factory=dict)
    snapshots: Snapshots | None = None
    on_failure: Callable[[TrialRecord], None] | None = None
    begun: set[int] = field(default_factory=set)
    """The trials whose runs have been made, or opened again, since this process took the sweep
    up."""


_SESSIONS: dict[str, RunningSweep] = {}


def _ending(
    report: EpochReport | None, raised: tuple[str, str] | None = None
) -> tuple[TrialStatus, str]:
    """How a trial that Tune has ended without an error did end, and why; ``raised`` is what its
    task has raised."""
    if raised is not None:
        return TrialStatus.FAILED, textwrap.shorten(raised[0], _REASON)
    if report is not None and report.diverged:
        return TrialStatus.FAILED, f"diverged: {report.diverged}"
    if report is not None and report.finished:
        return TrialStatus.COMPLETED, ""
    return TrialStatus.PRUNED, f"given up {_where(report)}"


def _where(report: EpochReport | None) -> str:
    """``at epoch 3 of 1 fold``."""
    if report is None:
        return "at the start"
    folds = len(report.folds)
    return f"at epoch {report.epoch} of {folds} fold{'s' if folds > 1 else ''}"


_REASON = 160
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def _error_text(trial: Trial) -> str:
    """The traceback that Tune has just written for a trial, or nothing."""
    path = trial.error_file  # local; Tune brings it into the storage later
    try:
        return _COLOUR.sub("", Path(path).read_text()) if path else ""
    except OSError:
        return ""


def _new_record(config: Mapping[str, Any]) -> TrialRecord:
    return TrialRecord(config["trial"], config["params"], part=TrialRole.of(config))


class SweepCallback(Callback):  # type: ignore[misc]
    """Tune's events, in the sweep's words.

    Tune pickles its callbacks beside the experiment's state, so this one holds the sweep's key
    alone; what it acts on is registered for the time of the run.
    """

    def __init__(self, key: str) -> None:
        self._key = key

    @contextmanager
    def acting_on(self, session: RunningSweep) -> Iterator[None]:
        """Within this block, events reach ``session``."""
        _SESSIONS[self._key] = session
        try:
            yield
        finally:
            del _SESSIONS[self._key]

    @property
    def _session(self) -> RunningSweep:
        return _SESSIONS[self._key]

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._take_over(trials)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self._take_over(trials)  # a restored experiment with nothing left to do has no step
        if self._session.snapshots is not None:
            self._session.snapshots.keep_newest(trials, self._given_up())
            self._session.snapshots.clear(
                self._given_up()
            )  # Tune has written its last state before this

    def _take_over(self, trials: list[Trial]) -> None:
        """The trials of a restored experiment that had ended before."""
        for trial in trials if not self._session.ledger.trials else []:
            if trial.status in (Trial.TERMINATED, Trial.ERROR, Trial.PAUSED):
                report = (trial.last_result or {}).get("report")
                record = _new_record(trial.config)
                record.report, record.parameters = (
                    report,
                    (trial.last_result or {}).get("parameters"),
                )
                if trial.status == Trial.PAUSED:
                    record.status = TrialStatus.PAUSED
                elif trial.status == Trial.ERROR:
                    record.status, record.reason = (
                        TrialStatus.FAILED,
                        "failed before the interruption",
                    )
                else:
                    record.status, record.reason = _ending(
                        report, (trial.last_result or {}).get(RAISED)
                    )
                self._session.ledger.note(record)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        for number, trial in list(self._session.running.items()):
            if trial.status == Trial.PAUSED:  # for which Tune has no event
                record = self._session.ledger.trials[number]
                record.status, record.reason = TrialStatus.PAUSED, _where(record.report)
                self._session.ledger.note(record)
                self._session.view.update(self._session.ledger, changed=record)
            if trial.status != Trial.RUNNING:
                del self._session.running[number]
        if self._session.snapshots is not None:
            self._session.snapshots.keep_newest_soon(trials, self._given_up())

    def _given_up(self) -> Iterator[int]:
        """The trials that have ended short of the end. An interrupted one has not, though Tune has
        stopped it."""
        for number, record in self._session.ledger.trials.items():
            if record.status in (TrialStatus.PRUNED, TrialStatus.FAILED):
                yield number

    def on_checkpoint(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        checkpoint: Checkpoint,
        **info: Any,
    ) -> None:
        if self._session.snapshots is not None:
            self._session.snapshots.checkpointed(Path(checkpoint.path))

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        record = self._record(trial)
        record.status = TrialStatus.RUNNING
        self._session.ledger.note(record)
        self._session.running[record.number] = trial
        self._session.view.update(self._session.ledger)

    def _record(self, trial: Trial) -> TrialRecord:
        number = trial.config["trial"]
        record = self._session.ledger.trials.get(number) or _new_record(trial.config)
        if number not in self._session.begun:
            self._session.begun.add(number)
            completed = self._session.task.complete(record.params)
            complete = {name: value for name, value in completed.items() if value is not None}
            tags = record.part.tags if record.part else {}
            self._session.recorder.started(number, {**record.params, **complete}, tags)
        return record

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        record = self._record(trial)
        record.parameters = result.get("parameters", record.parameters)
        if DROPPED in result:
            record.tags["remark"] = (
                f"printed too much: {result[DROPPED]:,} characters were dropped"
            )
        if "hostname" in result:  # Tune's own
            record.tags["node"] = str(result["hostname"])
        if result.get(GPUS):
            record.tags["gpus"] = result[GPUS]
        for earlier, at in result.pop("earlier", ()):
            record.report = earlier
            self._session.recorder.reported(
                record.number, earlier, None, at, parameters=record.parameters
            )
        if RAISED in result:
            self._session.ledger.note(record)
            return
        report: EpochReport = result["report"]
        record.report = report
        self._session.ledger.note(record)
        self._session.recorder.reported(
            record.number,
            report,
            result.pop("picture", None),
            result["reported_ms"],
            parameters=record.parameters,
        )
        self._session.view.update(self._session.ledger)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        record = self._record(trial)
        previous = self._session.ledger.best
        raised = (trial.last_result or {}).get(RAISED)
        self._end(record, *_ending(record.report, raised), raised[1] if raised else "")
        if self._session.ledger.best is not previous:
            self._session.recorder.incumbent(
                record.number,
                record.val_loss,
                record.standard_error,
                self._session.ledger.fold_epochs,
                now_ms(),
            )

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
        waited = record.status is TrialStatus.PAUSED and status is TrialStatus.PRUNED
        record.status, record.reason = status, reason
        self._session.ledger.note(record)
        folds = record.report.folds if record.report else ()
        self._session.recorder.finished(
            record.number, _OUTCOMES[status], folds, reason, detail, record.tags
        )
        # a trial that was paused has been shown already, and at the end there are many of them
        self._session.view.update(self._session.ledger, changed=None if waited else record)
        if status is TrialStatus.FAILED and self._session.on_failure is not None:
            self._session.on_failure(record)
