"""The scheduling policies that a simulation compares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from foldrace.analysis.records.recorded_curves import Curves
from foldrace.search.scheduling.asha import Race, Rule
from foldrace.search.scheduling.promotion import PromotionScheduler
from foldrace.search.scheduling.stopping import FifoLadder, LadderScheduler, StoppingLadder
from foldrace.trainables.training.ladder import Rung, default_ladder, lockstep_ladder

__all__ = ["POLICIES", "STANDARD", "Policy", "policy_names"]

_BASE_FACTOR = 3.0


@dataclass(frozen=True)
class Policy:
    """A scheduler with its promotion rule, and its ladder as a function of epochs and folds."""

    description: str
    scheduler: type[LadderScheduler]
    ladder: Callable[[int, int], Sequence[Rung]]
    rule: Rule

    def build(self, curves: Curves) -> tuple[LadderScheduler, Sequence[Rung]]:
        """The scheduler of a sweep over all configurations of the curves, and its ladder."""
        count, folds, epochs = curves.shape
        ladder = self.ladder(epochs, folds)
        return self.scheduler("simulation", Race(ladder, self.rule, trials=count)), ladder


def _top_rung(epochs: int, folds: int) -> Sequence[Rung]:
    return (Rung(folds, epochs),)


def _lockstep(epochs: int, folds: int) -> Sequence[Rung]:
    return lockstep_ladder(epochs, folds, reduction_factor=_BASE_FACTOR)


def _eta_4(epochs: int, folds: int) -> Sequence[Rung]:
    return default_ladder(epochs, folds, reduction_factor=4.0)


def _promotion(description: str, rule: Rule) -> Policy:
    return Policy(description, PromotionScheduler, default_ladder, rule)


_PLAIN = Rule(_BASE_FACTOR, first_wave=None, margin=None)
POLICIES: Mapping[str, Policy] = {
    "fifo": Policy(
        "every configuration on all folds to the last epoch", FifoLadder, _top_rung, Rule()
    ),
    "stopping-lockstep": Policy(
        "Ray's ASHA, all folds in lock-step, η = 3", StoppingLadder, _lockstep, _PLAIN
    ),
    "promotion-lockstep": Policy(
        "promotion, all folds in lock-step, η = 3", PromotionScheduler, _lockstep, _PLAIN
    ),
    "default": _promotion("promotion, one fold first: the default of a sweep", Rule()),
    "promotion": _promotion("the default without its three additions", _PLAIN),
    "no-first-wave": _promotion(
        "the best trial of a rung is promoted at once", Rule(first_wave=0.0, finalists=1)
    ),
    "no-last-chance": _promotion("no promotions at the end of the sweep", Rule(margin=None)),
    "two-brackets": _promotion("a quarter starts at the second rung", Rule(brackets=2)),
    "eta-4": Policy("η = 4", PromotionScheduler, _eta_4, Rule(4.0)),
}
"""By name: the four of `STANDARD`, and variants that show what each part of the default does."""

STANDARD = ("fifo", "stopping-lockstep", "promotion-lockstep", "default")
"""The policies that are compared unless others are named."""


def policy_names(given: Iterable[str]) -> list[str]:
    """The policies in texts with commas between them; ``all`` of them, or the standard ones.

    >>> policy_names(["fifo,default"]), policy_names([]) == list(STANDARD)
    (['fifo', 'default'], True)
    """
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    return list(POLICIES) if "all" in names else names or list(STANDARD)
