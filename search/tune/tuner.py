"""A sweep's trials on Ray Tune: the tuner of a new experiment, or of one that goes on."""

from __future__ import annotations

import math
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.cloudpickle
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from foldrace.errors import StateError, first_line
from foldrace.files import sync_file
from foldrace.search.preparing.prepare import Prepared
from foldrace.search.preparing.resources import trial_slots
from foldrace.search.recording.folder import SweepFolder
from foldrace.search.sampling.journal import open_journal
from foldrace.search.sampling.optuna_search import METRIC, FoldSearch
from foldrace.search.scheduling.asha import Race, Rule
from foldrace.search.scheduling.budget import Budget
from foldrace.search.scheduling.deterministic import OrderedFifo, OrderedPromotion, OrderedStopping
from foldrace.search.scheduling.promotion import PromotionScheduler
from foldrace.search.scheduling.stopping import FifoLadder, LadderScheduler, Live, StoppingLadder
from foldrace.search.spec.sweep_spec import SweepSpec
from foldrace.search.tune.callback import RunningSweep, SweepCallback
from foldrace.search.tune.comparison_search import make_comparison_search
from foldrace.search.tune.interrupts import Interrupt
from foldrace.search.tune.patches import mend_tune
from foldrace.search.tune.snapshots import Snapshots, go_back_to_snapshot, has_snapshot
from foldrace.search.tune.state import TrialRecord
from foldrace.trainables.ray.trainable import FoldTrainable, Work

__all__ = ["make_scheduler", "run_given_trials", "run_trials"]

# A trial's newest. With every so many of them Tune writes the whole experiment down at once, so
# that it never names one that is gone; with one to keep that was at every pause, and the longer
# the more trials there were.
_CHECKPOINTS = 3

# How many trials Tune may hold for which no worker is ready. A FoldSearch hands out none before
# one is free for it. But where only one may wait, and a worker takes longer to start than a trial
# to end, Tune gives that trial to the worker that has just become free, ends the other one's
# start, and begins it anew for the next trial, again and again.
_PENDING = "TUNE_MAX_PENDING_TRIALS_PG"

_SCHEDULERS = {"promotion": PromotionScheduler, "stopping": StoppingLadder, "fifo": FifoLadder}
_IN_ORDER = {"promotion": OrderedPromotion, "stopping": OrderedStopping, "fifo": OrderedFifo}


def make_scheduler(spec: SweepSpec, key: str) -> LadderScheduler:
    """Tune's scheduler for ``scheduler.kind``; it asks the process that it runs in under
    ``key``."""
    wanted, search = spec.scheduler, spec.search
    rule = Rule(reduction_factor=wanted.reduction_factor, brackets=wanted.brackets)
    race = Race(spec.ladder, rule, trials=search.trials)
    budget = Budget(search.fold_epochs, search.time_budget, search.target)
    if search.deterministic:
        return _IN_ORDER[wanted.kind](key, race, budget, slots=search.max_concurrent_trials or 1)
    return _SCHEDULERS[wanted.kind](key, race, budget)


def _slots(spec: SweepSpec) -> int:
    """How many trials can train side by side now."""
    slots = trial_slots(spec.resources.cpu, spec.resources.gpu)
    return min(slots, spec.search.max_concurrent_trials or slots)


def _remembered(ask: Callable[[], int], seconds: float = 1.0) -> Callable[[], int]:
    """``ask``, asked again only after so long: Ray takes milliseconds to answer, a scheduler asks
    at every event."""
    known, until = 0, -math.inf

    def answer() -> int:
        nonlocal known, until
        if time.monotonic() >= until:
            known, until = ask(), time.monotonic() + seconds
        return known

    return answer


def _elapsed(
    folder: SweepFolder, session: RunningSweep, every: float = 10.0
) -> Callable[[], float]:
    """The seconds spent on the sweep; when it is asked, they are kept now and then, so that a time
    budget goes on after a process that was killed."""
    kept = session.ledger.elapsed

    def elapsed() -> float:
        nonlocal kept
        now = session.ledger.elapsed
        if now - kept >= every:
            folder.write_state(replace(folder.read_state(), seconds=now))
            kept = now
        return now

    return elapsed


def run_trials(
    prepared: Prepared,
    folder: SweepFolder,
    work: Work,
    session: RunningSweep,
    interrupt: Interrupt,
) -> dict[int, Path]:
    """Runs all trials of a sweep; returns the checkpoint folders of those that have one, by trial
    number."""
    spec = prepared.spec
    scheduler = make_scheduler(spec, folder.name)
    live = Live(slots=_remembered(lambda: _slots(spec)), elapsed=_elapsed(folder, session))
    if prepared.arms:
        search: dict[str, Any] = {
            "search_alg": make_comparison_search(prepared),
            "scheduler": FIFOScheduler(),
            "num_samples": spec.planned_trials,
            "max_concurrent_trials": spec.search.max_concurrent_trials,
        }
    else:
        drawn = _search(prepared, folder)
        drawn.gate = (
            scheduler  # which ends the search, and counts the trials that run side by side
        )
        if isinstance(scheduler, OrderedPromotion):
            scheduler.listener = drawn
        search = {"search_alg": drawn, "scheduler": scheduler, "num_samples": -1}
    with scheduler.acting_on(live):
        return _fit(prepared, folder.tune, search, work, session, interrupt)


def run_given_trials(
    prepared: Prepared,
    experiment: Path,
    configs: Sequence[Mapping[str, Any]],
    work: Work,
    session: RunningSweep,
    interrupt: Interrupt,
) -> dict[int, Path]:
    """Runs the trials of these configurations, each to the end, as an experiment of their own."""
    search = {
        "search_alg": _Given(configs),
        "scheduler": FIFOScheduler(),
        "num_samples": len(configs),
        "max_concurrent_trials": prepared.spec.search.max_concurrent_trials,
    }
    return _fit(prepared, experiment, search, work, session, interrupt)


def _fit(
    prepared: Prepared,
    experiment: Path,
    search: Mapping[str, Any],
    work: Work,
    session: RunningSweep,
    interrupt: Interrupt,
) -> dict[int, Path]:
    resources = prepared.spec.resources
    module = sys.modules[type(prepared.task.implementation).__module__]
    if module.__name__.startswith("_foldrace_"):
        ray.cloudpickle.register_pickle_by_value(
            module
        )  # workers cannot import it: it has no place on their path
    callback = SweepCallback(f"{experiment.parent.name}/{experiment.name}")
    trainable = tune.with_resources(
        tune.with_parameters(FoldTrainable, work=work),
        {"cpu": resources.cpu, "gpu": resources.gpu},
    )
    mend_tune()
    go_back_to_snapshot(experiment)
    tuner = _restored_tuner(experiment, trainable)
    if tuner is None:
        tuner = _new_tuner(
            experiment, trainable, callback, search, prepared.spec.limits.max_failures
        )
    journal = SweepFolder(experiment.parents[1], experiment.parent.name).optuna

    def settle() -> None:
        session.recorder.sync()
        sync_file(journal)

    def stop(record: TrialRecord) -> None:
        if not interrupt.asked:
            session.view.say(
                f"Stopping at the first failure (limits.fail_fast): {record.name} has failed."
            )
            interrupt.stop()

    on_failure = stop if prepared.spec.limits.fail_fast else None
    with callback.acting_on(
        replace(session, snapshots=Snapshots(experiment, settle), on_failure=on_failure)
    ):
        os.environ[_PENDING] = "1000" if isinstance(search["search_alg"], FoldSearch) else "1"
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


def _restored_tuner(experiment: Path, trainable: Any) -> tune.Tuner | None:
    """Tune's experiment in this folder; None if there is none, or one that was cut off before its
    first snapshot and cannot be read. Raises: StateError, if another cannot be read."""
    if not tune.Tuner.can_restore(str(experiment)):
        return None
    try:
        return tune.Tuner.restore(str(experiment), trainable=trainable, resume_unfinished=True)
    except Exception as error:  # whatever unpickling half a file comes to
        if has_snapshot(experiment):
            raise StateError(
                f"{experiment}: Tune's state cannot be read: {first_line(error)}"
            ) from error
        shutil.rmtree(experiment)
        return None


def _new_tuner(
    experiment: Path,
    trainable: Any,
    callback: SweepCallback,
    search: Mapping[str, Any],
    max_failures: int,
) -> tune.Tuner:
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="min",
            **search,
            reuse_actors=True,
            trial_name_creator=lambda trial: f"trial-{trial.config['trial']:04d}",
            trial_dirname_creator=lambda trial: f"trial-{trial.config['trial']:04d}",
        ),
        run_config=tune.RunConfig(
            name=experiment.name,
            storage_path=str(experiment.parent),
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=_CHECKPOINTS),
            verbose=0,
        ),
    )


def _search(prepared: Prepared, folder: SweepFolder) -> FoldSearch:
    search = prepared.spec.search
    return FoldSearch(
        prepared.space,
        sampler=search.sampler,
        seed=search.seed,
        start_with=prepared.start_with,
        trials=search.trials,
        storage=open_journal(folder.optuna),
        warm=prepared.warm_start.trials if prepared.warm_start else (),
        objectives=search.objectives,
        in_order=search.deterministic,
    )


class _Given(Searcher):  # type: ignore[misc]
    """Hands out configurations that are there already, each once."""

    def __init__(self, configs: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(metric=METRIC, mode="min")
        self._configs = [dict(config) for config in configs]
        self._given: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        if trial_id not in self._given:
            if len(self._given) == len(self._configs):
                return str(Searcher.FINISHED)
            self._given[trial_id] = len(self._given)
        return self._configs[self._given[trial_id]]

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing is learned."""

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_bytes(pickle.dumps(self._given))

    def restore(self, checkpoint_path: str) -> None:
        self._given = pickle.loads(Path(checkpoint_path).read_bytes())
