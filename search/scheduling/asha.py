"""Which trial is promoted: asynchronous successive halving over a ladder of folds and epochs.

The rule is that of Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys
2020), Algorithm 2: a trial pauses at each rung and is promoted when it is among the best 1/η that
have reached it; otherwise a new trial starts. Three things are added, each for a reason measured
in docs/explanation/racing.md: the first wave, the promotion of a rung's best trial, and the last
chance when no new trials are left. This module does not use Ray.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from foldrace.search.scheduling.bracket import Bracket, Rule
from foldrace.trainables.training.ladder import Rung

__all__ = ["Race", "Runner"]

_DEFAULT = Rule()


@dataclass
class Runner:
    """A trial in the race.

    Attributes:
        losses: for each rung of the ladder that it has reached, the objective of each of its folds
            there.
        paused_at: the index of the rung at which it is paused; None while it trains, and once it
            has ended.
        ended: it has completed or failed, or will never run again.
    """

    number: int
    bracket: Bracket
    losses: tuple[tuple[float, ...], ...] = ()
    paused_at: int | None = None
    ended: bool = False

    def score(self, rung: int) -> float:
        """The mean over the folds at a rung that it has reached; infinite if it is not finite."""
        losses = self.losses[rung]
        mean = math.fsum(losses) / len(losses)
        return mean if math.isfinite(mean) else math.inf


class Race:
    """All trials of a sweep on one ladder. It has no clock and no randomness: its state is a
    function of the calls that it has received.

    Args:
        ladder: rungs with rising folds, epochs, or both.
        trials: how many trials are planned.

    >>> race = Race([Rung(1, 1), Rung(1, 3)], Rule(3, first_wave=None))
    >>> for trial, loss in enumerate([0.3, 0.1, 0.2]):
    ...     race.enter(trial)
    ...     paused = race.arrive(trial, [[loss]])
    >>> race.next()  # one of three may be promoted
    1
    """

    def __init__(self, ladder: Sequence[Rung], rule: Rule = _DEFAULT, *, trials: int = 20) -> None:
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
        """Whether no new trials are left."""

    def _finalists(self) -> int:
        """The rule's, or derived from the costs of the ladder's last two steps."""
        if self.rule.finalists is not None:
            return self.rule.finalists
        if len(self.ladder) < 3:
            return 2
        before, below, top = (rung.cost for rung in self.ladder[-3:])
        return max(2, (top - below) // (2 * (below - before)))

    # --- what happens to trials ------------------------------------------------------------------

    def enter(self, trial: int) -> None:
        """A trial starts, or starts again after a failure."""
        if trial in self.runners:
            self._leave(self.runners[trial])
            self.runners[trial].ended = False
        else:
            self.runners[trial] = Runner(trial, self._bracket_of(trial))

    def _bracket_of(self, trial: int) -> Bracket:
        """The bracket of a trial, by its number alone: each trial is assigned to the bracket that
        has received the smallest part of its share."""
        while len(self._places) <= trial:
            bracket = min(self.brackets, key=lambda one: ((one.places + 1) / one.share, one.first))
            bracket.places += 1
            self._places.append(bracket)
        return self._places[trial]

    def arrive(self, trial: int, losses: Sequence[Sequence[float]]) -> bool:
        """Notes the rungs that a trial has reached, and pauses it at the last of them.

        Args:
            losses: for each rung so far, from the lowest, the objective of each of its folds
                there.

        Returns:
            Whether it is paused. Otherwise it is below its bracket's first rung, or at the top.
        """
        runner = self.runners[trial]
        before = len(runner.losses)
        # a trial that has started again reports rungs that are known already
        if len(losses) > before:
            runner.losses += tuple(map(tuple, losses[before:]))
        for rung in range(max(before, runner.bracket.first), len(runner.losses)):
            self._leave(runner)
            runner.bracket.arrive(trial, rung, runner.score(rung))
            runner.paused_at = rung
        if len(runner.losses) == len(self.ladder):
            self.end(trial)
        return runner.paused_at is not None

    def pause(self, trial: int, rung: int) -> None:
        """Pauses a trial again at a rung that it has reached before: it failed while paused."""
        runner = self.runners[trial]
        self._leave(runner)
        insort(runner.bracket.paused[rung], (runner.score(rung), trial))
        runner.paused_at, runner.ended = rung, False

    def promote(self, trial: int) -> None:
        """A paused trial is promoted to its next rung."""
        assert self.runners[trial].paused_at is not None, trial
        self._leave(self.runners[trial])

    def end(self, trial: int) -> None:
        """A trial will not run again: it is at the top, has failed, or was pruned."""
        self._leave(self.runners[trial])
        self.runners[trial].ended = True

    def _leave(self, runner: Runner) -> None:
        if runner.paused_at is not None:
            runner.bracket.leave(runner.number, runner.paused_at, runner.score(runner.paused_at))
            runner.paused_at = None

    # --- who is promoted -------------------------------------------------------------------------

    def next(self) -> int | None:
        """The paused trial to promote; None if a new one should start instead, or none can.

        Once no new trials are left (`exhausted`), the best paused trials are promoted as well, as
        long as they may still become the incumbent.
        """
        found = [place for bracket in self.brackets if (place := bracket.promotable()) is not None]
        if found:
            return max(found, key=lambda place: place[1])[0]
        return self._last_chance() if self.exhausted else None

    @property
    def incumbent(self) -> Runner | None:
        """The best completed trial with a finite score."""
        top = len(self.ladder) - 1
        done = [(bracket.scores[top][0]) for bracket in self.brackets if bracket.scores[top]]
        return self.runners[min(done)[1]] if done and math.isfinite(min(done)[0]) else None

    def nearest(self) -> int | None:
        """The best of the trials that are paused nearest to the top."""
        for rung in range(len(self.ladder) - 2, -1, -1):
            paused = self._best_paused(rung)
            if paused is not None:
                return paused[1]
        return None

    def _best_paused(self, rung: int) -> tuple[float, int] | None:
        """(score, trial) of the best trial that is paused at a rung with a finite score."""
        best = min(
            (bracket.paused[rung][0] for bracket in self.brackets if bracket.paused[rung]),
            default=None,
        )
        return best if best is not None and math.isfinite(best[0]) else None

    def _last_chance(self) -> int | None:
        """The paused trial nearest to the top that may still become the incumbent.

        On the same folds and epochs, it is behind the incumbent by less than two trials usually
        gain or lose on each other from there to the top.
        """
        incumbent, margin = self.incumbent, self.rule.margin
        training = any(
            runner.paused_at is None and not runner.ended for runner in self.runners.values()
        )
        if incumbent is None:  # a trial that trains may yet become one
            return None if training else self.nearest()
        if margin is None:
            return None
        change = 0.0
        for rung in range(len(self.ladder) - 2, -1, -1):
            change += self._change(rung, incumbent)
            # while too little is known about changes, trials are promoted one at a time
            if math.isinf(change) and training:
                return None
            paused = self._best_paused(rung)
            if paused is not None:
                behind = paused[0] - incumbent.score(rung)
                if behind < margin * math.sqrt(change):
                    return paused[1]
        return None

    def _change(self, rung: int, incumbent: Runner) -> float:
        """The mean squared change, from a rung to the next, of a trial's distance to the
        incumbent; infinite while fewer than two trials have made the step."""
        squares = []
        for runner in self.runners.values():
            if len(runner.losses) > rung + 1 and runner is not incumbent:
                before = runner.score(rung) - incumbent.score(rung)
                after = runner.score(rung + 1) - incumbent.score(rung + 1)
                if math.isfinite(before) and math.isfinite(after):
                    squares.append((after - before) ** 2)
        return math.fsum(squares) / len(squares) if len(squares) > 1 else math.inf
