"""Replays recorded curves under scheduling policies: the cost of each, and what it finds."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from foldrace.analysis.records.recorded_curves import Curves
from foldrace.analysis.simulate.policies import POLICIES, STANDARD
from foldrace.analysis.simulate.virtual_tune import Completion, RecordedSteps, VirtualTune
from foldrace.errors import InputError, nearest
from foldrace.trainables.training.ladder import Rung

__all__ = [
    "SHARES",
    "PolicyResult",
    "RegretCurve",
    "SimulatedSweep",
    "Simulation",
    "quartiles",
    "rank_correlations",
    "simulate",
]

log = logging.getLogger(__name__)

SHARES = (0.05, 0.1, 0.2, 0.4)
"""The shares of full cross-validation's cost at which the regret is read."""
_TOP = 3
_CURVE_POINTS = 300


@dataclass(frozen=True)
class SimulatedSweep:
    """One policy on one order of the configurations.

    Attributes:
        completions: the completed configurations, in order.
        fold_epochs: spent in all.
        seconds: virtual time to the end.
    """

    completions: Sequence[Completion]
    fold_epochs: int
    seconds: float


@dataclass(frozen=True)
class RegretCurve:
    """Regret against cost, (F,) each: fold-epochs, mean over the orders, its standard error."""

    fold_epochs: NDArray[np.float64]
    mean: NDArray[np.float64]
    error: NDArray[np.float64]


@dataclass(frozen=True)
class PolicyResult:
    """One policy on O orders of the configurations.

    Regret is how much worse the best completed configuration is than the best of all, relative to
    the latter. Before any completion it is that of the median configuration.

    Attributes:
        fold_epochs_to_top: (O,) spent when the first of the three best configurations completed;
            infinite if none did.
        seconds_to_top: (O,) the same on the virtual clock.
        regret: (O,) after each share of full cross-validation's cost.
        without_winner: by share: the proportion of orders without any completion by then.
        final_regret: (O,) at the end.
        best_kept: the proportion of orders in which the best configuration wins.
        total_fold_epochs: (O,) spent in all.
        total_seconds: (O,) virtual time to the end.
        regret_curve: the mean regret against the cost.
    """

    fold_epochs_to_top: NDArray[np.float64]
    seconds_to_top: NDArray[np.float64]
    regret: Mapping[float, NDArray[np.float64]]
    without_winner: Mapping[float, float]
    final_regret: NDArray[np.float64]
    best_kept: float
    total_fold_epochs: NDArray[np.float64]
    total_seconds: NDArray[np.float64]
    regret_curve: RegretCurve

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; infinite numbers are null."""
        regret = {f"{share:g}": _number(values.mean()) for share, values in self.regret.items()}
        return {
            "fold_epochs_to_top3": _named_quartiles(self.fold_epochs_to_top),
            "seconds_to_top3": _named_quartiles(self.seconds_to_top),
            "regret": regret,
            "without_winner": {f"{share:g}": rate for share, rate in self.without_winner.items()},
            "final_regret": _number(self.final_regret.mean()),
            "best_kept": self.best_kept,
            "total_fold_epochs": _number(np.median(self.total_fold_epochs)),
            "total_seconds": _number(np.median(self.total_seconds)),
        }


@dataclass(frozen=True)
class Simulation:
    """Policies on the same orders of the same configurations."""

    curves: Curves
    orders: int
    workers: int
    policies: Mapping[str, PolicyResult]

    def to_json(self) -> dict[str, Any]:
        """As ``foldrace simulate --json`` prints it."""
        count, folds, epochs = self.curves.shape
        return {
            "configurations": count,
            "folds": folds,
            "epochs": epochs,
            "orders": self.orders,
            "workers": self.workers,
            "policies": {name: result.to_json() for name, result in self.policies.items()},
        }


def simulate(
    curves: Curves,
    policies: Sequence[str] = STANDARD,
    *,
    workers: int = 1,
    orders: int = 200,
    seed: int = 0,
) -> Simulation:
    """Runs each policy over the curves, on the same random orders of the configurations.

    Args:
        policies: names of `POLICIES`.
        workers: how many trials train at a time, at least 1.
        orders: how many random orders are drawn, at least 1.
        seed: of these orders.

    Raises:
        InputError: an unknown policy, or a number below 1.
    """
    for name in policies:
        if name not in POLICIES:
            raise InputError("--policies", name, "is not a policy", nearest(name, POLICIES))
    for option, value in (("--workers", workers), ("--orders", orders)):
        if value < 1:
            raise InputError(option, value, "must be a whole number at least 1")
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(len(curves.loss)).tolist() for _ in range(orders)]
    results = {}
    for name in dict.fromkeys(policies):
        policy = POLICIES[name]
        log.info("%s: %s", name, policy.description)
        steps = RecordedSteps(curves, policy.build(curves)[1])
        sweeps = [
            _run(VirtualTune(policy.build(curves)[0], steps, order, workers)) for order in drawn
        ]
        results[name] = _measure(curves, sweeps)
    return Simulation(curves, orders, workers, results)


def _run(sweep: VirtualTune) -> SimulatedSweep:
    completions = sweep.run()
    return SimulatedSweep(completions, sweep.fold_epochs, sweep.now)


def _measure(curves: Curves, sweeps: Sequence[SimulatedSweep]) -> PolicyResult:
    count, folds, epochs = curves.shape
    cost = count * folds * epochs
    best = float(curves.final.min())
    median = float(np.median(curves.final[np.isfinite(curves.final)]))
    first = [_first_of_the_best(curves, sweep) for sweep in sweeps]
    steps = [_winner_steps(curves, sweep) for sweep in sweeps]

    def winners(fold_epochs: ArrayLike) -> NDArray[np.float64]:
        """(O, …) by order: the lowest loss of a completed configuration; infinite if none is."""
        return np.stack(
            [losses[np.searchsorted(at, fold_epochs, side="right")] for at, losses in steps]
        )

    def regrets(fold_epochs: ArrayLike) -> NDArray[np.float64]:
        losses = winners(fold_epochs)
        # regret is relative, unless the best loss is 0
        return (np.where(np.isinf(losses), median, losses) - best) / (abs(best) or 1.0)

    points = np.geomspace(epochs, cost, _CURVE_POINTS)
    curve = regrets(points)
    error = curve.std(axis=0) / math.sqrt(len(sweeps))
    return PolicyResult(
        fold_epochs_to_top=np.array(
            [math.inf if one is None else one.fold_epochs for one in first]
        ),
        seconds_to_top=np.array([math.inf if one is None else one.seconds for one in first]),
        regret={share: regrets(share * cost) for share in SHARES},
        without_winner={share: float(np.isinf(winners(share * cost)).mean()) for share in SHARES},
        final_regret=regrets(math.inf),
        best_kept=float((winners(math.inf) == best).mean()),
        total_fold_epochs=np.array([sweep.fold_epochs for sweep in sweeps], dtype=np.float64),
        total_seconds=np.array([sweep.seconds for sweep in sweeps]),
        regret_curve=RegretCurve(points, curve.mean(axis=0), error),
    )


def _first_of_the_best(curves: Curves, sweep: SimulatedSweep) -> Completion | None:
    top = set(curves.ranking[:_TOP].tolist())
    return next((one for one in sweep.completions if one.configuration in top), None)


def _winner_steps(
    curves: Curves, sweep: SimulatedSweep
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The best completed loss as a step function: (A,) fold-epochs of the completions, and
    (A + 1,) the loss before the first of them and after each."""
    losses = [curves.final[one.configuration] for one in sweep.completions]
    at = np.array([one.fold_epochs for one in sweep.completions], dtype=np.float64)
    return at, np.minimum.accumulate([math.inf, *losses])


def rank_correlations(curves: Curves, ladder: Sequence[Rung]) -> Mapping[Rung, float]:
    """Spearman's rank correlation of each rung's score with the final score.

    It is taken over the configurations with a finite final score, and is NaN where all scores of
    the rung, or all final ones, are equal.
    """
    finite = np.isfinite(curves.final)
    final = curves.final[finite]

    def correlation(rung: Rung) -> float:
        scores = curves.loss[finite, : rung.folds, rung.epochs - 1].mean(axis=1)
        if min(len(set(scores)), len(set(final))) < 2:
            return math.nan
        return float(spearmanr(scores, final).statistic)

    return {rung: correlation(rung) for rung in ladder}


def quartiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) the quartiles, each of them one of the values: an infinite one must not be averaged.

    >>> quartiles(np.array([1.0, 2.0, np.inf])).tolist()
    [1.0, 2.0, 2.0]
    """
    return np.asarray(np.quantile(values, (0.25, 0.5, 0.75), method="lower"), dtype=np.float64)


def _named_quartiles(values: NDArray[np.float64]) -> dict[str, float | None]:
    names = ("q1", "median", "q3")
    return {name: _number(value) for name, value in zip(names, quartiles(values), strict=True)}


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
