"""Runs an experiment on Ray Tune: a new one, or one that continues from its snapshot."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ray import tune

from foldrace.errors import StateError, first_line
from foldrace.files import fsync_path
from foldrace.private import private_folder
from foldrace.search.live_objects import attached
from foldrace.search.preparing.prepared import Prepared
from foldrace.search.recording.folder import SweepFolder
from foldrace.search.sampling.journal import JOURNAL, JournalPlace
from foldrace.search.sampling.optuna_search import METRIC
from foldrace.search.scheduling.base import LadderScheduler
from foldrace.search.tune.callback import RunningSweep, SweepCallback
from foldrace.search.tune.experiments import Experiment, make_run_state
from foldrace.search.tune.interrupts import Interrupt
from foldrace.search.tune.patches import patch_tune, staging_in
from foldrace.search.tune.snapshots import Snapshots, go_back_to_snapshot, has_snapshot
from foldrace.search.tune.state import TrialRecord
from foldrace.trainables.ray.trainable import FoldTrainable
from foldrace.trainables.ray.work import Work

__all__ = ["run_experiment"]

log = logging.getLogger(__name__)

# How many checkpoints Tune keeps of each trial. Whenever it has replaced this many of a trial, it
# writes the whole experiment's state at once, so that this never names a checkpoint that is gone.
# With one to keep, that was at every pause, and took longer with every trial.
_CHECKPOINTS = 3

_PENDING = "TUNE_MAX_PENDING_TRIALS_PG"


def run_experiment(
    experiment: Experiment,
    prepared: Prepared,
    folder: SweepFolder,
    work: Work,
    sweep: RunningSweep,
    interrupt: Interrupt,
) -> dict[int, Path]:
    """Runs the experiment's trials until all have ended, or until it is interrupted.

    Args:
        work: what the trials share.
        sweep: what their events act on.

    Returns:
        The last checkpoint's folder of each trial that has one, by the trial's number.

    Raises:
        StateError: the saved state of an earlier session cannot be read.
    """
    callback = SweepCallback(f"{folder.began_as}/{experiment.path.name}")

    def settle() -> None:
        sweep.events.sync()
        fsync_path(folder.optuna)

    os.environ[_PENDING] = str(experiment.pending)
    with ExitStack() as stack:
        staging = stack.enter_context(TemporaryDirectory(dir=private_folder("tune")))
        stack.enter_context(staging_in(Path(staging)))
        stack.enter_context(attached(JOURNAL, JournalPlace(folder.optuna)))
        seen = replace(work, seen=str(folder.spec))
        tuner = _make_tuner(experiment, prepared, seen, callback)
        sweep = replace(
            sweep,
            snapshots=Snapshots(experiment.path, settle),
            on_failure=_stopping(interrupt) if prepared.spec.limits.fail_fast else None,
        )
        stack.enter_context(_attached(experiment, prepared, folder, sweep))
        stack.enter_context(callback.acting_on(sweep))
        interrupt.tuning = True
        try:
            results = tuner.fit()
        finally:
            interrupt.tuning = False
    return {
        result.config["trial"]: Path(result.checkpoint.path)
        for result in results
        if result.checkpoint
    }


def _make_tuner(
    experiment: Experiment, prepared: Prepared, work: Work, callback: SweepCallback
) -> tune.Tuner:
    """The tuner of a new experiment, or of one that continues from its snapshot."""
    resources = prepared.spec.resources
    trainable = tune.with_resources(
        tune.with_parameters(FoldTrainable, work=work),
        {"cpu": resources.cpu, "gpu": resources.gpu},
    )
    patch_tune()
    go_back_to_snapshot(experiment.path)
    tuner = _restored_tuner(experiment.path, trainable)
    if tuner is None:
        tuner = _new_tuner(experiment, trainable, callback, prepared.spec.limits.max_failures)
    return tuner


def _attached(
    experiment: Experiment, prepared: Prepared, folder: SweepFolder, sweep: RunningSweep
) -> AbstractContextManager[None]:
    if isinstance(experiment.scheduler, LadderScheduler):
        state = make_run_state(prepared.spec, folder, sweep.trials)
        return experiment.scheduler.acting_on(state)
    return nullcontext()


def _stopping(interrupt: Interrupt) -> Callable[[TrialRecord], None]:
    """Stops the experiment at the first failure."""

    def stop(trial: TrialRecord) -> None:
        if not interrupt.asked:
            text = "Stopping at the first failure (limits.fail_fast): %s has failed."
            log.info(text, trial.name)
            interrupt.stop()

    return stop


def _restored_tuner(path: Path, trainable: Any) -> tune.Tuner | None:
    """The tuner of the experiment in this folder. None if there is none, or if it was killed
    before its first snapshot and cannot be read; then its folder is removed.

    Raises:
        StateError: an experiment with a snapshot, or one of another version, cannot be read.
    """
    if not tune.Tuner.can_restore(str(path)):
        return None
    try:
        return tune.Tuner.restore(str(path), trainable=trainable, resume_unfinished=True)
    except Exception as error:  # unpickling a truncated file can raise anything
        # a name that is not found is no truncated file: another version wrote it
        if has_snapshot(path) or isinstance(error, (ImportError, AttributeError)):
            reason = f"Tune's state cannot be read: {first_line(error)}"
            raise StateError(f"{path}: {reason}") from error
        shutil.rmtree(path)
        return None


def _new_tuner(
    experiment: Experiment, trainable: Any, callback: SweepCallback, max_failures: int
) -> tune.Tuner:
    def name(trial: Any) -> str:
        return f"trial-{trial.config['trial']:04d}"

    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="min",
            search_alg=experiment.searcher,
            scheduler=experiment.scheduler,
            num_samples=-1 if experiment.trials is None else experiment.trials,
            max_concurrent_trials=experiment.concurrent,
            reuse_actors=True,
            trial_name_creator=name,
            trial_dirname_creator=name,
        ),
        run_config=tune.RunConfig(
            name=experiment.path.name,
            storage_path=str(experiment.path.parent),
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=_CHECKPOINTS),
            verbose=0,
        ),
    )
