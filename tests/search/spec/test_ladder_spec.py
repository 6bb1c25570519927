"""Ladder, brackets and budgets in a sweep file: what they become, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foldrace.errors import InputError
from foldrace.search.spec.sweep_spec import SweepSpec, parse_spec
from foldrace.trainables.training.ladder import Rung
from foldrace.trainables.training.splits import FoldKind, FoldPlan


def parse(**keys: Any) -> SweepSpec:
    return parse_spec({"dataset": "digits", **keys}, Path())


def test_a_race_trains_one_fold_first_and_the_others_last() -> None:
    assert parse(epochs=9).ladder == (Rung(1, 1), Rung(1, 3), Rung(1, 9), Rung(3, 9))
    spec = parse(
        epochs=16, folds={"splits": 5}, scheduler={"reduction_factor": 4, "grace_epochs": 2}
    )
    assert spec.ladder == (Rung(1, 2), Rung(1, 8), Rung(1, 16), Rung(5, 16))


@pytest.mark.parametrize(
    ("folds", "count"),
    [
        ({"splits": 4}, 4),
        ({"splits": 3, "seeds": 2}, 6),
        ({"kind": "repeated", "splits": 3, "repeats": 2}, 6),
        ({"kind": "repeated", "splits": 2, "repeats": 2, "seeds": 3}, 12),
        ({"kind": "holdout"}, 1),
        ({"kind": "holdout", "seeds": 3}, 3),
    ],
)
def test_repeats_and_seeds_are_folds(folds: dict[str, Any], count: int) -> None:
    spec = parse(folds=folds)
    given = spec.folds
    plan = FoldPlan(
        40,
        FoldKind(given.kind),
        splits=given.splits,
        repeats=given.repetitions,
        fraction=given.fraction,
        seeds=given.seeds,
    )
    assert spec.folds.count == plan.folds == len(plan.split()) == count
    assert spec.ladder[-1] == Rung(count, 9)


def test_each_further_seed_trains_the_same_splits_again() -> None:
    once, twice = FoldPlan(30, seeds=1).split(), FoldPlan(30, seeds=2).split()
    for split, again in zip([*once, *once], twice, strict=True):
        assert split.train.tolist() == again.train.tolist()


def test_stopping_moves_all_folds_together_and_fifo_has_one_rung() -> None:
    assert parse(scheduler={"kind": "stopping"}).ladder == (Rung(3, 1), Rung(3, 3), Rung(3, 9))
    assert parse(scheduler={"kind": "fifo"}).ladder == (Rung(3, 9),)


def test_a_given_ladder_round_trips() -> None:
    rungs = [[1, 2], [2, 2], [3, 9]]
    for kind in ("promotion", "stopping"):
        spec = parse(scheduler={"kind": kind, "ladder": rungs})
        assert spec.ladder == (Rung(1, 2), Rung(2, 2), Rung(3, 9))
        import yaml

        assert parse_spec(yaml.safe_load(spec.to_yaml()), Path()) == spec


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"scheduler": {"ladder": [[1, 1], [1, 9]]}},
            "scheduler.ladder: [[1, 1], [1, 9]]: must end with all 3 folds",
        ),
        (
            {"scheduler": {"ladder": [[1, 3], [1, 1], [3, 9]]}},
            "scheduler.ladder[1]: [1, 1]: must rise above the rung",
        ),
        (
            {"scheduler": {"ladder": [[1, 1], [1, 1], [3, 9]]}},
            "must rise above the rung before it, [1, 1]",
        ),
        (
            {"scheduler": {"ladder": [[2, 3], [1, 9], [3, 9]]}},
            "must rise above the rung before it, [2, 3]",
        ),
        ({"scheduler": {"ladder": [3, 9]}}, "must be a list of rungs, [folds, epochs] each"),
        ({"scheduler": {"ladder": [[0, 1], [3, 9]]}}, "must be a whole number"),
        ({"scheduler": {"ladder": []}}, "must be a list of rungs"),
        ({"scheduler": {"kind": "fifo", "ladder": [[3, 9]]}}, "is not for kind: fifo"),
        ({"scheduler": {"kind": "stopping", "brackets": 2}}, "is for kind: promotion alone"),
        ({"scheduler": {"brackets": 9}}, "must be at most the number of rungs, 4"),
        ({"scheduler": {"reduction_factor": 1e100}}, "scheduler.reduction_factor"),
        (
            {"search": {"fold_epochs": 26}},
            "search.fold_epochs: 26: must be at least the cost of one completed trial",
        ),
        ({"search": {"fold_epochs": 0}}, "search.fold_epochs: 0"),
        ({"search": {"target": "low"}}, "search.target: low: must be a number"),
    ],
)
def test_invalid_ladders_and_budgets_are_refused_with_place_and_rule(
    keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        parse(**keys)
    assert words in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [{"search": {"fold_epochs": 500}}, {"search": {"target": 0.1}}, {"folds": {"seeds": 2}}],
)
def test_a_comparison_takes_no_budget_and_no_seeds(keys: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="comparison"):
        parse(kind="comparison", comparison={"arms": {"adam": {}, "sgd": {}}}, **keys)
