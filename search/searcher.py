"""OptunaSearch, told the truth: trials that were given up are PRUNED, failed ones FAIL, and suggestions repeat."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from search.space import SearchSpace
from trainables.parameters import Value
from trainables.seeds import derive_seed

__all__ = ["FoldSearch", "make_sampler"]

METRIC = "val_loss"


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """A sampler by its name in the sweep file: ``random`` or ``tpe``."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    assert name == "tpe", name
    return optuna.samplers.TPESampler(seed=seed)


class FoldSearch(OptunaSearch):  # type: ignore[misc]
    """Ray's OptunaSearch with four differences.

    A suggestion carries the trial's number, from 0 in the order of asking. It is drawn by a sampler seeded with
    (seed, number), so it depends on the results known so far and on nothing else, after a restart too. A trial that
    the scheduler gave up is told PRUNED with its values at each count of fold-epochs, where OptunaSearch tells
    COMPLETE with the last value, which mixes fidelities. A trial that failed or diverged is told FAIL.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        sampler: str = "tpe",
        seed: int = 0,
        start_with: Sequence[Mapping[str, Value]] = (),
        storage: optuna.storages.BaseStorage | None = None,
        study_name: str = "foldrace",
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._reported: dict[str, int] = {}
        self._foldrace_space, self._sampler_name, self._base_seed = space, sampler, seed
        super().__init__(
            space=space.suggest,
            metric=METRIC,
            mode="min",
            points_to_evaluate=[dict(point) for point in start_with],
            sampler=make_sampler(sampler, seed),
            storage=storage,
            study_name=study_name,
        )

    @property
    def study(self) -> optuna.Study:
        """The Optuna study behind the sweep."""
        study: optuna.Study = self._ot_study
        return study

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """``{"trial": number, "params": active parameters}``."""
        if trial_id not in self._ot_trials:
            seed = derive_seed(self._base_seed, len(self._ot_trials), "suggest") % 2**32
            self._ot_study.sampler = make_sampler(self._sampler_name, seed)
            self._ot_trials[trial_id] = self._ot_study.ask()
        trial = self._ot_trials[trial_id]
        return {"trial": trial.number, "params": self._foldrace_space.suggest(trial)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Notes the intermediate value at the fold-epochs spent."""
        self._report(trial_id, result)

    def _report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if METRIC in result and self._reported.get(trial_id, 0) < result["fold_epochs"]:
            self._ot_trials[trial_id].report(result[METRIC], result["fold_epochs"])
            self._reported[trial_id] = result["fold_epochs"]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna how the trial ended; a second call for the same trial changes nothing."""
        if trial_id in self._completed_trials:
            return
        self._completed_trials.add(trial_id)
        trial = self._ot_trials[trial_id]
        if result is not None:
            self._report(trial_id, result)  # Tune sends the result that ends a trial here only
        value = None if result is None else result.get(METRIC)
        if error or result is None or (result.get("finished") and (value is None or not math.isfinite(value))):
            self._ot_study.tell(trial, state=TrialState.FAIL)
        elif result.get("finished"):
            self._ot_study.tell(trial, value)
        else:
            self._ot_study.tell(trial, state=TrialState.PRUNED)
