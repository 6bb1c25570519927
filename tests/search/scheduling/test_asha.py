"""Who may go on: the published rule, and the three things that are added to it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldrace.search.scheduling.asha import Race
from foldrace.search.scheduling.bracket import Bracket, Rule
from foldrace.trainables.training.ladder import Rung
from tests.helpers.racing import PLAIN, check_race

FOUR = tuple(Rung(1, epochs) for epochs in (1, 3, 9, 27))


def reach(race: Race, trial: int, *scores: float) -> bool:
    """A trial enters, if it has not, and has these losses at the lowest rungs."""
    if trial not in race.runners:
        race.enter(trial)
    return race.arrive(
        trial, [[score] * rung.folds for score, rung in zip(scores, race.ladder, strict=False)]
    )


def promoted(race: Race) -> Iterator[tuple[int, int]]:
    """Lets go on whoever may: (trial, rung)."""
    while (trial := race.next()) is not None:
        rung = race.runners[trial].paused_at
        assert rung is not None
        race.promote(trial)
        yield trial, rung


# --- the published rule --------------------------------------------------------------------------


def get_job(
    rungs: Sequence[dict[int, float]], gone_on: Sequence[set[int]], reduction_factor: float
) -> tuple[int, int] | None:
    """Algorithm 2 of Li et al. (MLSys 2020): the trial to promote and its rung; None to start a
    new one."""
    for rung in range(len(rungs) - 2, -1, -1):
        best = sorted(rungs[rung], key=lambda trial: (rungs[rung][trial], trial))
        candidates = best[: math.floor(len(best) / reduction_factor + 1e-9)]
        promotable = [trial for trial in candidates if trial not in gone_on[rung]]
        if promotable:
            return promotable[0], rung
    return None


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32),
    st.sampled_from([1.5, 2.0, 3.0, 4.0]),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_the_plain_rule_is_the_published_one(
    seed: int, factor: float, height: int, workers: int
) -> None:
    rng = random.Random(seed)
    ladder = tuple(Rung(1, epochs) for epochs in range(1, height + 1))
    race = Race(ladder, Rule(factor, first_wave=None, margin=None))
    rungs: list[dict[int, float]] = [{} for _ in ladder]
    gone_on: list[set[int]] = [set() for _ in ladder]
    running: list[tuple[int, int]] = []
    losses: dict[int, list[list[float]]] = {}
    for _ in range(60):
        while len(running) < workers:
            job = get_job(rungs, gone_on, factor)
            assert race.next() == (None if job is None else job[0])
            if job is None:
                job = (len(losses), -1)
                losses[job[0]] = []
                race.enter(job[0])
            else:
                gone_on[job[1]].add(job[0])
                race.promote(job[0])
            running.append((job[0], job[1] + 1))
        trial, rung = running.pop(rng.randrange(workers))
        losses[trial].append([float(rng.randrange(8))])  # with ties
        rungs[rung][trial] = losses[trial][-1][0]
        assert race.arrive(trial, losses[trial]) == (rung < height - 1)
    check_race(race)


def test_nobody_passes_a_rung_before_eta_have_been_there() -> None:
    race = Race(FOUR, PLAIN)
    reach(race, 0, 1.0)
    reach(race, 1, 2.0)
    assert race.next() is None
    reach(race, 2, 3.0)
    assert list(promoted(race)) == [(0, 0)]


def test_the_highest_rung_comes_first() -> None:
    race = Race(FOUR, PLAIN)
    for trial in range(9):
        reach(race, trial, float(trial))
    assert list(promoted(race)) == [(0, 0), (1, 0), (2, 0)]
    for trial in (2, 1, 0):
        reach(race, trial, float(trial), float(trial))
    for trial in (9, 10, 11):
        reach(race, trial, -1.0)
    assert list(promoted(race)) == [(0, 1), (9, 0), (10, 0), (11, 0)]


def test_ties_go_to_the_lower_number() -> None:
    race = Race(FOUR, PLAIN)
    for trial in (4, 2, 5, 0, 3, 1):
        reach(race, trial, 1.0)
    assert list(promoted(race)) == [(0, 0), (1, 0)]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_never_promoted(broken: float) -> None:
    race = Race(FOUR, Rule(2.0, first_wave=0.0))
    for trial in range(8):
        reach(race, trial, broken)
    race.exhausted = True
    assert race.next() is None
    reach(race, 8, 99.0)
    assert race.next() == 8
    assert race.incumbent is None
    check_race(race)


def test_a_fold_that_is_no_number_spoils_the_mean() -> None:
    race = Race((Rung(2, 1), Rung(2, 2)), Rule(first_wave=0.0))
    race.enter(0)
    race.arrive(0, [[1.0, math.nan]])
    race.exhausted = True
    assert race.next() is None


def test_a_trial_that_has_failed_holds_its_place_but_does_not_go_on() -> None:
    race = Race(FOUR, PLAIN)
    for trial in range(3):
        reach(race, trial, float(trial))
    race.end(0)
    assert race.next() is None
    for trial in range(3, 6):
        reach(race, trial, float(trial))
    assert race.next() == 1
    check_race(race)


# --- the first wave and the leader ---------------------------------------------------------------


def test_until_the_first_wave_is_in_nobody_goes_on_to_the_two_rungs_at_the_top() -> None:
    race = Race(FOUR, Rule(first_wave=0.5), trials=24)
    for trial in range(11):
        reach(race, trial, float(trial))
        for up, rung in list(promoted(race)):
            assert rung == 0
            reach(race, up, float(up), float(up))
    assert len(race.brackets[0].scores[1]) == 3
    reach(race, 11, 11.0)
    assert race.next() == 0


def test_afterwards_the_leader_of_a_rung_may_always_go_on() -> None:
    race = Race(FOUR, Rule(first_wave=0.1), trials=10)
    for rung in range(1, 4):
        assert reach(race, 0, *[5.0] * rung)
        race.exhausted = (
            rung == 3
        )  # alone at the rung below the top: it waits for other finalists, if any may come
        assert race.next() == 0
        race.promote(0)
    assert not reach(race, 0, *[5.0] * 4)
    assert race.incumbent is race.runners[0]
    race.exhausted = False
    for rung in range(1, 4):
        reach(race, 1, *[4.0] * rung)
        assert race.next() == 1
        race.promote(1)
    reach(race, 2, 4.5)
    assert race.next() is None, "trial 1 leads there, and has gone on"


def test_a_first_wave_never_waits_for_more_than_the_plain_rule_does() -> None:
    bracket = Race(FOUR, Rule(first_wave=1.0), trials=1000).brackets[0]
    assert bracket.first_wave == 27
    assert Race(FOUR, Rule(first_wave=0.5), trials=3).brackets[0].first_wave == 2
    assert Race(FOUR, Rule(first_wave=0.0), trials=1000).brackets[0].first_wave == 1


def test_a_huge_reduction_factor_is_no_error() -> None:
    ladder = tuple(Rung(1, epochs) for epochs in range(1, 6))
    assert Race(ladder, Rule(1e100), trials=8).brackets[0].first_wave <= 8


# --- the last chance -----------------------------------------------------------------------------


def last_chances(margin: float | None) -> Race:
    """Trials 0, 1 and 2 have made both steps; on trial 0, the leader, they lost √8
    root-mean-square at the first and gained 1 at the second. Trial 3 waits at the lowest rung, 2.9
    behind it, and trial 4 another 0.3."""
    race = Race(FOUR[:3], Rule(first_wave=0.0, margin=margin), trials=5)
    for trial, scores in enumerate(
        [
            (1.0, 1.0, 1.0),
            (1.0, 3.0, 2.0),
            (1.0, 1.0 + math.sqrt(12), math.sqrt(12)),
            (3.9,),
            (4.2,),
        ]
    ):
        for rung in range(1, len(scores) + 1):
            reach(race, trial, *scores[:rung])
            if rung < len(scores):
                race.promote(trial)
    race.exhausted = True
    return race


def test_the_last_chance_is_for_those_within_the_margin_of_usual_changes() -> None:
    race = last_chances(1.0)  # √(8 + 1) = 3
    assert list(promoted(race)) == [(3, 0)]
    assert last_chances(2.9 / 3).next() is None
    assert list(promoted(last_chances(1.1))) == [(3, 0), (4, 0)]


def test_without_a_margin_nobody_is_tried_once_there_is_a_leader() -> None:
    assert last_chances(None).next() is None


def test_there_is_no_last_chance_while_new_ones_may_start() -> None:
    race = last_chances(9.0)
    race.exhausted = False
    assert race.next() is None


@pytest.mark.parametrize("rule", [PLAIN, Rule()])
def test_without_a_leader_the_one_nearest_to_the_top_goes_on(rule: Rule) -> None:
    race = Race(FOUR, rule, trials=100)
    reach(race, 0, 5.0)
    reach(race, 1, 7.0)
    race.promote(1)
    reach(race, 1, 7.0, 7.0)
    assert race.next() is None
    race.exhausted = True
    assert race.next() == 1


# --- trials that start again, and brackets -------------------------------------------------------


def test_a_trial_that_starts_again_passes_its_rungs_silently() -> None:
    race = Race(FOUR, PLAIN)
    for trial in range(3):
        reach(race, trial, float(trial))
    race.promote(0)
    race.end(0)
    race.enter(0)
    assert not reach(race, 0, 0.5), "its old score stands"
    assert race.brackets[0].scores[0][0] == (0.0, 0)
    assert reach(race, 0, 0.0, 0.0)
    assert race.runners[0].paused_at == 1
    check_race(race)


def test_a_rerun_with_other_losses_leaves_scores_and_losses_in_step() -> None:
    race = Race(FOUR, PLAIN)
    reach(race, 0, 1.0)
    race.promote(0)
    race.enter(0)  # it starts again, on another kind of GPU
    reach(race, 0, 1.001, 0.5)
    check_race(race)


def test_a_trial_that_waited_and_starts_again_waits_no_more() -> None:
    race = Race(FOUR, Rule(first_wave=0.0))
    reach(race, 0, 1.0)
    race.enter(0)
    assert race.next() is None
    assert not race.runners[0].ended
    check_race(race)


def test_several_rungs_at_once_leave_it_waiting_at_the_last() -> None:
    race = Race(FOUR, PLAIN)
    assert reach(race, 0, 3.0, 2.0, 1.0)
    assert race.runners[0].paused_at == 2
    check_race(race)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.permutations(range(12)), st.integers(1, 4))
def test_brackets_go_by_number_alone(order: list[int], brackets: int) -> None:
    ladder = FOUR
    races = [Race(ladder, Rule(brackets=brackets)) for _ in range(2)]
    for one, another in zip(range(12), order, strict=True):
        races[0].enter(one)
        races[1].enter(another)
    first, second = ({n: r.bracket.first for n, r in race.runners.items()} for race in races)
    assert first == second


def test_brackets_have_their_shares_and_compete_apart() -> None:
    race = Race(FOUR, Rule(first_wave=None, margin=None, brackets=2))
    for trial in range(16):
        race.enter(trial)
    upper = [number for number, runner in race.runners.items() if runner.bracket.first == 1]
    assert len(upper) == 4
    assert not reach(race, upper[0], 0.0), "it does not pause below its bracket's first rung"
    assert reach(race, upper[0], 0.0, 0.0)
    lower = [number for number in race.runners if number not in upper]
    for number in lower[:3]:
        reach(race, number, 9.0)
    assert race.next() == lower[0]
    check_race(race)


def test_a_ladder_of_one_rung_needs_no_race() -> None:
    race = Race((Rung(5, 9),), Rule())
    assert not reach(race, 0, 1.0)
    assert race.runners[0].ended
    assert race.incumbent is race.runners[0]
    assert race.next() is None


def test_the_leader_is_the_best_of_all_brackets() -> None:
    race = Race(FOUR[:2], Rule(brackets=2))
    for trial in range(4):
        race.enter(trial)
    by_bracket = {runner.bracket.first: number for number, runner in race.runners.items()}
    reach(race, by_bracket[0], 1.0, 2.0)
    reach(race, by_bracket[1], 1.0, 1.5)
    assert race.incumbent is race.runners[by_bracket[1]]


@pytest.mark.parametrize(
    ("ladder", "finalists"),
    [
        ([(1, 9), (3, 9)], 2),  # two rungs say nothing of the costs of the steps
        ([(1, 1), (1, 2), (9, 2)], 8),  # (18 − 2) / (2 · 1)
        ([(1, 1), (1, 3), (1, 9), (3, 9)], 2),
    ],
)
def test_the_finalists_follow_from_the_costs_of_the_last_two_steps(ladder, finalists):
    rungs = tuple(Rung(*rung) for rung in ladder)
    assert Race(rungs, Rule(), trials=9)._finalists() == finalists


def test_one_step_says_nothing_of_how_far_trials_change():
    race = Race((Rung(1, 1), Rung(1, 2), Rung(1, 3)), Rule(), trials=4)
    for trial, losses in enumerate([[0.1, 0.1], [0.2, 0.5], [0.3, 0.3]]):
        race.enter(trial)
        race.arrive(trial, [[loss] for loss in losses])
        change = race._change(0, race.runners[0])
        assert change == (math.inf if trial < 2 else pytest.approx((0.3**2 + 0.0) / 2))


@pytest.mark.parametrize(("trials", "planned"), [(20, [15, 5]), (8, [6, 2]), (1, [1, 1])])
def test_brackets_plan_for_their_share_of_the_trials(trials: int, planned: list[int]) -> None:
    race = Race(FOUR, Rule(reduction_factor=3, brackets=2), trials=trials)
    assert [bracket.planned for bracket in race.brackets] == planned


def test_a_completed_trial_without_a_finite_score_is_no_leader() -> None:
    race = Race(FOUR[:2], Rule())
    for trial in range(3):
        race.enter(trial)
    reach(race, 2, 1.0, math.inf)
    assert race.incumbent is None
    reach(race, 1, 1.0, 9.0)
    assert race.incumbent is race.runners[1]


# --- a bracket alone -----------------------------------------------------------------------------


def bracket(*reached: int, rule: Rule = Rule(3, first_wave=0.5)) -> Bracket:  # noqa: B008
    """Of four rungs and six planned trials, of which so many have reached each rung."""
    made = Bracket(0, 3, rule, finalists=2, share=1.0, planned=6)
    for rung, count in enumerate(reached):
        for trial in range(count):
            made.arrive(trial, rung, float(trial))
    return made


@pytest.mark.parametrize(
    ("reached", "quotas"),
    [
        ((2, 0, 0), [0, 0, 0]),  # the first wave of three is incomplete
        ((3, 0, 0), [1, 2, 0]),
        ((3, 2, 1), [1, 2, 0]),  # one finalist waits for the other
        ((3, 2, 2), [1, 2, 1]),
        ((9, 9, 2), [3, 3, 1]),
        ((9, 9, 2, 1), [3, 3, 1]),
        ((3, 2, 1, 1), [1, 1, 1]),  # there is an incumbent: nobody waits any more
    ],
)
def test_how_many_may_be_promoted_from_each_rung(reached: Any, quotas: list[int]) -> None:
    found = bracket(*reached)
    assert [found.quota(rung) for rung in range(3)] == quotas


@pytest.mark.parametrize("rung", [0, 1, 2])
def test_whoever_is_paused_at_any_rung_may_be_promoted(rung: int) -> None:
    found = bracket(*[3] * (rung + 1))
    for below in range(rung):
        for trial in range(3):
            found.leave(trial, below, float(trial))
    assert found.promotable() == (0, rung)


@pytest.mark.parametrize("other", [(2, 1.0), (0, 5.0), (7, 0.5), (9, 9.0)])
def test_who_is_not_paused_there_does_not_leave(other: tuple[int, float]) -> None:
    found = bracket(2)
    found.leave(other[0], 0, other[1])
    assert found.paused[0] == [(0, 0.0), (1, 1.0)]
    found.leave(0, 0, 0.0)
    assert found.paused[0] == [(1, 1.0)] and len(found.scores[0]) == 2


def test_the_settings_of_a_race_that_says_nothing() -> None:
    assert Rule() == Rule(3.0, first_wave=1 / 3, finalists=None, margin=1.0, brackets=1)
