"""A bracket of the race: the scores at each rung, and who may be promoted from it."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from dataclasses import dataclass, field

from foldrace.trainables.training.ladder import REDUCTION_FACTOR

__all__ = ["Bracket", "Rule"]


@dataclass(frozen=True)
class Rule:
    """The settings of a race.

    Attributes:
        reduction_factor: η > 1; one in η trials is promoted from a rung.
        first_wave: the share of the planned trials that must have reached the bracket's first rung
            before any is promoted to the rung below the top. From then on the best trial of a rung
            may always be promoted. None: the plain rule, which promotes nobody from a rung before
            η trials have reached it.
        finalists: how many trials of the first wave are promoted to the rung below the top; the
            best of them is promoted to the top. None: two, or as many as together cost half of
            what the last step costs.
        margin: when no new trials are left, a paused trial is promoted if it is behind the
            incumbent by less than ``margin`` times the usual change between two trials. None: the
            race ends when no new trials are left.
        brackets: bracket b leaves out the b lowest rungs.
    """

    reduction_factor: float = REDUCTION_FACTOR
    first_wave: float | None = 1 / 3
    finalists: int | None = None
    margin: float | None = 1.0
    brackets: int = 1


@dataclass
class Bracket:
    """Trials that start from the same rung and compete only with each other.

    Attributes:
        first: the index of the rung at which they pause for the first time.
        last: the index of the ladder's top rung.
        finalists: how many trials of the first wave meet at the rung below the top.
        share: the bracket's share of all trials, in proportion to the other brackets'.
        planned: how many trials it is planned to have.
        places: how many trials it has now.
        scores: for each rung (score, trial) of all trials that have reached it, sorted.
        paused: for each rung (score, trial) of those that are paused there, sorted.
    """

    first: int
    last: int
    rule: Rule
    finalists: int
    share: float
    planned: int
    places: int = 0
    scores: list[list[tuple[float, int]]] = field(default_factory=list)
    paused: list[list[tuple[float, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scores = [[] for _ in range(self.last + 1)]
        self.paused = [[] for _ in range(self.last + 1)]

    @property
    def first_wave(self) -> int:
        """The number of trials in the first wave: a share of the planned trials, but no more than
        the plain rule would wait for."""
        share = (self.rule.first_wave or 0) * self.planned
        rungs = self.last - self.first
        # compared as logarithms, since the power may overflow
        plain = rungs * math.log(self.rule.reduction_factor) < math.log(max(share, 1))
        return max(1, math.ceil((self.rule.reduction_factor**rungs if plain else share) - 1e-9))

    def quota(self, rung: int) -> int:
        """How many of the trials that have reached a rung may be promoted from it: 1/η of them.

        While the first wave is incomplete, none is promoted to the two rungs at the top, where a
        step costs most. Then the finalists are, and once they have met at the rung below the top
        the best of them is the first to be promoted to the top. From then on the best trial of
        each rung may always be promoted: a clear incumbent does not have to wait for others.
        """
        passing = int(len(self.scores[rung]) / self.rule.reduction_factor + 1e-9)
        if self.rule.first_wave is None:
            return passing
        if len(self.scores[self.first]) < self.first_wave:
            return passing if rung < max(self.last - 2, self.first + 1) else 0
        if not self.scores[self.last] and rung > self.first:
            if rung == self.last - 1 and len(self.scores[rung]) < self.finalists:
                return 0
            if rung == self.last - 2:
                return max(self.finalists, passing)
        return max(1, passing)

    def arrive(self, trial: int, rung: int, score: float) -> None:
        """A trial reaches a rung and pauses there."""
        insort(self.scores[rung], (score, trial))
        insort(self.paused[rung], (score, trial))

    def leave(self, trial: int, rung: int, score: float) -> None:
        """A trial that was paused at a rung is promoted or has ended."""
        at = bisect_left(self.paused[rung], (score, trial))
        if at < len(self.paused[rung]) and self.paused[rung][at] == (score, trial):
            del self.paused[rung][at]

    def promotable(self) -> tuple[int, int] | None:
        """(trial, rung) of the next trial that the rule promotes, highest rung first; None if
        there is none."""
        for rung in range(self.last - 1, self.first - 1, -1):
            if self.paused[rung]:
                best = self.paused[rung][0]
                rank = bisect_left(self.scores[rung], best)
                if math.isfinite(best[0]) and rank < self.quota(rung):
                    return best[1], rung
        return None
