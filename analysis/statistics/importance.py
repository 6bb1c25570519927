"""Which parameters mattered in a sweep: two importances, both Optuna's.

fANOVA (Hutter, Hoos and Leyton-Brown, 2014) says which parameters explain the loss in the whole
search space. It needs losses of one fidelity, so it uses the completed trials and the parameters
that all of them have.

PED-ANOVA (Watanabe, Bansal and Hutter, 2023; conditional form 2026) says which parameters separate
the best trials from the others. It needs only the ranking, so pruned and failed trials count too,
as worse than any completed one, and a parameter may exist in some trials only.
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
from foldrace.search.spec.distributions import Choice, Fixed

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.importance import BaseImportanceEvaluator

__all__ = ["FEW", "FEWEST", "Importance", "importance"]

FEWEST = 10
"""The fewest trials for which importance is computed; with fewer it is noise."""
FEW = 30
"""With fewer trials the report says that importance may change with the next ten."""

_BEST_SHARE = 0.1
# the number of best trials that Optuna recommends as the fewest
_FEWEST_BEST = 5
_PERMUTATIONS = 60
_CHANCE_LEVEL = 0.95


@dataclass(frozen=True)
class Importance:
    """Importances by parameter, as shares of 1.

    Attributes:
        overall: fANOVA's; empty if too few trials were completed.
        best: PED-ANOVA's.
        chance: the 95 % quantile of ``best`` if the loss does not depend on the parameters, from
            permutations.
        completed: the number of completed trials.
        trials: the number of completed, pruned and failed trials.
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
        """The parameters whose ``best`` is above chance, the most important first."""
        above = [name for name, share in self.best.items() if share > self.chance[name]]
        return tuple(sorted(above, key=lambda name: -self.best[name]))


def importance(record: SweepRecord, seed: int = 0) -> Importance | None:
    """The importance of a sweep's parameters.

    Args:
        record: the sweep.
        seed: of the permutations and of fANOVA's forest.

    Returns:
        None if there are fewer than `FEWEST` trials, none is completed, or no parameter varies.
    """
    parameters = [
        parameter for parameter in record.parameters if _distribution(parameter) is not None
    ]
    completed, worse = record.ranking, _not_completed(record.trials)
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


def _not_completed(trials: pd.DataFrame) -> pd.DataFrame:
    """Pruned trials by the rung that they reached, then by loss; after them the failed ones."""
    early = trials[trials["status"].isin(("pruned", "failed"))]
    return early.sort_values(
        ["status", "folds", "epoch", "val_loss", "trial"],
        ascending=[False, False, False, True, True],
    )


def _of_the_best(
    parameters: Sequence[SearchedParameter], points: Sequence[Mapping[str, Any]], seed: int
) -> tuple[dict[str, float], dict[str, float], int]:
    """PED-ANOVA of points in the order of their rank: shares, chance levels, number of best."""
    from optuna.importance import PedAnovaImportanceEvaluator

    ranks = np.arange(len(points), dtype=float)
    share = max(_BEST_SHARE, _FEWEST_BEST / len(points))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=share)
    raw = _evaluate(evaluator, parameters, points, ranks)
    random = np.random.default_rng(seed)
    by_chance = [
        _evaluate(evaluator, parameters, points, random.permutation(ranks))
        for _ in range(_PERMUTATIONS)
    ]
    total = math.fsum(raw.values()) or 1.0
    limits = {
        name: float(np.quantile([null[name] for null in by_chance], _CHANCE_LEVEL)) / total
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
    """fANOVA of the log loss, or of the loss if it is not positive.

    Without the logarithm most of the variance would be that of the worst trials.
    """
    from optuna.importance import FanovaImportanceEvaluator

    everywhere = [
        parameter for parameter in parameters if all(parameter.name in point for point in points)
    ]
    if not everywhere or losses.min() == losses.max():
        return {}
    values = np.log(losses) if losses.min() > 0 else losses
    # the shares sum to less than 1: interactions are not attributed to any parameter
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
    """The parameter's distribution in Optuna's form, a choice by its text.

    None if the sweep file has no distribution for it, or the arms of a comparison have several.
    """
    from optuna.distributions import CategoricalDistribution

    if len(parameter.entries) != 1:
        return None
    [entry] = parameter.entries
    if isinstance(entry, Fixed):
        return None
    if isinstance(entry, Choice):
        return CategoricalDistribution(parameter.categories)
    return entry.to_optuna()


@contextmanager
def _quiet() -> Iterator[None]:
    """Within this block Optuna neither logs nor warns."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
