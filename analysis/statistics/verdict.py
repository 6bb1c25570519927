"""Which arm of a comparison is better, and whether the difference may be declared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from foldrace.analysis.records.comparison import Comparison
from foldrace.analysis.statistics.intervals import (
    Interval,
    PairedTest,
    corrected_interval,
    corrected_paired_test,
    holm,
    plus_minus,
)
from foldrace.analysis.text import digits, listed, p_text, plural

__all__ = ["LEVEL", "Pair", "Verdict", "judge"]

LEVEL = 0.05
"""The significance level of Holm-corrected p values; intervals cover 1 − `LEVEL`."""

_STATE = {"running": "still running", "interrupted": "interrupted"}
_NO_WINNER = "No winner can be declared: "
_NO_PAIRS = PairedTest(Interval(math.nan, -math.inf, math.inf), 1.0, 0)


@dataclass(frozen=True)
class Pair:
    """Two arms, compared on the repeats and folds that both have.

    Attributes:
        better: the arm with the lower mean loss.
        worse: the other arm.
        test: of the losses of ``worse`` minus those of ``better``.
        p: the test's p value, Holm-corrected for all pairs.
        overlap: whether the arms' intervals overlap.
        identical: whether all paired losses are equal.
    """

    better: str
    worse: str
    test: PairedTest
    p: float
    overlap: bool
    identical: bool

    @property
    def different(self) -> bool:
        """Whether the arms are declared different: p is low and the intervals do not overlap."""
        return self.p < LEVEL and not self.overlap

    def sentence(self) -> str:
        """The result for this pair in words."""
        if self.identical:
            return f"The losses of {self.better} and {self.worse} are identical."
        if not self.test.count:
            return "They have no repeat in common yet."
        if self.different:
            return f"{self.better} is better than {self.worse}."
        if self.p < LEVEL:
            return (
                f"{self.better} is better on the same folds, but the intervals overlap: not"
                " declared different."
            )
        return "No difference is shown."


@dataclass(frozen=True)
class Verdict:
    """The result of a comparison.

    Attributes:
        standings: the interval of the mean loss of each arm with a completed repeat, the best arm
            first.
        pairs: every two arms of the standings.
        winner: None if no winner may be declared.
        lead: the result in one or two sentences.
    """

    standings: Mapping[str, Interval]
    pairs: tuple[Pair, ...]
    winner: str | None
    lead: str


def judge(comparison: Comparison) -> Verdict:
    """The result of a comparison.

    A winner is declared if the comparison is complete, no repeat of the best arm failed, and the
    best arm is `Pair.different` from every other: the Holm-corrected p over the paired repeats and
    folds is below `LEVEL`, and the intervals do not overlap.
    """
    intervals = {
        arm: corrected_interval(losses, comparison.test_share, 1 - LEVEL)
        for arm, losses in comparison.losses.items()
    }
    standings = dict(sorted(intervals.items(), key=lambda item: item[1].mean))
    pairs = _pairs(comparison, standings)
    best = next(iter(standings), None)
    rivals = [pair for pair in pairs if pair.better == best]
    beats_all = len(rivals) == len(standings) - 1 and all(pair.different for pair in rivals)
    winner = None
    if best is not None and rivals and beats_all and comparison.complete:
        winner = None if comparison.failed_repeats(best) else best
    return Verdict(standings, pairs, winner, _lead(comparison, standings, pairs, winner))


def _pairs(comparison: Comparison, standings: Mapping[str, Interval]) -> tuple[Pair, ...]:
    """Every two arms of the standings, the one with the lower mean first."""
    tests: dict[tuple[str, str], tuple[PairedTest, bool]] = {}
    for better, worse in combinations(standings, 2):
        both = pd.concat(
            [comparison.losses[better], comparison.losses[worse]], axis=1, join="inner"
        ).to_numpy(float)
        differences = both[:, 1] - both[:, 0]
        test = (
            corrected_paired_test(differences, comparison.test_share, 1 - LEVEL)
            if len(both)
            else _NO_PAIRS
        )
        tests[better, worse] = test, bool(len(both)) and not differences.any()
    adjusted = holm([test.p for test, _ in tests.values()])
    return tuple(
        Pair(
            better, worse, test, float(p), standings[better].overlaps(standings[worse]), identical
        )
        for ((better, worse), (test, identical)), p in zip(tests.items(), adjusted, strict=True)
    )


def _lead(
    comparison: Comparison,
    standings: Mapping[str, Interval],
    pairs: tuple[Pair, ...],
    winner: str | None,
) -> str:
    best, name = next(iter(standings), None), comparison.objective.name
    if best is None:
        found = _before_the_repeats(comparison)
    elif winner is not None:
        found = _won(comparison, standings, [pair for pair in pairs if pair.better == winner])
    elif not comparison.complete:
        found = _incomplete(comparison, best, standings[best])
    elif len(standings) == 1:
        found = (
            f"{_NO_WINNER}{best} is the only optimizer with completed repeats, with a CV {name} of"
            f" {plus_minus(standings[best].of(comparison.objective))}, so there is nothing to"
            " compare it with."
        )
    else:
        found = _not_separated(comparison, best, standings[best], pairs)
    beaten = [arm for arm in standings if winner not in (None, arm)]
    return " ".join([found, *_at_edge(comparison, beaten), *_failures(comparison)])


def _before_the_repeats(comparison: Comparison) -> str:
    trials = comparison.trials
    completed = trials[(trials["status"] == "completed") & trials["val_loss"].notna()]
    if not len(completed):
        return f"{_NO_WINNER}no trial was completed."
    best, objective = completed.sort_values("val_loss").iloc[0], comparison.objective
    return (
        f"{_NO_WINNER}no tuned optimizer has been repeated on new folds yet. The"
        f" {objective.best_word} CV {objective.name} so far is {best['arm']}'s,"
        f" {digits(objective.score(best['val_loss']))}; as the best of many trials it is"
        " optimistic."
    )


def _incomplete(comparison: Comparison, best: str, interval: Interval) -> str:
    counts = [f"{arm} {comparison.repeated(arm)}" for arm in comparison.arms]
    objective = comparison.objective
    return (
        f"{_NO_WINNER}the comparison is {_STATE.get(comparison.state, 'not complete')}, with"
        f" {listed(counts)} of {plural(comparison.repeats, 'repeat')} completed. {best} has the"
        f" {objective.best_word} CV {objective.name} so far,"
        f" {plus_minus(interval.of(objective))}."
    )


def _won(comparison: Comparison, standings: Mapping[str, Interval], rivals: list[Pair]) -> str:
    objective = comparison.objective
    pair, best = rivals[0], rivals[0].better
    p = _p(max(rival.p for rival in rivals))
    next_best = f"{pair.worse}'s, {plus_minus(standings[pair.worse].of(objective))}"
    if len(rivals) > 1:
        p += "" if p.startswith("<") else " or less"
        next_best = f"every other optimizer's (next: {next_best})"
    return (
        f"{best} wins: tuned, its CV {objective.name} of"
        f" {plus_minus(standings[best].of(objective))} is {objective.better_word} {next_best}."
        f" Over {plural(pair.test.count, 'paired fold')} the corrected t-test gives p {p}, and the"
        " 95\u00a0% intervals do not overlap."
    )


def _at_edge(comparison: Comparison, beaten: list[str]) -> list[str]:
    """A sentence on the arms that might do better in a wider search space."""
    arms = [arm for arm in beaten if arm in comparison.at_edge]
    if not arms:
        return []
    return [
        f"But the best learning rate of {listed(arms)} lies at an end of its range; a wider range"
        " may help."
    ]


def _not_separated(
    comparison: Comparison, best: str, interval: Interval, pairs: tuple[Pair, ...]
) -> str:
    rivals = [pair for pair in pairs if pair.better == best]
    reasons, objective = [], comparison.objective
    if overlapping := [pair.worse for pair in rivals if pair.overlap]:
        reasons.append(
            f"its 95\u00a0% interval overlaps {'that' if len(overlapping) == 1 else 'those'} of"
            f" {listed(overlapping)}"
        )
    if unclear := [
        f"{pair.worse} (p {_p(pair.p)})"
        for pair in rivals
        if not pair.overlap and not pair.different
    ]:
        reasons.append(f"the paired test does not separate it from {listed(unclear)}")
    if failed := comparison.failed_repeats(best):
        reasons.append(f"{failed} of its {plural(comparison.repeats, 'repeat')} failed")
    found = (
        f"{_NO_WINNER}{best} has the {objective.best_word} tuned CV {objective.name},"
        f" {plus_minus(interval.of(objective))}, but"
        f" {', and '.join(reasons)}."
    )
    worse = [pair.worse for pair in rivals if pair.different]
    return found + (
        f" {listed(worse)} {'is' if len(worse) == 1 else 'are'} worse." if worse else ""
    )


def _failures(comparison: Comparison) -> list[str]:
    """Sentences on the arms of which every trial, or every repeat, failed."""
    in_search = [
        arm
        for arm in comparison.arms
        if _all_failed(comparison.trials[comparison.trials["arm"] == arm])
    ]
    in_repeats = [arm for arm in comparison.arms if _all_failed(comparison.phase(arm, "repeat"))]
    sentences = [f"Every trial of {listed(in_search)} failed."] if in_search else []
    return sentences + (
        [f"Tuned, {listed(in_repeats)} failed in every repeat."] if in_repeats else []
    )


def _all_failed(trials: pd.DataFrame) -> bool:
    return bool(len(trials)) and bool((trials["status"] == "failed").all())


def _p(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"
