"""What a scheduling policy would have cost on recorded curves, and what it would have found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from foldrace.analysis.simulate.curves import Curves
from foldrace.analysis.simulate.virtual_tune import Arrival, Replay, VirtualTune
from foldrace.errors import InputError, nearest
from foldrace.search.scheduling.asha import Race
from foldrace.search.scheduling.base import FifoLadder, LadderScheduler
from foldrace.search.scheduling.bracket import Rule
from foldrace.search.scheduling.promotion import PromotionScheduler
from foldrace.search.scheduling.stopping import StoppingLadder
from foldrace.trainables.training.ladder import Rung, default_ladder, lockstep_ladder

__all__ = [
    "POLICIES",
    "SHARES",
    "Outcome",
    "Policy",
    "PolicyResult",
    "Simulation",
    "rank_correlations",
    "simulate",
]

SHARES = (0.05, 0.1, 0.2, 0.4)
"""The shares of full cross-validation's cost at which the regret is read."""
_TOP = 3
_PATH = 300
_BASE_FACTOR = 3.0


@dataclass(frozen=True)
class Policy:
    """A scheduler, its rule, and its ladder on so many epochs and folds."""

    what: str
    scheduler: type[LadderScheduler]
    ladder: Callable[[int, int], Sequence[Rung]]
    rule: Rule

    def build(self, curves: Curves) -> tuple[LadderScheduler, Sequence[Rung]]:
        """The scheduler of a sweep of all these configurations."""
        count, folds, epochs = curves.shape
        ladder = self.ladder(epochs, folds)
        return self.scheduler("simulation", Race(ladder, self.rule, trials=count)), ladder


def _whole(epochs: int, folds: int) -> Sequence[Rung]:
    return (Rung(folds, epochs),)


def _lockstep(epochs: int, folds: int) -> Sequence[Rung]:
    return lockstep_ladder(epochs, folds, reduction_factor=_BASE_FACTOR)


_PLAIN = Rule(_BASE_FACTOR, first_wave=None, margin=None)
POLICIES: Mapping[str, Policy] = {
    "fifo": Policy("every configuration, all folds to the last epoch", FifoLadder, _whole, Rule()),
    "stopping-lockstep": Policy(
        "Ray's ASHA, all folds side by side, η = 3", StoppingLadder, _lockstep, _PLAIN
    ),
    "promotion-lockstep": Policy(
        "promotion, all folds side by side, η = 3", PromotionScheduler, _lockstep, _PLAIN
    ),
    "default": Policy(
        "promotion, one fold first: what a sweep does", PromotionScheduler, default_ladder, Rule()
    ),
    "promotion": Policy(
        "the default without its three additions", PromotionScheduler, default_ladder, _PLAIN
    ),
    "no-first-wave": Policy(
        "the leader of a rung goes on from the start",
        PromotionScheduler,
        default_ladder,
        Rule(first_wave=0.0, finalists=1),
    ),
    "no-last-chance": Policy(
        "nobody is tried at the end", PromotionScheduler, default_ladder, Rule(margin=None)
    ),
    "two-brackets": Policy(
        "a quarter starts at the second rung", PromotionScheduler, default_ladder, Rule(brackets=2)
    ),
    "eta-4": Policy(
        "η = 4",
        PromotionScheduler,
        lambda e, f: default_ladder(e, f, reduction_factor=4.0),
        Rule(4.0),
    ),
}
"""By name: what is compared by default, and the variants that show what each part of the default
does."""

STANDARD = ("fifo", "stopping-lockstep", "promotion-lockstep", "default")


@dataclass(frozen=True)
class Outcome:
    """One policy on one order of the configurations.

    Attributes:
        arrivals: the configurations evaluated in full, as they came.
        fold_epochs: spent in all.
        seconds: virtual, to the end.
    """

    arrivals: Sequence[Arrival]
    fold_epochs: int
    seconds: float


@dataclass(frozen=True)
class RegretPath:
    """The regret at F points of the way to full cross-validation's cost: its mean over the orders,
    and the mean's standard error."""

    fold_epochs: NDArray[np.float64]
    mean: NDArray[np.float64]
    error: NDArray[np.float64]


@dataclass(frozen=True)
class PolicyResult:
    """One policy on all orders.

    Attributes:
        fold_epochs_to_top: (O,) spent when the first of the three best was evaluated in full;
            infinite if none was.
        seconds_to_top: (O,) on the virtual clock.
        regret: share of the full cost → (O,) how much worse the winner by then is than the best,
            relative to it; where nothing has been evaluated in full, how much worse a
            configuration taken at random is (the median).
        without_winner: share of the full cost → the share of orders in which nothing was evaluated
            in full by then.
        final_regret: (O,) of the winner at the end.
        best_kept: share of orders whose winner is the best configuration.
        total_fold_epochs: (O,) spent in all.
        total_seconds: (O,) to the end.
        path: the regret all along the way.
    """

    fold_epochs_to_top: NDArray[np.float64]
    seconds_to_top: NDArray[np.float64]
    regret: Mapping[float, NDArray[np.float64]]
    without_winner: Mapping[float, float]
    final_regret: NDArray[np.float64]
    best_kept: float
    total_fold_epochs: NDArray[np.float64]
    total_seconds: NDArray[np.float64]
    path: RegretPath

    def to_json(self) -> dict[str, Any]:
        """In numbers; infinite ones as null."""
        return {
            "fold_epochs_to_top3": _quartiles(self.fold_epochs_to_top),
            "seconds_to_top3": _quartiles(self.seconds_to_top),
            "regret": {
                f"{share:g}": _number(values.mean()) for share, values in self.regret.items()
            },
            "without_winner": {
                f"{share:g}": value for share, value in self.without_winner.items()
            },
            "final_regret": _number(self.final_regret.mean()),
            "best_kept": self.best_kept,
            "total_fold_epochs": _number(np.median(self.total_fold_epochs)),
            "total_seconds": _number(np.median(self.total_seconds)),
        }


@dataclass(frozen=True)
class Simulation:
    """All policies on the same orders."""

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
    notify: Callable[[str], None] = lambda _: None,
) -> Simulation:
    """Runs each policy over the curves, with the configurations drawn in ``orders`` random orders,
    the same for all.

    Raises:
        InputError: an unknown policy, or numbers below 1.
    """
    for name in policies:
        if name not in POLICIES:
            raise InputError("--policies", name, "is no policy", nearest(name, POLICIES))
    for option, value in (("--workers", workers), ("--orders", orders)):
        if value < 1:
            raise InputError(option, value, "must be a whole number at least 1")
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(len(curves.loss)).tolist() for _ in range(orders)]
    results = {}
    for name in dict.fromkeys(policies):
        notify(f"{name}: {POLICIES[name].what}")
        replay = Replay(curves, POLICIES[name].build(curves)[1])
        results[name] = _measure(
            curves, [_run(curves, POLICIES[name], replay, order, workers) for order in drawn]
        )
    return Simulation(curves, orders, workers, results)


def _run(
    curves: Curves, policy: Policy, replay: Replay, order: Sequence[int], workers: int
) -> Outcome:
    sweep = VirtualTune(policy.build(curves)[0], replay, order, workers)
    arrivals = sweep.run()
    return Outcome(arrivals, sweep.fold_epochs, sweep.now)


def _measure(curves: Curves, outcomes: Sequence[Outcome]) -> PolicyResult:
    count, folds, epochs = curves.shape
    cost = count * folds * epochs
    top = set(curves.ranking[:_TOP].tolist())
    best = float(curves.final.min())
    blind = float(np.median(curves.final[np.isfinite(curves.final)]))
    found = [
        next((a for a in outcome.arrivals if a.configuration in top), None) for outcome in outcomes
    ]
    path = np.geomspace(epochs, cost, _PATH)
    ways = [_winners(curves, outcome) for outcome in outcomes]

    def winners(fold_epochs: ArrayLike) -> NDArray[np.float64]:
        """(O, …) by order, what the best evaluated so far has; infinite if there is none."""
        return np.stack(
            [losses[np.searchsorted(at, fold_epochs, side="right")] for at, losses in ways]
        )

    def regrets(fold_epochs: ArrayLike) -> NDArray[np.float64]:
        losses = winners(fold_epochs)
        # regret is relative, unless the best is 0
        return (np.where(np.isinf(losses), blind, losses) - best) / (abs(best) or 1.0)

    along = regrets(path)
    return PolicyResult(
        fold_epochs_to_top=np.array(
            [math.inf if arrival is None else arrival.fold_epochs for arrival in found]
        ),
        seconds_to_top=np.array(
            [math.inf if arrival is None else arrival.seconds for arrival in found]
        ),
        regret={share: regrets(share * cost) for share in SHARES},
        without_winner={share: float(np.isinf(winners(share * cost)).mean()) for share in SHARES},
        final_regret=regrets(math.inf),
        best_kept=float((winners(math.inf) == best).mean()),
        total_fold_epochs=np.array(
            [outcome.fold_epochs for outcome in outcomes], dtype=np.float64
        ),
        total_seconds=np.array([outcome.seconds for outcome in outcomes]),
        path=RegretPath(path, along.mean(axis=0), along.std(axis=0) / math.sqrt(len(outcomes))),
    )


def _winners(curves: Curves, outcome: Outcome) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(A,) the fold-epochs at which configurations arrived, and (A + 1,) the loss of the best
    before and after each."""
    losses = [curves.final[arrival.configuration] for arrival in outcome.arrivals]
    at = np.array([arrival.fold_epochs for arrival in outcome.arrivals], dtype=np.float64)
    return at, np.minimum.accumulate([math.inf, *losses])


def rank_correlations(curves: Curves, ladder: Sequence[Rung]) -> Mapping[Rung, float]:
    """Spearman's rank correlation of what a rung says with what full cross-validation says, over
    all configurations that end finite; NaN where all say the same."""
    finite = np.isfinite(curves.final)
    final = curves.final[finite]

    def correlation(rung: Rung) -> float:
        said = curves.loss[finite, : rung.folds, rung.epochs - 1].mean(axis=1)
        if min(len(set(said)), len(set(final))) < 2:
            return math.nan
        return float(spearmanr(said, final).statistic)

    return {rung: correlation(rung) for rung in ladder}


def _quartiles(values: NDArray[np.float64]) -> dict[str, float | None]:
    # an infinite value is a fact here: quantiles are values that occurred, not between two of them
    names = {"q1": 0.25, "median": 0.5, "q3": 0.75}
    return {name: _number(np.quantile(values, at, method="lower")) for name, at in names.items()}


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
