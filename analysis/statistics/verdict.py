"""Which optimizer is better, and when that may be said."""

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

_STATE = {"running": "still running", "interrupted": "interrupted"}

__all__ = ["LEVEL", "Pair", "Verdict", "judge"]

LEVEL = 0.05
"""What a Holm-corrected p must be below; intervals cover the rest of 1."""


@dataclass(frozen=True)
class Pair:
    """Two arms on the same repeats and folds.

    Attributes:
        better: the arm of the lower mean.
        test: of the other's losses minus this one's.
        p: of the test, Holm-corrected for all pairs.
        overlap: the two arms' intervals overlap.
    """

    better: str
    worse: str
    test: PairedTest
    p: float
    overlap: bool
    identical: bool

    @property
    def different(self) -> bool:
        """The arms are declared different: the test says so, and their intervals lie apart."""
        return self.p < LEVEL and not self.overlap

    def sentence(self) -> str:
        """What may be said of the two."""
        if self.identical:
            return f"{self.better} and {self.worse} have the same losses to the last digit."
        if not self.test.count:
            return "They have no repeat in common yet."
        if self.different:
            return f"{self.better} is better than {self.worse}."
        if self.p < LEVEL:
            return (
                f"{self.better} is lower on the same folds, but the intervals overlap: not"
                " declared different."
            )
        return "No difference is shown."


@dataclass(frozen=True)
class Verdict:
    """What the comparison has shown.

    Attributes:
        standings: each arm with a completed repeat and the interval of its mean, the best first.
        winner: None if none may be declared.
        lead: the finding in a sentence or two.
    """

    standings: Mapping[str, Interval]
    pairs: tuple[Pair, ...]
    winner: str | None
    lead: str


def judge(comparison: Comparison) -> Verdict:
    """A winner is declared once the comparison is complete, if one arm, none of whose repeats
    failed, beats every other with a Holm-corrected p below `LEVEL` over the paired repeats and
    folds, and its interval overlaps no other's."""
    share = comparison.test_share
    intervals = {
        arm: corrected_interval(losses, share, 1 - LEVEL)
        for arm, losses in comparison.losses.items()
    }
    standings = dict(sorted(intervals.items(), key=lambda item: item[1].mean))
    pairs = _pairs(comparison, standings)
    best = next(iter(standings), None)
    winner = None
    if (
        best is not None
        and len(standings) > 1
        and comparison.complete
        and not comparison.failed_repeats(best)
    ):
        rivals = [pair for pair in pairs if pair.better == best]
        winner = (
            best
            if len(rivals) == len(standings) - 1 and all(pair.different for pair in rivals)
            else None
        )
    lead = _lead(comparison, standings, pairs, winner)
    return Verdict(standings, pairs, winner, lead)


def _pairs(comparison: Comparison, standings: Mapping[str, Interval]) -> tuple[Pair, ...]:
    """Every two arms of the standings, the lower mean first."""
    tests: dict[tuple[str, str], tuple[PairedTest, bool]] = {}
    for better, worse in combinations(standings, 2):
        both = pd.concat(
            [comparison.losses[better], comparison.losses[worse]], axis=1, join="inner"
        ).to_numpy(float)
        differences = both[:, 1] - both[:, 0]
        nothing = PairedTest(Interval(math.nan, -math.inf, math.inf), 1.0, 0)
        test = (
            corrected_paired_test(differences, comparison.test_share, 1 - LEVEL)
            if len(both)
            else nothing
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
    best = next(iter(standings), None)
    if best is None:
        found = _before_the_repeats(comparison)
    elif winner is not None:
        found = _victory(comparison, standings, [pair for pair in pairs if pair.better == winner])
    elif not comparison.complete:
        found = _unfinished(comparison, best, standings[best])
    elif len(standings) == 1:
        found = (
            f"No winner can be declared: {best} alone was trained to the end, with a CV loss of "
        )
        found += f"{plus_minus(standings[best])}, so there is nothing to compare it with."
    else:
        found = _no_winner(comparison, best, standings[best], pairs)
    caveat = _at_edge(
        comparison, [arm for arm in standings if winner is not None and arm != winner]
    )
    return " ".join([found, *caveat, *_failures(comparison)])


def _before_the_repeats(comparison: Comparison) -> str:
    done = comparison.trials[
        (comparison.trials["status"] == "completed") & comparison.trials["val_loss"].notna()
    ]
    if not len(done):
        return "No winner can be declared: no trial was evaluated to the end."
    best = done.sort_values("val_loss").iloc[0]
    return (
        "No winner can be declared: no tuned optimizer has been trained anew on fresh folds yet."
        f" The lowest CV loss so far is {best['arm']}'s, {digits(best['val_loss'])}; as the best"
        " of many trials it is an optimistic figure."
    )


def _unfinished(comparison: Comparison, best: str, interval: Interval) -> str:
    counts = [f"{arm} {comparison.repeated(arm)}" for arm in comparison.arms]
    return (
        "No winner can be declared: the comparison is"
        f" {_STATE.get(comparison.state, 'not complete')}, with {listed(counts)} of"
        f" {plural(comparison.repeats, 'repeat')} done. {best} leads so far, with a CV loss of"
        f" {plus_minus(interval)}."
    )


def _victory(comparison: Comparison, standings: Mapping[str, Interval], rivals: list[Pair]) -> str:
    pair, best = rivals[0], rivals[0].better
    p = _p(max(rival.p for rival in rivals))
    p += " or less" if len(rivals) > 1 and not p.startswith("<") else ""
    others = f"every other optimizer's (next: {pair.worse}'s, {plus_minus(standings[pair.worse])})"
    if len(rivals) == 1:
        others = f"{pair.worse}'s, {plus_minus(standings[pair.worse])}"
    return (
        f"{best} wins: tuned, its CV loss of {plus_minus(standings[best])} is below {others}. Over"
        f" {plural(pair.test.count, 'paired fold')} the corrected t-test gives p {p}, and the"
        " 95\u00a0% intervals do not overlap."
    )


def _at_edge(comparison: Comparison, beaten: list[str]) -> list[str]:
    """A sentence on those that might have done better in a wider space."""
    arms = [arm for arm in beaten if arm in comparison.at_edge]
    if not arms:
        return []
    return [
        f"But the best learning rate of {listed(arms)} lies at an end of the range allowed; a"
        " wider one may help."
    ]


def _no_winner(
    comparison: Comparison, best: str, interval: Interval, pairs: tuple[Pair, ...]
) -> str:
    rivals = [pair for pair in pairs if pair.better == best]
    reasons = []
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
        reasons.append(f"the paired test does not tell it from {listed(unclear)}")
    if failed := comparison.failed_repeats(best):
        reasons.append(f"{failed} of its {plural(comparison.repeats, 'repeat')} failed")
    found = (
        f"No winner can be declared: {best} has the lowest tuned CV loss, {plus_minus(interval)},"
        f" but {', and '.join(reasons)}."
    )
    worse = [pair.worse for pair in rivals if pair.different]
    return found + (
        f" {listed(worse)} {'is' if len(worse) == 1 else 'are'} worse." if worse else ""
    )


def _failures(comparison: Comparison) -> list[str]:
    """A sentence for each way in which arms never came to a tuned result."""
    tried = comparison.trials.groupby("arm")["status"]
    lost = [
        arm
        for arm in comparison.arms
        if arm in tried.groups and (tried.get_group(arm) == "failed").all()
    ]
    repeated = {arm: comparison.phase(arm, "repeat")["status"] for arm in comparison.arms}
    broken = [
        arm for arm, status in repeated.items() if len(status) and (status == "failed").all()
    ]
    sentences = [f"Every trial of {listed(lost)} failed."] if lost else []
    return sentences + ([f"Tuned, {listed(broken)} failed in every repeat."] if broken else [])


def _p(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"
