"""Who trains next: asynchronous successive halving by promotion over a ladder of folds and epochs.
No Ray in here.

The rule is that of Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys
2020), Algorithm 2: a trial pauses at each rung and goes on when it is among the best 1/η that have
been there; otherwise a new one starts. Three things are added, each for a reason measured in
docs/racing.md: the first wave, the leader of a rung, and the last chance.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from foldrace.trainables.training.ladder import REDUCTION_FACTOR, Rung

__all__ = ["Bracket", "Race", "Rule", "Runner"]


@dataclass(frozen=True)
class Rule:
    """What a race goes by.

    Attributes:
        reduction_factor: η; one in so many trials passes a rung.
        first_wave: the share of the planned trials that is looked at on the lower rungs before the
            best of them go on to the rung below the top; from then on the leader of a rung may
            always go on. None: the plain rule, where a rung lets nobody pass before η have been
            there.
        finalists: how many of the first wave go on to the rung below the top; the best of them
            goes on to the top. None: two, or as many as together cost half of what that last step
            costs.
        margin: how many times what trials usually gain or lose on each other a paused one may lie
            behind the leader to be tried when no new ones are left. None: the race ends there.
        brackets: bracket b leaves out the b lowest rungs.
    """

    reduction_factor: float = REDUCTION_FACTOR
    first_wave: float | None = 1 / 3
    finalists: int | None = None
    margin: float | None = 1.0
    brackets: int = 1


@dataclass
class Runner:
    """A trial in the race.

    Attributes:
        losses: for each rung of the ladder that it has reached, the objective of each of its folds
            there.
        waits_at: the rung at which it is paused; None while it trains, and when it is gone.
        gone: it has been evaluated to the end, has failed, or will never run again.
    """

    number: int
    bracket: Bracket
    losses: tuple[tuple[float, ...], ...] = ()
    waits_at: int | None = None
    gone: bool = False

    def score(self, rung: int) -> float:
        """The mean over the folds at a rung that it has reached; infinite if it is not a
        number."""
        losses = self.losses[rung]
        mean = math.fsum(losses) / len(losses)
        return mean if math.isfinite(mean) else math.inf


@dataclass
class Bracket:
    """Trials that start from the same rung and compete with each other only.

    Attributes:
        first: the rung, by its index, at which they pause for the first time.
        last: the index of the ladder's top rung.
        finalists: how many of the first wave meet at the rung below the top.
        share: of all trials, in proportion to the other brackets'.
        planned: how many of them there will be.
        places: how many trials have been put into it.
        scores: for each rung (score, trial) of all that have been there, sorted.
        waiting: those of them that are paused there, sorted.
    """

    first: int
    last: int
    rule: Rule
    finalists: int
    share: float
    planned: int
    places: int = 0
    scores: list[list[tuple[float, int]]] = field(default_factory=list)
    waiting: list[list[tuple[float, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scores = [[] for _ in range(self.last + 1)]
        self.waiting = [[] for _ in range(self.last + 1)]

    @property
    def first_wave(self) -> int:
        """How many trials are looked at before the best goes on to the end: a share of those that
        are planned, and no more than the plain rule would wait for."""
        share = (self.rule.first_wave or 0) * self.planned
        rungs = self.last - self.first
        # in logarithms, since the power may be beyond all floats
        plain = rungs * math.log(self.rule.reduction_factor) < math.log(max(share, 1))
        return max(1, math.ceil((self.rule.reduction_factor**rungs if plain else share) - 1e-9))

    def quota(self, rung: int) -> int:
        """How many of those that have been at a rung may go on from it: 1/η of them.

        Until the first wave is in, nobody goes on to the two rungs at the top, where a step costs
        most. Then a few finalists do, and when they have met at the rung below the top the best of
        them is the first to be evaluated in full. From there on the leader of a rung always may go
        on: a clear favourite does not wait for others to fail.
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
        """A trial pauses at a rung."""
        insort(self.scores[rung], (score, trial))
        insort(self.waiting[rung], (score, trial))

    def leave(self, trial: int, rung: int, score: float) -> None:
        """A trial goes on from a rung, or will never do so."""
        at = bisect_left(self.waiting[rung], (score, trial))
        if at < len(self.waiting[rung]) and self.waiting[rung][at] == (score, trial):
            del self.waiting[rung][at]

    def promotable(self) -> tuple[int, int] | None:
        """(trial, rung) of the next that may go on by the rule, from the highest rung; None if
        there is none."""
        for rung in range(self.last - 1, self.first - 1, -1):
            if self.waiting[rung]:
                best = self.waiting[rung][0]
                if math.isfinite(best[0]) and bisect_left(self.scores[rung], best) < self.quota(
                    rung
                ):
                    return best[1], rung
        return None


class Race:
    """All trials of a sweep on one ladder. Holds no clock and no randomness: it is a function of
    what it is told.

    Args:
        ladder: rungs, rising in folds or epochs or both.
        trials: how many are planned.
    """

    def __init__(self, ladder: Sequence[Rung], rule: Rule = Rule(), *, trials: int = 20) -> None:
        assert ladder and 1 <= rule.brackets <= len(ladder)
        self.ladder, self.rule = tuple(ladder), rule
        shares = [rule.reduction_factor**-index for index in range(rule.brackets)]
        self.brackets = [
            Bracket(
                index,
                len(self.ladder) - 1,
                rule,
                self._finalists(),
                share,
                max(1, round(trials * share / sum(shares))),
            )
            for index, share in enumerate(shares)
        ]
        self._places: list[Bracket] = []
        self.runners: dict[int, Runner] = {}
        self.exhausted = False

    def _finalists(self) -> int:
        """As the rule has it, or by what the last two steps of the ladder cost."""
        if self.rule.finalists is not None:
            return self.rule.finalists
        if len(self.ladder) < 3:
            return 2
        before, below, top = (rung.cost for rung in self.ladder[-3:])
        return max(2, (top - below) // (2 * (below - before)))

    def enter(self, trial: int) -> None:
        """A trial starts, or starts again after a failure."""
        if trial in self.runners:
            self._leave(self.runners[trial])
            self.runners[trial].gone = False
        else:
            self.runners[trial] = Runner(trial, self._bracket_of(trial))

    def _bracket_of(self, trial: int) -> Bracket:
        """By its number alone: each goes to the bracket that has had the smallest part of its
        share."""
        while len(self._places) <= trial:
            bracket = min(self.brackets, key=lambda one: ((one.places + 1) / one.share, one.first))
            bracket.places += 1
            self._places.append(bracket)
        return self._places[trial]

    def arrive(self, trial: int, losses: Sequence[Sequence[float]]) -> bool:
        """Takes note of the rungs that a trial has reached, and lets it wait at the last of them.

        Args:
            losses: for each rung so far, from the lowest, the objective of each of its folds
                there.

        Returns: whether it waits; else it goes on to its bracket's first rung, or it is at the
            top.
        """
        runner = self.runners[trial]
        before = len(runner.losses)
        if (
            len(losses) > before
        ):  # a trial that starts again passes rungs that it has reached before
            runner.losses += tuple(map(tuple, losses[before:]))
        for rung in range(max(before, runner.bracket.first), len(runner.losses)):
            self._leave(runner)
            runner.bracket.arrive(trial, rung, runner.score(rung))
            runner.waits_at = rung
        if len(runner.losses) == len(self.ladder):
            self.end(trial)
        return runner.waits_at is not None

    def wait(self, trial: int, rung: int) -> None:
        """A trial waits at a rung that it has reached before: it has failed while it did."""
        runner = self.runners[trial]
        self._leave(runner)
        insort(runner.bracket.waiting[rung], (runner.score(rung), trial))
        runner.waits_at, runner.gone = rung, False

    def promote(self, trial: int) -> None:
        """A waiting trial goes on to its next rung."""
        assert self.runners[trial].waits_at is not None, trial
        self._leave(self.runners[trial])

    def end(self, trial: int) -> None:
        """A trial will not run again: it is at the top, it has failed, or it has been given up."""
        self._leave(self.runners[trial])
        self.runners[trial].gone = True

    def _leave(self, runner: Runner) -> None:
        if runner.waits_at is not None:
            runner.bracket.leave(runner.number, runner.waits_at, runner.score(runner.waits_at))
            runner.waits_at = None

    def next(self) -> int | None:
        """The waiting trial that is to go on; None if a new one should start instead, or none can.

        Once no new ones are left (`exhausted`), the best that wait are tried as well, as long as
        they may win.
        """
        found = [place for bracket in self.brackets if (place := bracket.promotable()) is not None]
        if found:
            return max(found, key=lambda place: place[1])[0]
        return self._last_chance() if self.exhausted else None

    @property
    def leader(self) -> Runner | None:
        """The best of the trials evaluated to the end."""
        top = len(self.ladder) - 1
        done = [(bracket.scores[top][0]) for bracket in self.brackets if bracket.scores[top]]
        return self.runners[min(done)[1]] if done and math.isfinite(min(done)[0]) else None

    def nearest(self) -> int | None:
        """The best of those that wait nearest to the top."""
        for rung in range(len(self.ladder) - 2, -1, -1):
            waiting = self._waiting(rung)
            if waiting is not None:
                return waiting[1]
        return None

    def _waiting(self, rung: int) -> tuple[float, int] | None:
        """(score, trial) of the best that waits at a rung; None if none with a finite score
        does."""
        best = min(
            (bracket.waiting[rung][0] for bracket in self.brackets if bracket.waiting[rung]),
            default=None,
        )
        return best if best is not None and math.isfinite(best[0]) else None

    def _last_chance(self) -> int | None:
        """The waiting trial nearest to the top that may still win: it lies behind the leader, on
        the same folds and epochs, by no more than trials usually gain or lose on each other from
        there to the top."""
        leader, margin = self.leader, self.rule.margin
        under_way = any(
            runner.waits_at is None and not runner.gone for runner in self.runners.values()
        )
        if leader is None:  # what is under way may yet make one
            return None if under_way else self.nearest()
        if margin is None:
            return None
        change = 0.0
        for rung in range(len(self.ladder) - 2, -1, -1):
            change += self._change(rung, leader)
            if (
                math.isinf(change) and under_way
            ):  # too little is known yet to send one after the other
                return None
            waiting = self._waiting(rung)
            if waiting is not None and waiting[0] - leader.score(rung) < margin * math.sqrt(
                change
            ):
                return waiting[1]
        return None

    def _change(self, rung: int, leader: Runner) -> float:
        """The mean squared change, from a rung to the next, of what lies between a trial and the
        leader; infinite while fewer than two trials have made the step."""
        squares = []
        for runner in self.runners.values():
            if len(runner.losses) > rung + 1 and runner is not leader:
                before = runner.score(rung) - leader.score(rung)
                after = runner.score(rung + 1) - leader.score(rung + 1)
                if math.isfinite(before) and math.isfinite(after):
                    squares.append((after - before) ** 2)
        return math.fsum(squares) / len(squares) if len(squares) > 1 else math.inf
