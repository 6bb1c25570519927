"""What Ray Tune is asked to run: the searcher and the scheduler of a sweep, and its trials."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from foldrace.search.preparing.prepared import Prepared
from foldrace.search.preparing.resources import trial_slots
from foldrace.search.recording.folder import SweepFolder
from foldrace.search.sampling.journal import open_journal
from foldrace.search.sampling.optuna_search import METRIC, FoldSearch
from foldrace.search.scheduling.asha import Race
from foldrace.search.scheduling.base import FifoLadder, LadderScheduler, RunState
from foldrace.search.scheduling.bracket import Rule
from foldrace.search.scheduling.budget import Budget
from foldrace.search.scheduling.deterministic import (
    DeterministicFifo,
    DeterministicPromotion,
    DeterministicStopping,
)
from foldrace.search.scheduling.promotion import PromotionScheduler
from foldrace.search.scheduling.stopping import StoppingLadder
from foldrace.search.spec.sweep_spec import SweepSpec
from foldrace.search.tune.comparison_search import make_comparison_search
from foldrace.search.tune.state import TrialTable
from foldrace.trainables.tasks.objective import LOSS, Objective

__all__ = [
    "Experiment",
    "comparison_experiment",
    "given_experiment",
    "make_run_state",
    "make_scheduler",
    "sweep_experiment",
]

_SCHEDULERS = {"promotion": PromotionScheduler, "stopping": StoppingLadder, "fifo": FifoLadder}
_DETERMINISTIC = {
    "promotion": DeterministicPromotion,
    "stopping": DeterministicStopping,
    "fifo": DeterministicFifo,
}


@dataclass(frozen=True)
class Experiment:
    """A Tune experiment.

    Attributes:
        path: its folder; if that holds a saved state, the experiment continues from it.
        scheduler: a `LadderScheduler`, or Ray's FIFOScheduler, which trains every trial fully.
        trials: how many there are; None: until the searcher says that it has finished.
        concurrent: how many may run side by side; None: as many as there are workers.
        pending: how many trials Tune may hold for which no worker is ready.
    """

    path: Path
    searcher: Searcher
    scheduler: TrialScheduler
    trials: int | None = None
    concurrent: int | None = None
    pending: int = 1


def sweep_experiment(prepared: Prepared, folder: SweepFolder) -> Experiment:
    """The trials that the sweep's sampler draws, under the sweep's scheduler."""
    spec = prepared.spec
    scheduler = make_scheduler(spec, folder.began_as, prepared.objective)
    searcher = FoldSearch(
        prepared.space,
        sampler=spec.search.sampler,
        seed=spec.search.seed,
        start_with=prepared.start_with,
        trials=spec.search.trials,
        storage=open_journal(folder.optuna),
        warm=prepared.warm_start.trials if prepared.warm_start else (),
        objectives=spec.search.objectives,
        in_order=spec.search.deterministic,
    )
    # the scheduler ends the search, and counts the trials that run side by side
    searcher.gate = scheduler
    if isinstance(scheduler, DeterministicPromotion):
        scheduler.listener = searcher
    # A FoldSearch draws no trial before a worker is free for it. But if only one trial may be
    # pending, and a worker takes longer to start than a trial to end, Tune gives that trial to the
    # worker that has just become free, ends the start of the other one, and starts it again for
    # the next trial, again and again.
    return Experiment(folder.tune, searcher, scheduler, pending=1000)


def comparison_experiment(prepared: Prepared, folder: SweepFolder) -> Experiment:
    """The trials of a comparison's plan, each trained to the end."""
    return Experiment(
        folder.tune,
        make_comparison_search(prepared),
        FIFOScheduler(),
        prepared.spec.planned_trials,
        prepared.spec.search.max_concurrent_trials,
    )


def given_experiment(
    prepared: Prepared, path: Path, configs: Sequence[Mapping[str, Any]]
) -> Experiment:
    """The trials with these configurations, each trained to the end."""
    return Experiment(
        path,
        _GivenSearch(configs),
        FIFOScheduler(),
        len(configs),
        prepared.spec.search.max_concurrent_trials,
    )


def make_scheduler(spec: SweepSpec, key: str, objective: Objective = LOSS) -> LadderScheduler:
    """Tune's scheduler for ``scheduler.kind``. It finds its `RunState` under ``key``.

    Args:
        objective: what the target is a value of.
    """
    wanted, search = spec.scheduler, spec.search
    rule = Rule(reduction_factor=wanted.reduction_factor, brackets=wanted.brackets)
    race = Race(spec.ladder, rule, trials=search.trials)
    target = None if search.target is None else objective.loss(search.target)
    budget = Budget(search.fold_epochs, search.time_budget, target)
    if search.deterministic:
        slots = search.max_concurrent_trials or 1
        return _DETERMINISTIC[wanted.kind](key, race, budget, slots=slots)
    return _SCHEDULERS[wanted.kind](key, race, budget)


# --- what schedulers read of the running sweep ---------------------------------------------------


def make_run_state(spec: SweepSpec, folder: SweepFolder, trials: TrialTable) -> RunState:
    """The free slots of Ray's nodes, and the sweep's clock."""
    return RunState(slots=_cached(lambda: _slots(spec)), elapsed=_saving_elapsed(folder, trials))


def _slots(spec: SweepSpec) -> int:
    """How many trials can train side by side now."""
    slots = trial_slots(spec.resources.cpu, spec.resources.gpu)
    return min(slots, spec.search.max_concurrent_trials or slots)


def _cached(ask: Callable[[], int], seconds: float = 1.0) -> Callable[[], int]:
    """``ask``, called at most once in ``seconds``: Ray takes milliseconds to answer, and a
    scheduler asks at every event."""
    known, until = 0, -math.inf

    def answer() -> int:
        nonlocal known, until
        if time.monotonic() >= until:
            known, until = ask(), time.monotonic() + seconds
        return known

    return answer


def _saving_elapsed(
    folder: SweepFolder, trials: TrialTable, every: float = 10.0
) -> Callable[[], float]:
    """The seconds spent on the sweep. They are saved about every ten seconds when they are asked
    for, so that a killed sweep keeps its share of the time budget."""
    saved = trials.elapsed

    def elapsed() -> float:
        nonlocal saved
        now = trials.elapsed
        if now - saved >= every:
            folder.write_state(replace(folder.read_state(), seconds=now))
            saved = now
        return now

    return elapsed


class _GivenSearch(Searcher):  # type: ignore[misc]
    """Suggests the given configurations, each once."""

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
        """Does nothing: no suggestion depends on a result."""

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_bytes(pickle.dumps(self._given))

    def restore(self, checkpoint_path: str) -> None:
        self._given = pickle.loads(Path(checkpoint_path).read_bytes())
