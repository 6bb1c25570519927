"""Trains the survivors of a sweep beyond the epochs that it was planned for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from foldrace.errors import InputError, StateError
from foldrace.files import write_text
from foldrace.search.preparing.prepare import Prepared, prepare
from foldrace.search.recording.events import Files, now_ms
from foldrace.search.recording.folder import SweepFolder, find_sweep
from foldrace.search.recording.outbox import waiting_records
from foldrace.search.recording.sweep_outbox import keep_for_later
from foldrace.search.recording.tracking import check_tracking, connect
from foldrace.search.recording.writer import MlflowWriter
from foldrace.search.spec.sweep_spec import SweepSpec, load_spec, parse_spec
from foldrace.search.sweeps.result import SweepResult
from foldrace.search.sweeps.run import drive, found_again
from foldrace.search.tune.callback import RunningSweep
from foldrace.search.tune.interrupts import Interrupt
from foldrace.search.tune.progress import View
from foldrace.search.tune.state import TrialStatus, TrialTable
from foldrace.search.tune.tuner import run_given_trials
from foldrace.trainables.ray.trainable import CHECKPOINT_FILE, Work, load_checkpoint_file
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.ladder import Rung

__all__ = ["Extension", "extend_sweep", "prepare_extension"]


@dataclass(frozen=True)
class Survivor:
    """A trial evaluated to the end, with the folder of its checkpoint and the fold-epochs that it
    has cost."""

    number: int
    params: Mapping[str, Value]
    checkpoint: Path
    fold_epochs: int


@dataclass(frozen=True)
class Extension:
    """A sweep to be extended, checked.

    Attributes:
        prepared: the sweep with its new epochs, and the old ladder with one rung more.
        survivors: the trials that go on, the best first.
        earlier: the sweep's result, as ``--json`` printed it.
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
    notify: Callable[[str], None] = lambda _: None,
) -> Extension:
    """Reads and checks all that an extension needs; starts nothing.

    Args:
        epochs: that each fold shall have trained in the end.
        top: how many survivors go on; None: all.

    Raises:
        InputError: epochs that are no more than there were, or a learning rate that was scheduled
            to end with them.
        StateError: no such sweep, one that has not ended or has been refitted, no survivor, or no
            checkpoint.
    """
    folder = find_sweep(root, name)
    folder.check_private()
    earlier, state = folder.read_result(), folder.read_state()
    old = load_spec(folder.spec)
    if old.comparison is not None:
        raise StateError(
            f"{folder.name}: a comparison gives all arms the same epochs; set epochs in a new one"
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
    check_tracking(state.tracking_uri)
    recorder = MlflowWriter(
        connect(state.tracking_uri), state.experiment_id, folder.name, state.key
    )
    if recorder.finished_refit is not None:
        raise StateError(
            f"{folder.name}: its winner has been tested; to choose again would be to choose by the"
            " test"
        )
    spec = _longer(old, epochs)
    prepared = prepare(spec, data_dir, local=local, notify=notify)
    state.check_spec(old.to_yaml(), folder.name)
    state.check_task(prepared.task.reference, prepared.task.digest, folder.name)
    state.check_data(prepared.dataset.name, prepared.dataset.digest, folder.name)
    survivors = _begun(folder, epochs, top)
    if survivors is None:
        found = sorted(
            _survivors(folder, recorder, old.ladder[-1]),
            key=lambda pair: (pair[0], pair[1].number),
        )
        survivors = [survivor for _, survivor in found][:top]
    if not survivors:
        raise StateError(
            f"{folder.name}: no trial was evaluated to the end; there is none to go on with"
        )
    for survivor in survivors:
        _check_schedule(prepared, survivor, old.epochs)
    return Extension(folder, prepared, tuple(survivors), earlier)


def _longer(old: SweepSpec, epochs: int) -> SweepSpec:
    """The sweep's file with more epochs and its ladder with one rung more; without its budget,
    which is spent."""
    ladder = [(rung.folds, rung.epochs) for rung in old.ladder] + [(old.folds.count, epochs)]
    kept = old.scheduler.kind == "fifo"  # which has no ladder
    scheduler = (
        old.scheduler if kept else old.scheduler.model_copy(update={"ladder": tuple(ladder)})
    )
    search = old.search.model_copy(update=dict.fromkeys(("fold_epochs", "time_budget", "target")))
    changed = old.model_copy(update={"epochs": epochs, "scheduler": scheduler, "search": search})
    return parse_spec(changed.model_dump(by_alias=True), Path())  # it will be read again


def _begun(folder: SweepFolder, epochs: int, top: int | None) -> list[Survivor] | None:
    """The survivors of this extension, if it has begun before. Raises: InputError if other ones
    are asked for now."""
    path = _list_of(folder, epochs)
    if not path.is_file():
        return None
    told = [
        Survivor(**{**one, "checkpoint": Path(one["checkpoint"])})
        for one in json.loads(path.read_text())
    ]
    if top is not None and top != len(told):
        raise InputError(
            "--top", top, f"this extension was begun with {len(told)} trials", "leave --top out"
        )
    return told


def _list_of(folder: SweepFolder, epochs: int) -> Path:
    return folder.path / f"extension-{epochs}.json"


def _survivors(
    folder: SweepFolder, recorder: MlflowWriter, top: Rung
) -> list[tuple[float, Survivor]]:
    """(loss, trial) of those that have reached the top rung."""
    found = []
    for number, loss, fold_epochs in recorder.completed_trials(top.folds, top.epochs):
        checkpoint = folder.checkpoint(number, CHECKPOINT_FILE, top.epochs)
        if checkpoint is None:
            raise StateError(
                f"{folder.name}: trial {number} has left no checkpoint in {folder.path}"
            )
        params = load_checkpoint_file(checkpoint / CHECKPOINT_FILE)["params"]
        found.append((loss, Survivor(number, params, checkpoint, min(fold_epochs, top.cost))))
    return found


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
    extension: Extension,
    *,
    make_view: Callable[[], AbstractContextManager[View]],
    address: str | None = None,
) -> tuple[SweepResult, TrialTable]:
    """Trains the survivors on, and gives the sweep a new result: its best is among those that have
    all the epochs now.

    An extension that was interrupted goes on when it is asked for again.

    Raises: as `foldrace.search.sweeps.run.run_sweep`.
    """
    folder, prepared, survivors = extension.folder, extension.prepared, extension.survivors
    state = folder.read_state()
    configs = [
        {"trial": one.number, "params": dict(one.params), "checkpoint": str(one.checkpoint)}
        for one in survivors
    ]
    experiment = folder.extension(prepared.spec.epochs)

    before = sum(one.fold_epochs for one in survivors)

    def run(work: Work, session: RunningSweep, interrupt: Interrupt) -> dict[int, Path]:
        told = [
            {**asdict(one), "params": dict(one.params), "checkpoint": str(one.checkpoint)}
            for one in survivors
        ]
        write_text(_list_of(folder, prepared.spec.epochs), json.dumps(told))
        session.ledger.total = len(configs)
        session.ledger.spent_before = int(extension.earlier["fold_epochs"]) - before
        return run_given_trials(prepared, experiment, configs, work, session, interrupt)

    def conclude(result: SweepResult, ledger: TrialTable) -> SweepResult:
        failed = ledger.count(TrialStatus.FAILED)
        counts = dict(extension.earlier["trials"])
        counts["completed"], counts["failed"] = (
            counts["completed"] - failed,
            counts["failed"] + failed,
        )
        return replace(result, trials=counts)

    outcome = drive(
        prepared,
        lambda: found_again(folder, state, address),
        make_view,
        address,
        run=run,
        conclude=conclude,
    )
    if not outcome[0].interrupted and outcome[0].best is not None:
        _keep_file(folder, prepared.spec.to_yaml(), state.tracking_uri, outcome[0].run_id)
    return outcome


def _keep_file(folder: SweepFolder, text: str, uri: str, run_id: str) -> None:
    """The sweep's file is the longer one from now on, here and in the record; its time tells the
    sweep's age still."""
    times = folder.spec.stat()
    folder.write_state(replace(folder.read_state(), spec=text))
    write_text(folder.spec, text)
    os.utime(folder.spec, ns=(times.st_atime_ns, times.st_mtime_ns))
    if waiting_records(folder.path):  # the store is away
        keep_for_later(folder, Files((), folder.spec.name, "", now_ms()))
    else:
        connect(uri).log_text(run_id, text, "sweep.yaml")
