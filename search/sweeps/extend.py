"""Extends a sweep that has ended: trains its completed trials for more epochs."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from foldrace.errors import InputError, StateError
from foldrace.files import write_text_atomically
from foldrace.search.preparing.prepared import Prepared
from foldrace.search.preparing.recorded import open_recorded
from foldrace.search.recording.events import Files, now_ms
from foldrace.search.recording.folder import SweepFolder, find_sweep
from foldrace.search.recording.outbox import waiting_records
from foldrace.search.recording.sweep_outbox import keep_for_later
from foldrace.search.recording.tracking import check_tracking, connect
from foldrace.search.recording.writer import MlflowWriter
from foldrace.search.spec.sweep_spec import SweepSpec, parse_spec
from foldrace.search.sweeps.begin import FoundSweep
from foldrace.search.sweeps.result import SweepResult
from foldrace.search.sweeps.run import MakeView, SweepRun
from foldrace.search.tune.callback import RunningSweep
from foldrace.search.tune.experiments import Experiment, given_experiment
from foldrace.search.tune.interrupts import Interrupt
from foldrace.search.tune.state import TrialStatus, TrialTable
from foldrace.trainables.ray.checkpoint import CHECKPOINT_FILE, load_checkpoint_file
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.ladder import Rung

__all__ = ["Extension", "extend_sweep", "prepare_extension"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survivor:
    """A completed trial, with the folder of its checkpoint and its cost in fold-epochs."""

    number: int
    params: Mapping[str, Value]
    checkpoint: Path
    fold_epochs: int

    def to_json(self) -> dict[str, Any]:
        """The survivor in plain types."""
        return {
            **asdict(self),
            "params": dict(self.params),
            "checkpoint": str(self.checkpoint),
        }


@dataclass(frozen=True)
class Extension:
    """A checked extension of a sweep.

    Attributes:
        prepared: the sweep with its new epochs, and one more rung on its ladder.
        survivors: the trials that are trained for more epochs, best first.
        earlier: the sweep's result so far, as ``--json`` printed it.
    """

    folder: SweepFolder
    prepared: Prepared
    survivors: tuple[Survivor, ...]
    earlier: Mapping[str, Any]


def prepare_extension(
    name: str | None,
    epochs: int,
    top: int | None,
    root: Path,
    data_dir: Path,
    *,
    local: bool = True,
) -> Extension:
    """Reads and checks all that an extension needs; starts nothing.

    Args:
        name: of the sweep; None: the latest.
        epochs: total epochs per fold at the end.
        top: how many survivors are trained; None: all.
        root: the folder of all sweeps.
        local: the extension runs on this machine, so its GPUs are the ones that count.

    Raises:
        InputError: the epochs are no more than before, or a survivor's learning rate schedule ends
            with the old epochs.
        StateError: there is no such sweep, or it is not as recorded; it has not ended, or has been
            refitted; there is no survivor, or a checkpoint is missing.
    """
    folder = find_sweep(root, name)
    folder.check_private()
    earlier, recorded = folder.read_result(), open_recorded(folder)
    state, old = recorded.state, recorded.spec
    _check_extendable(folder, old, epochs)
    check_tracking(state.tracking_uri)
    writer = MlflowWriter(connect(state.tracking_uri), state.experiment_id, folder.name, state.key)
    if writer.finished_refit is not None:
        raise StateError(
            f"{folder.name}: its best trial has been tested; another choice now would be a choice"
            " by the test set"
        )
    prepared = recorded.prepare(data_dir, local=local, spec=_longer(old, epochs))
    survivors = _begun(folder, epochs, top)
    if survivors is None:
        survivors = _survivors(folder, writer, old.ladder[-1])[:top]
    if not survivors:
        raise StateError(f"{folder.name}: no trial has completed, so none can be extended")
    for survivor in survivors:
        _check_schedule(prepared, survivor, old.epochs)
    return Extension(folder, prepared, tuple(survivors), earlier)


def _check_extendable(folder: SweepFolder, old: SweepSpec, epochs: int) -> None:
    if old.comparison is not None:
        raise StateError(
            f"{folder.name}: a comparison gives all arms the same epochs; start a new comparison"
            " with more epochs"
        )
    if epochs <= old.epochs:
        raise InputError(
            "--epochs", epochs, f"must be more than the {old.epochs} that the sweep had"
        )
    if waiting := waiting_records(folder.path):
        raise StateError(
            f"{folder.name}: {waiting} records wait to be delivered; `foldrace sync {folder.name}`"
            " first"
        )


def _longer(old: SweepSpec, epochs: int) -> SweepSpec:
    """The sweep file with more epochs, one more rung on its ladder, and without its budget, which
    is spent."""
    ladder = [(rung.folds, rung.epochs) for rung in old.ladder] + [(old.folds.count, epochs)]
    has_ladder = old.scheduler.kind != "fifo"
    scheduler = (
        old.scheduler.model_copy(update={"ladder": tuple(ladder)}) if has_ladder else old.scheduler
    )
    search = old.search.model_copy(update=dict.fromkeys(("fold_epochs", "time_budget", "target")))
    changed = old.model_copy(update={"epochs": epochs, "scheduler": scheduler, "search": search})
    # parsed again, so that what is written can be read
    return parse_spec(changed.model_dump(by_alias=True), Path())


def _begun(folder: SweepFolder, epochs: int, top: int | None) -> list[Survivor] | None:
    """The survivors of this extension if it has begun before. Raises: InputError if another number
    of them is asked for now."""
    path = _list_of(folder, epochs)
    if not path.is_file():
        return None
    survivors = [
        Survivor(**{**one, "checkpoint": Path(one["checkpoint"])})
        for one in json.loads(path.read_text())
    ]
    if top is not None and top != len(survivors):
        raise InputError(
            "--top",
            top,
            f"this extension was begun with {len(survivors)} trials",
            "leave --top out",
        )
    return survivors


def _list_of(folder: SweepFolder, epochs: int) -> Path:
    return folder.path / f"extension-{epochs}.json"


def _survivors(folder: SweepFolder, writer: MlflowWriter, top: Rung) -> list[Survivor]:
    """The trials that have reached the top rung, best first. Raises: StateError if one has no
    checkpoint."""
    found = []
    for number, loss, fold_epochs in writer.completed_trials(top.folds, top.epochs):
        checkpoint = folder.checkpoint(number, CHECKPOINT_FILE, top.epochs)
        if checkpoint is None:
            raise StateError(
                f"{folder.name}: trial {number} has left no checkpoint in {folder.path}"
            )
        params = load_checkpoint_file(checkpoint / CHECKPOINT_FILE)["params"]
        survivor = Survivor(number, params, checkpoint, min(fold_epochs, top.cost))
        found.append((loss, number, survivor))
    return [survivor for *_, survivor in sorted(found, key=lambda each: each[:2])]


def _check_schedule(prepared: Prepared, survivor: Survivor, epochs: int) -> None:
    schedule = prepared.task.complete(survivor.params)["schedule"]
    if schedule != "constant":
        rule = (
            f"trial {survivor.number} has schedule: {schedule}, whose learning rate ends with"
            f" epoch {epochs}"
        )
        raise InputError(
            "--epochs",
            prepared.spec.epochs,
            rule,
            "a new sweep with these epochs, or --top with fewer",
        )


def extend_sweep(
    extension: Extension, *, make_view: MakeView, address: str | None = None
) -> tuple[SweepResult, TrialTable]:
    """Trains the survivors for more epochs, and gives the sweep a new result: its best trial is
    now one of those that have all the epochs.

    An interrupted extension continues when it is started again.

    Args, Raises: as `foldrace.search.sweeps.run.run_sweep`.
    """
    folder = extension.folder
    result, trials = ExtendedRun(extension, make_view, address).execute()
    if not result.interrupted and result.best is not None:
        uri = folder.read_state().tracking_uri
        _keep_file(folder, extension.prepared.spec.to_yaml(), uri, result.run_id)
    return result, trials


class ExtendedRun(SweepRun):
    """One run of an extension: trains the survivors, and adds to the sweep's result so far."""

    def __init__(self, extension: Extension, make_view: MakeView, address: str | None) -> None:
        found = FoundSweep(extension.folder, extension.folder.read_state())
        super().__init__(extension.prepared, found, make_view, address)
        self._extension = extension

    def run(self, sweep: RunningSweep, interrupt: Interrupt) -> dict[int, Path]:
        survivors, earlier = self._extension.survivors, self._extension.earlier
        text = json.dumps([survivor.to_json() for survivor in survivors])
        write_text_atomically(_list_of(self.folder, self.spec.epochs), text)
        self.trials.total = len(survivors)
        self.trials.spent_before = int(earlier["fold_epochs"]) - sum(
            survivor.fold_epochs for survivor in survivors
        )
        return super().run(sweep, interrupt)

    def experiment(self) -> Experiment:
        configs = [
            {"trial": one.number, "params": dict(one.params), "checkpoint": str(one.checkpoint)}
            for one in self._extension.survivors
        ]
        return given_experiment(self.prepared, self.folder.extension(self.spec.epochs), configs)

    def conclude(self, *, interrupted: bool) -> SweepResult:
        """The result with the counts of the whole sweep: survivors were completed before."""
        failed = self.trials.count(TrialStatus.FAILED)
        counts = dict(self._extension.earlier["trials"])
        counts["completed"] -= failed
        counts["failed"] += failed
        return replace(super().conclude(interrupted=interrupted), trials=counts)

    def is_whole(self, result: SweepResult) -> bool:
        """Whether there is a new best trial; otherwise the sweep keeps its earlier result."""
        return result.best is not None


def _keep_file(folder: SweepFolder, text: str, uri: str, run_id: str) -> None:
    """Replaces the sweep file by the longer one, in the folder and in the record. The file keeps
    its time, which is the sweep's age."""
    times = folder.spec.stat()
    folder.write_state(replace(folder.read_state(), spec=text))
    write_text_atomically(folder.spec, text)
    os.utime(folder.spec, ns=(times.st_atime_ns, times.st_mtime_ns))
    if waiting_records(folder.path):  # the tracking store is away
        keep_for_later(folder, Files((), folder.spec.name, "", now_ms()))
    else:
        connect(uri).log_text(run_id, text, "sweep.yaml")
