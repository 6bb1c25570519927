"""Optuna's samplers by their names in a sweep file, each created for each suggestion."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import TrialState

from foldrace.search.sampling.optuna_internals import SobolPoint, StudyView, check
from foldrace.search.sampling.trial_ranking import TrialRanking
from foldrace.search.spec.space import SearchSpace
from foldrace.trainables.training.seeds import derive_seed

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["Samplers"]

_GENERATIONS = 5
_POPULATION = 50  # Optuna's own default


class Samplers:
    """Makes the sampler of each suggestion from (seed, trial number, attempt).

    So a suggestion depends on these and on what the study holds, not on what a process holds in
    memory, and an interrupted sweep continues with the same suggestions.

    ``tpe`` learns from paused trials as from pruned ones (`PausedAsPruned`). ``cmaes``, ``gp`` and
    ``nsga2`` learn from completed trials only. ``cmaes`` and ``nsga2`` keep their state in the
    study; ``gp`` is fitted anew. What ``cmaes`` cannot model (choices, conditional parameters) is
    drawn at random. A new sampler needs its name in `make` and in `SearchSpec.sampler`.

    Args:
        name: ``tpe``, ``random``, ``qmc``, ``cmaes``, ``gp`` or ``nsga2``.
        seed: of the sweep.
        trials: number of trials, if it is known; a population of ``nsga2`` is a fifth of them,
            between 4 and 50.
        first: number of the first trial that ``qmc`` draws; earlier ones have given points.

    Raises:
        FoldraceError: the installed Optuna lacks an internal that is relied on.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        space: SearchSpace,
        *,
        trials: int | None = None,
        first: int = 0,
    ) -> None:
        check()
        self._name, self._seed, self._space, self._first = name, seed, space, first
        distributions = space.to_optuna()
        self._together = {
            name: distributions[name] for name in space.always if not distributions[name].single()
        }
        self._population = (
            _POPULATION if trials is None else min(_POPULATION, max(4, trials // _GENERATIONS))
        )

    def seed_of(self, number: int, attempt: int, purpose: str = "suggest") -> int:
        """The seed of one attempt at a trial's suggestion."""
        parts = (number, purpose, attempt) if attempt else (number, purpose)
        return derive_seed(self._seed, *parts) % 2**32

    def make(
        self,
        number: int,
        attempt: int = 0,
        discarded: int = 0,
        ranking: TrialRanking | None = None,
    ) -> BaseSampler:
        """The sampler of one suggestion.

        Args:
            number: of the trial.
            attempt: how many suggestions for this number were discarded.
            discarded: how many suggestions for all numbers were; ``qmc`` skips their points.
            ranking: of the study's trials; without it ``tpe`` ranks them itself.
        """
        seed = self.seed_of(number, attempt)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns that some samplers are experimental
            if self._name == "random":
                return RandomSampler(seed=seed)
            if self._name == "qmc":
                distributions = self._space.to_optuna() if number >= self._first else {}
                whole = derive_seed(self._seed, "sobol") % 2**32
                return SobolPoint(distributions, number - self._first + discarded, whole, seed)
            if self._name == "cmaes":
                return CmaEsSampler(seed=seed, warn_independent_sampling=False)
            if self._name == "gp":
                return GPSampler(seed=seed, warn_independent_sampling=False)
            if self._name == "nsga2":
                return NSGAIISampler(population_size=self._population, seed=seed)
            assert self._name == "tpe", self._name
            return PausedAsPruned(TPESampler(seed=seed), self._together, ranking)


class PausedAsPruned(BaseSampler):
    """Shows another sampler the trials of a `TrialRanking`: paused trials count as pruned.

    For one suggestion: it reads the study once.

    Args:
        sampler: draws from what it is shown.
        together: distributions of the parameters that every trial has, which are drawn together
            for a single objective. Optuna would look for them in all trials at every suggestion,
            which takes longer than the draw.
        ranking: the study's trials; made from the study if it is None.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        together: Mapping[str, BaseDistribution],
        ranking: TrialRanking | None,
    ) -> None:
        self._sampler, self._together, self._ranking = sampler, together, ranking
        self._view: StudyView | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ranking": None, "_view": None}

    def _shown(self, study: Study) -> Study:
        if self._view is None:
            ranking = self._ranking or TrialRanking(study.get_trials(deepcopy=False))
            self._view = StudyView(study, ranking.shown())
        return self._view

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        # Optuna draws each parameter alone where there are several objectives.
        return dict(self._together) if len(study.directions) == 1 else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(self._shown(study), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._sampler.sample_independent(
            self._shown(study), trial, param_name, param_distribution
        )

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(self._shown(study), trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()
