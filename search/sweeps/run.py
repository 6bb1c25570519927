"""The main job: a cross-validated sweep, from a checked spec to a recorded result."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from foldrace.errors import InputError, StateError, first_line
from foldrace.files import sync_all, write_text
from foldrace.search.preparing.prepare import Prepared
from foldrace.search.preparing.resources import (
    check_resources,
    check_shared,
    largest_node,
    requested,
)
from foldrace.search.preparing.warm_start import with_warm_start
from foldrace.search.recording.folder import (
    ARTIFACTS,
    SweepFolder,
    SweepState,
    check_root,
    create_sweep_folder,
)
from foldrace.search.recording.schema import Outcome
from foldrace.search.recording.sweep_outbox import OutboxSink, deliver_rest, recording
from foldrace.search.recording.tracking import check_tracking, connect, tracking_uri
from foldrace.search.recording.writer import MlflowWriter
from foldrace.search.spec.sweep_spec import SweepSpec
from foldrace.search.sweeps.comparison_result import log_reconstructions
from foldrace.search.sweeps.environment import describe_environment
from foldrace.search.sweeps.models import log_fold_models
from foldrace.search.sweeps.result import SweepResult, closing_tags, make_result, note
from foldrace.search.tune.callback import RunningSweep
from foldrace.search.tune.interrupts import Interrupt, graceful_interrupt
from foldrace.search.tune.progress import View
from foldrace.search.tune.session import ray_session
from foldrace.search.tune.state import TrialTable
from foldrace.search.tune.tuner import run_trials
from foldrace.trainables.ray.limits import Limits
from foldrace.trainables.ray.trainable import Work
from foldrace.trainables.training.fold import EarlyStopping
from foldrace.trainables.training.process import Precision
from foldrace.trainables.training.seeds import derive_seed
from foldrace.trainables.training.splits import Split

__all__ = ["drive", "found_again", "make_work", "resume_sweep", "run_sweep", "without_effect"]


def make_work(prepared: Prepared) -> Work:
    """What the trials of a sweep share."""
    spec = prepared.spec
    return Work(
        task=prepared.task,
        images=prepared.dataset.images,
        splits=tuple(prepared.folds.split()),
        epochs=spec.epochs,
        seed=spec.search.seed,
        objective=spec.objective,
        early_stopping=EarlyStopping(spec.early_stopping.patience, spec.early_stopping.min_delta),
        threads=max(1, int(spec.resources.cpu)),
        gpu=spec.resources.gpu > 0,
        fused=spec.training.fused,
        precision=Precision(spec.training.precision),
        positions=prepared.dataset.positions,
        picture_epochs=frozenset(rung.epochs for rung in spec.ladder[:-1]),
        ladder=spec.ladder,
        limits=Limits(spec.limits.trial_timeout, spec.limits.memory),
        repeat_splits=tuple(_repeat_splits(prepared)),
    )


def _repeat_splits(prepared: Prepared) -> Iterator[tuple[Split, ...]]:
    """The folds of each repeat of a comparison, drawn anew."""
    comparison = prepared.spec.comparison
    for repeat in range(1, comparison.repeats + 1) if comparison else ():
        seed = derive_seed(prepared.folds.seed, "repeat", repeat) % 2**32
        yield tuple(replace(prepared.folds, seed=seed).split())


def run_sweep(
    prepared: Prepared,
    root: Path,
    *,
    make_view: Callable[[], AbstractContextManager[View]],
    address: str | None = None,
) -> tuple[SweepResult, TrialTable]:
    """Runs the sweep and records it.

    Args:
        root: the folder of all sweeps; this one gets a folder of its own in it.
        make_view: called when the sweep starts, for where it shows itself.
        address: of a Ray cluster; None starts a Ray on this machine and shuts it down.

    Raises:
        InputError: the trials ask for more than the cluster has; nothing has been started then.
        StateError: Ray or the tracking server cannot be reached.
    """
    spec = prepared.spec
    check_root(root)
    uri = tracking_uri(root, spec.tracking.uri)
    check_tracking(uri)
    prepared = with_warm_start(prepared, root, uri)

    def begin() -> tuple[SweepFolder, SweepState]:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError("--dir", str(root), f"cannot be made: {error.strerror}") from error
        if address is not None:
            check_shared(root)
        experiment = _experiment(spec.tracking.experiment or spec.name, root, uri)
        folder = create_sweep_folder(root, spec.name)
        write_text(folder.spec, spec.to_yaml())
        state = SweepState(
            uuid.uuid4().hex,
            uri,
            experiment,
            dataset_digest=prepared.dataset.digest,
            spec=spec.to_yaml(),
            task_digest=prepared.task.digest,
        )
        folder.write_state(state)
        return folder, state

    return drive(prepared, begin, make_view, address)


def resume_sweep(
    prepared: Prepared,
    folder: SweepFolder,
    *,
    make_view: Callable[[], AbstractContextManager[View]],
    address: str | None = None,
) -> tuple[SweepResult, TrialTable]:
    """Goes on with a sweep that was interrupted, from its last saved state; ``prepared`` is of the
    sweep's own file.

    Trials that had not ended go on from their last checkpoint, or from their beginning if they had
    none: their numbers are those that they would have had.

    Raises: as `run_sweep`; StateError too if the sweep's file, the task's or the data has changed,
        or if another
    process runs the sweep.
    """
    folder.check_private()
    state = folder.read_state()
    state.check_spec(prepared.spec.to_yaml(), folder.name)
    state.check_task(prepared.task.reference, prepared.task.digest, folder.name)
    state.check_data(prepared.dataset.name, prepared.dataset.digest, folder.name)
    check_tracking(state.tracking_uri)
    return drive(prepared, lambda: found_again(folder, state, address), make_view, address)


def found_again(
    folder: SweepFolder, state: SweepState, address: str | None
) -> tuple[SweepFolder, SweepState]:
    """The folder and the state of a sweep that goes on. Raises: InputError if not all of a cluster
    sees the folder."""
    if address is not None:
        check_shared(folder.path)
    return folder, state


def drive(
    prepared: Prepared,
    begin: Callable[[], tuple[SweepFolder, SweepState]],
    make_view: Callable[[], AbstractContextManager[View]],
    address: str | None,
    *,
    run: Callable[[Work, RunningSweep, Interrupt], dict[int, Path]] | None = None,
    conclude: Callable[[SweepResult, TrialTable], SweepResult] = lambda result, _: result,
) -> tuple[SweepResult, TrialTable]:
    """What every sweep does around its trials: Ray, the record, the view, the result.

    Args:
        begin: makes or finds the sweep's folder, once it is sure that there is a Ray for it.
        run: runs the trials and returns their checkpoints; the sweep's own (`run_trials`) if it is
            None.
        conclude: has the last word on the result.
    """
    spec, started = prepared.spec, time.monotonic()
    with ExitStack() as stack:
        view = stack.enter_context(make_view())
        interrupt = stack.enter_context(graceful_interrupt(view.say))
        stack.enter_context(ray_session(address, spec))
        check_resources(spec.resources.cpu, spec.resources.gpu, largest_node())
        folder, state = begin()
        if address is not None:
            asked = spec.resources.cpu, spec.resources.gpu, spec.search.max_concurrent_trials
            stack.enter_context(requested(*asked))
        stack.enter_context(folder.locked())
        view.say(f"{folder.name}: in {folder.path}")
        if prepared.warm_start is not None:
            view.say(str(prepared.warm_start))
        for line in without_effect(spec):
            view.say(line)
        recorder = MlflowWriter(
            connect(state.tracking_uri), state.experiment_id, folder.name, state.key, folder.path
        )
        ledger = TrialTable(total=spec.planned_trials, earlier=state.seconds, started=started)
        _begin_record(recorder, prepared, folder, state, view.say)
        spooled = stack.enter_context(recording(folder, recorder))
        outcome = Outcome.FAILED
        try:
            work = make_work(prepared)
            session = RunningSweep(ledger, spooled, view, prepared.task)
            if run is None:
                checkpoints = run_trials(prepared, folder, work, session, interrupt)
            else:
                checkpoints = run(work, session, interrupt)
            if not interrupt.asked:
                _log_models(prepared, folder, work, session, checkpoints, spooled)
            outcome = Outcome.PRUNED if interrupt.asked else Outcome.COMPLETED
        except KeyboardInterrupt:  # while nothing was being tuned, or asked a second time
            outcome = Outcome.PRUNED
        finally:
            arms = [arm.label for arm in prepared.arms]
            result = make_result(
                folder,
                state,
                recorder,
                ledger,
                interrupted=interrupt.asked,
                arms=arms,
                objectives=spec.search.objectives,
            )
            result = conclude(result, ledger)
            spooled.close(outcome, closing_tags(result), note(result))
            folder.write_state(replace(state, seconds=ledger.elapsed))
        if not interrupt.asked and (
            run is None or result.best is not None
        ):  # a result that is there is not lost
            sync_all(folder.winner)  # a sweep that has a result is whole
            write_text(folder.result, json.dumps(result.to_json(), indent=2))
        return result, ledger


def without_effect(spec: SweepSpec) -> Iterator[str]:
    """What the file asks for in vain where trials have no GPU."""
    if not spec.resources.gpu:
        if spec.training.precision == "tf32":
            yield "training.precision: tf32 changes nothing without a GPU (resources.gpu is 0)"
        if spec.training.fused is True:
            yield (
                "training.fused: folds as one batched program are slower on a CPU than one after"
                " the other"
            )


def _begin_record(
    recorder: MlflowWriter,
    prepared: Prepared,
    folder: SweepFolder,
    state: SweepState,
    notify: Callable[[str], None],
) -> None:
    """Delivers what an earlier session has left, and says in the record what the sweep is. Raises:
    StateError."""
    spec = prepared.spec
    deliver_rest(folder, recorder)
    try:
        recorder.start_sweep(
            folder.spec.read_text(), describe_environment(), prepared.dataset, spec.task, spec.kind
        )
    except Exception as error:  # MLflow's own and those of whatever lies below
        raise StateError(
            f"{state.tracking_uri}: the tracking store cannot be used: {first_line(error)}"
        ) from error


def _log_models(
    prepared: Prepared,
    folder: SweepFolder,
    work: Work,
    session: RunningSweep,
    checkpoints: Mapping[int, Path],
    spooled: OutboxSink,
) -> None:
    """Logs the winner's fold models, and of a comparison what the arms' models make of the same
    test images."""
    ledger, files = session.ledger, cast(Any, spooled)  # in the place of a client and a recorder
    if ledger.best is not None and ledger.best.number in checkpoints:
        log_fold_models(
            files, files, ledger.best, checkpoints[ledger.best.number], work, folder.winner
        )
    if not prepared.arms:
        return
    images = prepared.dataset.test_images
    try:
        log_reconstructions(files, files.sweep_run, ledger, checkpoints, work, images, folder.path)
    except (
        Exception
    ) as error:  # a task of the user's may do anything; a comparison does not fail over a picture
        session.view.say(f"the report will lack the arms' reconstructions: {first_line(error)}")


def _experiment(name: str, root: Path, uri: str) -> str:
    """The id of the experiment of that name, made if it is not there. Raises: StateError."""
    # a server chooses where its artifacts lie; the local store keeps them beside itself, in a
    # folder of a safe name
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-") or "experiment"
    location = (root.resolve() / ARTIFACTS / safe).as_uri() if uri.startswith("sqlite:") else None
    try:
        client = connect(uri)
        known = client.get_experiment_by_name(name)
        if known is None:
            return str(client.create_experiment(name, artifact_location=location))
    except Exception as error:  # MLflow's own and those of whatever database lies below
        raise StateError(
            f"{uri}: the tracking store cannot be used: {first_line(error)}"
        ) from error
    if known.lifecycle_stage != "active":
        raise StateError(
            f"{name}: this MLflow experiment is deleted; restore it, or set tracking.experiment"
        )
    return str(known.experiment_id)
