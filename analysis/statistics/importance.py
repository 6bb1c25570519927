"""Which parameters mattered: two answers to two questions, both Optuna's.

fANOVA (Hutter, Hoos and Leyton-Brown, 2014) tells what explains the loss all over the space. It
needs losses of one fidelity, so it sees completed trials alone, and parameters that all of them
have.

PED-ANOVA (Watanabe, Bansal and Hutter, 2023; its conditional form, 2026) tells what sets the best
trials apart from the others. It needs to know only which trials are the best, so those that were
given up or failed count too, as worse than any completed one, and a parameter may exist in some
trials only.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from foldrace.analysis.records.sweep import SearchedParameter, SweepRecord
from foldrace.search.spec.distributions import Choice, Int, Log, LogInt, Uniform

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.importance import BaseImportanceEvaluator

__all__ = ["FEW", "FEWEST", "Importance", "importance"]

FEWEST = 10
"""Below so many trials importance is noise, and is not shown."""
FEW = 30
"""Below so many trials the figure says that it may change with the next ten."""

_BEST = 0.1
_BEST_FEWEST = 5  # Optuna's advice
_SHUFFLES = 60
_CHANCE = 0.95


@dataclass(frozen=True)
class Importance:
    """By parameter, shares that sum to 1.

    Attributes:
        overall: fANOVA's; empty where too few trials were completed.
        best: PED-ANOVA's.
        chance: what ``best`` stays below in 95 of 100 sweeps in which the loss has nothing to do
            with the parameters (from permutations).
        best_count: how many trials count as the best.
    """

    overall: Mapping[str, float]
    best: Mapping[str, float]
    chance: Mapping[str, float]
    completed: int
    trials: int
    best_count: int

    @property
    def telling(self) -> tuple[str, ...]:
        """The parameters above chance, the most important first."""
        above = [name for name, share in self.best.items() if share > self.chance[name]]
        return tuple(sorted(above, key=lambda name: -self.best[name]))


def importance(record: SweepRecord, seed: int = 0) -> Importance | None:
    """Which parameters mattered in a sweep; None with fewer than `FEWEST` trials, or nothing that
    varies."""
    parameters = [
        parameter for parameter in record.parameters if _distribution(parameter) is not None
    ]
    completed, worse = record.ranking, _not_to_the_end(record.trials)
    numbers = [int(trial) for trial in (*completed["trial"], *worse["trial"])]
    if not parameters or len(numbers) < FEWEST or not len(completed):
        return None
    points = [_point(parameters, trial) for trial in numbers]
    with _quiet():
        best, chance, count = _of_the_best(parameters, points, seed)
        overall: Mapping[str, float] = {}
        if len(completed) >= FEWEST:
            losses = completed["val_loss"].to_numpy(float)
            overall = _overall(parameters, points[: len(losses)], losses, seed)
    return Importance(overall, best, chance, len(completed), len(numbers), count)


def _not_to_the_end(trials: pd.DataFrame) -> pd.DataFrame:
    """Those given up, the ones that got furthest first and the better of equals first; then those
    that failed."""
    early = trials[trials["status"].isin(("pruned", "failed"))]
    order, ascending = (
        ["status", "folds", "epoch", "val_loss", "trial"],
        [False, False, False, True, True],
    )
    return early.sort_values(order, ascending=ascending)


def _of_the_best(
    parameters: Sequence[SearchedParameter], points: Sequence[Mapping[str, Any]], seed: int
) -> tuple[dict[str, float], dict[str, float], int]:
    """PED-ANOVA of points that stand in the order of their rank."""
    from optuna.importance import PedAnovaImportanceEvaluator

    ranks = np.arange(len(points), dtype=float)
    share = max(_BEST, _BEST_FEWEST / len(points))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=share)
    raw = _evaluate(evaluator, parameters, points, ranks)
    random = np.random.default_rng(seed)
    by_chance = [
        _evaluate(evaluator, parameters, points, random.permutation(ranks))
        for _ in range(_SHUFFLES)
    ]
    total = math.fsum(raw.values()) or 1.0
    limits = {
        name: float(np.quantile([null[name] for null in by_chance], _CHANCE)) / total
        for name in raw
    }
    return (
        {name: value / total for name, value in raw.items()},
        limits,
        math.ceil(share * len(points)),
    )


def _overall(
    parameters: Sequence[SearchedParameter],
    points: Sequence[Mapping[str, Any]],
    losses: NDArray[np.float64],
    seed: int,
) -> dict[str, float]:
    """fANOVA of the loss, of its logarithm where it has one: else the worst trials are all that
    there is to explain."""
    from optuna.importance import FanovaImportanceEvaluator

    everywhere = [
        parameter for parameter in parameters if all(parameter.name in point for point in points)
    ]
    if not everywhere or losses.min() == losses.max():
        return {}
    values = np.log(losses) if losses.min() > 0 else losses
    # shares of the forest's variance: what no parameter explains by itself is left over
    return _evaluate(FanovaImportanceEvaluator(seed=seed), everywhere, points, values)


def _evaluate(
    evaluator: BaseImportanceEvaluator,
    parameters: Sequence[SearchedParameter],
    points: Sequence[Mapping[str, Any]],
    values: NDArray[np.float64],
) -> dict[str, float]:
    import optuna
    from optuna.trial import create_trial

    named = ((parameter.name, _distribution(parameter)) for parameter in parameters)
    distributions = {
        name: distribution for name, distribution in named if distribution is not None
    }
    study = optuna.create_study()
    for point, value in zip(points, values, strict=True):
        present = {name: point[name] for name in distributions if name in point}
        known = {name: distributions[name] for name in present}
        study.add_trial(create_trial(params=present, distributions=known, value=float(value)))
    seen = [name for name in distributions if any(name in point for point in points)]
    found = evaluator.evaluate(study, params=seen)
    return {name: float(found.get(name, 0.0)) for name in seen}


def _point(parameters: Sequence[SearchedParameter], trial: int) -> dict[str, Any]:
    return {
        parameter.name: parameter.values[trial]
        for parameter in parameters
        if trial in parameter.values
    }


def _distribution(parameter: SearchedParameter) -> BaseDistribution | None:
    """As Optuna has it (a choice by its text); None where the sweep file does not say how it was
    drawn, or the arms of a comparison differ in that."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if len(parameter.entries) != 1:
        return None
    [entry] = parameter.entries
    if isinstance(entry, Choice):
        return CategoricalDistribution(parameter.categories)
    if isinstance(entry, Uniform):
        return FloatDistribution(*entry.bounds, step=entry.step)
    if isinstance(entry, Log):
        return FloatDistribution(*entry.bounds, log=True)
    if isinstance(entry, Int):
        return IntDistribution(*entry.bounds, step=entry.step or 1)
    if isinstance(entry, LogInt):
        return IntDistribution(*entry.bounds, log=True)
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Within this block Optuna says nothing."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
