"""When a winner may be declared, and what is said where none may."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from foldrace.analysis.records.comparison import Comparison
from foldrace.analysis.statistics.intervals import corrected_interval
from foldrace.analysis.statistics.verdict import Pair, Verdict, judge
from tests.helpers.comparisons import Arm, Plan, compare

GOOD, HOPELESS, BROKEN = Arm(), Arm(floor=0.2, own=1), Arm(diverges=0)


def pair(verdict: Verdict, *names: str) -> Pair:
    [found] = [pair for pair in verdict.pairs if {pair.better, pair.worse} == set(names)]
    return found


def with_losses(**arms: np.ndarray) -> Comparison:
    """A complete comparison with these final losses, (repeats, folds)."""
    rows = [
        (arm, repeat, fold, loss)
        for arm, losses in arms.items()
        for (repeat, fold), loss in np.ndenumerate(losses)
    ]
    folds = pd.DataFrame(rows, columns=["arm", "repeat", "fold", "val_loss"])
    repeats = len(next(iter(arms.values())))
    return replace(compare(dict.fromkeys(arms, GOOD), Plan(repeats=repeats)), folds=folds)


def test_a_hopeless_arm_loses_and_the_numbers_are_given() -> None:
    verdict = judge(compare({"adam": GOOD, "sgd": HOPELESS}))
    assert verdict.winner == "adam"
    assert pair(verdict, "adam", "sgd").different
    assert verdict.lead.startswith("adam wins: tuned, its CV loss of 0.02")
    assert "Over 9 paired folds" in verdict.lead and "do not overlap" in verdict.lead


def test_intervals_are_those_of_the_corrected_variance() -> None:
    comparison = compare({"adam": GOOD, "sgd": HOPELESS}, Plan(folds=4))
    losses = comparison.losses["adam"]
    assert len(losses) == 12
    assert judge(comparison).standings["adam"] == corrected_interval(losses, 1 / 3)


@pytest.mark.parametrize("own", [0, 7])
def test_the_same_optimizer_under_two_names_is_not_declared_different(own: int) -> None:
    verdict = judge(compare({"adam": GOOD, "adam-again": Arm(own=own), "sgd": HOPELESS}))
    twins = pair(verdict, "adam", "adam-again")
    assert verdict.winner is None
    assert not twins.different and twins.p > 0.05
    assert twins.identical is (own == 0)
    first, second, _ = verdict.standings
    assert f"{first} has the lowest tuned CV loss" in verdict.lead
    assert f"interval overlaps that of {second}. sgd is worse." in verdict.lead
    assert verdict.lead.startswith("No winner can be declared")


def test_no_winner_while_intervals_overlap_however_sure_the_paired_test_is() -> None:
    shared = np.random.default_rng(0).normal(0.02, 0.005, (3, 3))
    own = np.random.default_rng(1).normal(0, 1e-5, (3, 3))
    verdict = judge(with_losses(adam=shared, sgd=shared + 0.001 + own))
    assert verdict.pairs[0].p < 0.001 and verdict.pairs[0].overlap
    assert verdict.winner is None and not verdict.pairs[0].different
    assert "interval overlaps that of sgd" in verdict.lead
    assert "the intervals overlap: not declared different" in verdict.pairs[0].sentence()


def test_no_winner_while_the_paired_test_is_unsure_however_far_the_intervals_are_apart() -> None:
    low, high = np.array([[1.00, 1.01]]), np.array([[1.20, 1.19]])
    verdict = judge(with_losses(adam=low, sgd=high, rmsprop=high))
    first = verdict.pairs[0]
    assert (
        first.test.p < 0.05 < first.p and not first.overlap
    )  # Holm's correction, for three pairs
    assert verdict.winner is None and first.sentence() == "No difference is shown."
    assert (
        "the paired test does not separate it from sgd (p = 0.14) and rmsprop (p = 0.14)"
        in verdict.lead
    )


def test_an_arm_of_which_every_trial_failed_is_named_and_does_not_stand_in_the_way() -> None:
    verdict = judge(compare({"adam": GOOD, "broken": BROKEN, "sgd": HOPELESS}))
    assert verdict.winner == "adam"
    assert list(verdict.standings) == ["adam", "sgd"]
    assert verdict.lead.endswith("Every trial of broken failed.")


def test_an_arm_alone_has_won_nothing() -> None:
    verdict = judge(compare({"adam": GOOD, "broken": BROKEN}))
    assert verdict.winner is None
    assert "adam is the only optimizer with completed repeats" in verdict.lead
    assert verdict.lead.endswith("Every trial of broken failed.")


def test_an_arm_with_a_failed_repeat_cannot_win() -> None:
    verdict = judge(compare({"adam": Arm(unlucky=(2,)), "sgd": HOPELESS}))
    assert verdict.pairs[0].different and verdict.pairs[0].test.count == 6
    assert verdict.winner is None
    assert "but 1 of its 3 repeats failed" in verdict.lead


def test_an_arm_that_failed_in_every_repeat_is_named() -> None:
    verdict = judge(compare({"adam": GOOD, "shaky": Arm(unlucky=(1, 2, 3)), "sgd": HOPELESS}))
    assert verdict.winner == "adam"
    assert verdict.lead.endswith("Tuned, shaky failed in every repeat.")


def test_nobody_wins_before_the_end() -> None:
    arms = {"adam": GOOD, "sgd": HOPELESS}
    partial = judge(compare(arms, Plan(done_repeats=2, state="interrupted")))
    assert partial.pairs[0].different and partial.winner is None
    assert (
        "is interrupted, with adam 2 and sgd 2 of 3 repeats completed. adam has the lowest"
        in partial.lead
    )
    assert "still running" in judge(compare(arms, Plan(state="running"))).lead
    none = judge(compare(arms, Plan(done_repeats=0, state="interrupted")))
    assert none.winner is None and not none.pairs and "on new folds yet" in none.lead
    assert "no trial was completed" in judge(compare({"a": BROKEN, "b": BROKEN})).lead


def test_two_folds_once_are_enough_for_a_sentence() -> None:
    verdict = judge(compare({"adam": GOOD, "adam-again": Arm(own=1)}, Plan(repeats=1, folds=2)))
    assert verdict.pairs[0].test.count == 2
    assert "No winner can be declared" in verdict.lead


def test_only_repeats_in_common_are_paired() -> None:
    comparison = compare(
        {"adam": GOOD, "sgd": HOPELESS}, Plan(done_repeats=2, state="interrupted")
    )
    rows = comparison.folds
    apart = rows[
        ((rows["arm"] == "adam") & (rows["repeat"] == 1))
        | ((rows["arm"] == "sgd") & (rows["repeat"] == 2))
    ]
    verdict = judge(replace(comparison, folds=apart))
    assert (verdict.pairs[0].test.count, verdict.pairs[0].p) == (0, 1.0)
    assert verdict.pairs[0].sentence() == "They have no repeat in common yet."


def test_a_beaten_arm_whose_best_rate_lies_at_an_end_of_its_range_is_given_the_doubt() -> None:
    narrow = Arm(floor=0.04, best=1.0, default=1e-2, rates=(1e-4, 1.1e-2), own=1)
    comparison = compare({"adam": GOOD, "sgd": narrow})
    assert comparison.at_edge == {"sgd": (0.01, "upper")}
    verdict = judge(comparison)
    assert verdict.winner == "adam"
    assert verdict.lead.endswith(
        "learning rate of sgd lies at an end of its range; a wider range may help."
    )


def test_each_sentence_of_the_lead_stands_only_where_it_says_something() -> None:
    won = judge(compare({"adam": GOOD, "sgd": HOPELESS}))
    assert "gives p <\u00a00.001, and" in won.lead and "= <" not in won.lead
    assert won.lead.endswith("do not overlap.")  # no arm at an edge, none that failed
    alike = judge(compare({"adam": GOOD, "adam-again": Arm(own=7)}))
    assert alike.lead.endswith(f"overlaps that of {[*alike.standings][1]}.")  # none is worse
    same = judge(compare({"adam": GOOD, "adam-again": GOOD}))
    assert same.pairs[0].sentence() == "The losses of adam and adam-again are identical."


def test_before_the_repeats_the_best_of_all_trials_is_named() -> None:
    comparison = compare(
        {"adam": GOOD, "sgd": HOPELESS}, Plan(done_repeats=0, state="interrupted")
    )
    trials = comparison.trials[comparison.trials["status"] == "completed"]
    best = trials.loc[trials["val_loss"].idxmin()]
    assert best["arm"] == "adam" and len(trials["arm"].unique()) == 2
    one = replace(comparison, trials=trials.sort_values("val_loss").iloc[[0, -1]])
    assert "so far is adam's" in judge(one).lead
