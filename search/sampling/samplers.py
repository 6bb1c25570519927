"""Optuna's samplers by their names in a sweep file, each made anew for every suggestion."""

from __future__ import annotations

import warnings
from bisect import bisect_left, insort
from collections.abc import Container, Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import TrialState

from foldrace.search.spec.space import SearchSpace
from foldrace.trainables.training.seeds import derive_seed

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["Merits", "Samplers", "distributions_of"]

_GENERATIONS = 5
_POPULATION = 50  # Optuna's own
_MOST, _BEST = (
    1000,
    200,
)  # trials that TPE sees, and how many of them are the best whatever their age


def distributions_of(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Optuna's distribution of every tunable parameter, active or not."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    trial = optuna.create_study(sampler=RandomSampler(seed=0)).ask()
    space.draw_all(trial)
    return dict(trial.distributions)


class Samplers:
    """Makes the sampler of a suggestion from (seed, number of the trial, attempt) alone, so that a
    suggestion depends on these and on what the study knows, and on nothing that a process holds in
    memory.

    ``tpe`` learns from trials that wait in a race as from those given up there (`_SeesWaiting`).
    ``cmaes`` and ``nsga2`` keep their state in the study, so they go on where an earlier process
    was; ``gp`` is fitted anew. ``cmaes``, ``gp`` and ``nsga2`` learn from trials evaluated to the
    end, not from those given up. What ``cmaes`` cannot model (choices, parameters under a
    condition) it draws at random.

    Args:
        name: ``tpe``, ``random``, ``qmc``, ``cmaes``, ``gp`` or ``nsga2``.
        trials: how many there will be; a population of ``nsga2`` is a fifth of them, between 4 and
            50.
        first: the number of the first trial that ``qmc`` draws; those before are given points.
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
        self._name, self._seed, self._space, self._first = name, seed, space, first
        distributions = distributions_of(space)
        self._together = {
            name: distributions[name] for name in space.always if not distributions[name].single()
        }
        self._population = (
            _POPULATION if trials is None else min(_POPULATION, max(4, trials // _GENERATIONS))
        )

    def seed_of(self, number: int, attempt: int, purpose: str = "suggest") -> int:
        """The seed of an attempt at a trial's suggestion."""
        parts = (number, purpose, attempt) if attempt else (number, purpose)
        return derive_seed(self._seed, *parts) % 2**32

    def make(
        self, number: int, attempt: int = 0, discarded: int = 0, merits: Merits | None = None
    ) -> BaseSampler:
        """The sampler of one suggestion.

        Args:
            attempt: how often a suggestion for this number was discarded.
            discarded: suggestions discarded so far, of all numbers: ``qmc`` passes over their
                points.
            merits: of the study's trials, if they are at hand.
        """
        seed = self.seed_of(number, attempt)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # that a sampler is experimental is not the user's concern
            if self._name == "random":
                return RandomSampler(seed=seed)
            if self._name == "qmc":
                distributions = distributions_of(self._space) if number >= self._first else {}
                whole = derive_seed(self._seed, "sobol") % 2**32
                return _Sobol(distributions, number - self._first + discarded, whole, seed)
            if self._name == "cmaes":
                return CmaEsSampler(seed=seed, warn_independent_sampling=False)
            if self._name == "gp":
                return GPSampler(seed=seed, warn_independent_sampling=False)
            if self._name == "nsga2":
                return NSGAIISampler(population_size=self._population, seed=seed)
            assert self._name == "tpe", self._name
            return _SeesWaiting(TPESampler(seed=seed), self._together, merits)


class _SeesWaiting(BaseSampler):
    """A sampler to which a trial that has reported counts as given up where it stands, until it
    has ended; and which sees no more than the most telling trials (`Merits`). For one suggestion:
    it looks at the study once.

    In a race nearly all trials wait at a rung until the sweep is over. Optuna calls them running,
    and would learn nothing from them but that somebody is there.

    Args:
        together: the parameters that every trial has, which are drawn as a whole. Optuna would
            look for them in all trials at every suggestion, which takes longer than to draw them.
        merits: of the study's trials; found in the study if it is None.
    """

    def __init__(
        self, sampler: BaseSampler, together: Mapping[str, BaseDistribution], merits: Merits | None
    ) -> None:
        self._sampler, self._together, self._merits = sampler, together, merits
        self._view: Study | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {
            "_sampler": self._sampler,
            "_together": self._together,
            "_merits": None,
            "_view": None,
        }

    def _seen(self, study: Study) -> Study:
        if self._view is None:
            merits = (
                Merits(study.get_trials(deepcopy=False)) if self._merits is None else self._merits
            )
            self._view = cast("Study", _StudyView(study, merits.telling()))
        return self._view

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self._together)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(self._seen(study), trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._sampler.sample_independent(
            self._seen(study), trial, param_name, param_distribution
        )

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(self._seen(study), trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()


class _StudyView:
    """A study in which there is nothing but the trials that a sampler is to see; else the study
    itself."""

    def __init__(self, study: Study, trials: list[FrozenTrial]) -> None:
        self._study, self._trials = study, trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]


class Merits:
    """The trials of a study that a sampler learns from, and how good each is, noted as they
    change: to look at thousands of trials at every suggestion takes longer than to draw it."""

    def __init__(self, trials: Iterable[FrozenTrial] = ()) -> None:
        self._trials: dict[int, FrozenTrial] = {}
        self._running: set[int] = set()  # without a report
        self._reported: list[int] = []
        self._ranked: list[tuple[tuple[bool, int, float], int]] = []
        for trial in trials:
            self.note(trial)

    def note(self, trial: FrozenTrial) -> None:
        """Takes a trial as it stands now; one that is running and has reported counts as
        pruned."""
        number, before = trial.number, self._trials.pop(trial.number, None)
        if before is None or number in self._running:
            self._running.discard(number)
        else:
            del self._ranked[bisect_left(self._ranked, (_merit(before), number))]
            del self._reported[bisect_left(self._reported, number)]
        if trial.intermediate_values or trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            insort(self._reported, number)
            insort(self._ranked, (_merit(trial), number))
        elif trial.state is TrialState.RUNNING:
            self._running.add(number)
        else:
            return
        self._trials[number] = _as_pruned(trial)

    def telling(self) -> list[FrozenTrial]:
        """The trials that TPE is shown, by number. Where more than `_MOST` have reported, these
        are the best of those that got furthest, the newest, and those that run. What it needs for
        a suggestion grows with what it sees, and beyond so many it is the nearest to the best,
        which the newest are, that tell it more."""
        shown = self._reported
        if len(shown) > _MOST:
            shown = [*(number for _, number in self._ranked[:_BEST]), *shown[_BEST - _MOST :]]
        return [self._trials[number] for number in sorted({*shown, *self._running})]


def _merit(trial: FrozenTrial) -> tuple[bool, int, float]:
    """The less the better: complete ones by value, then those that got furthest by their value
    there, as TPE has it."""
    if trial.state is TrialState.COMPLETE:
        return False, 0, trial.values[0]
    values = trial.intermediate_values
    if not values:  # with several objectives
        return True, 1, 0.0
    step = max(values)
    return True, -step, values[step]


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    if trial.state is not TrialState.RUNNING or not trial.intermediate_values:
        return trial
    seen = copy(trial)
    seen.state = TrialState.PRUNED
    return seen


class _Sobol(QMCSampler):
    """A given point of a scrambled Sobol sequence with a dimension for every tunable parameter,
    active or not.

    Optuna's own takes its dimensions from the first trial that has ended and counts its points in
    the study: both depend on what has happened, and a point that an interrupted process has drawn
    would be lost.
    """

    def __init__(
        self, distributions: dict[str, BaseDistribution], position: int, seed: int, rest: int
    ) -> None:
        super().__init__(
            scramble=True,
            seed=seed,
            independent_sampler=RandomSampler(seed=rest),
            warn_independent_sampling=False,
        )
        self._distributions, self._position = distributions, position

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self._distributions)

    def _find_sample_id(self, study: Study, search_space: dict[str, Any]) -> int:
        return self._position
