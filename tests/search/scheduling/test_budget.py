"""Limits of a sweep: what is reached, and what can still be paid."""

from __future__ import annotations

import math

import pytest

from foldrace.search.scheduling.budget import Budget, Spending


def test_without_limits_everything_is_affordable() -> None:
    spending = Spending(Budget(), fold_epochs=10**9, elapsed=1e9, best=-math.inf)
    assert spending.exceeded is None
    assert spending.affords(10**9)


@pytest.mark.parametrize(
    ("budget", "spent", "expected"),
    [
        (Budget(fold_epochs=10), {"fold_epochs": 9}, None),
        (Budget(fold_epochs=10), {"fold_epochs": 10}, "fold-epochs"),
        (Budget(fold_epochs=10), {"fold_epochs": 9, "pledged": 5}, None),
        (Budget(seconds=5), {"elapsed": 4.99}, None),
        (Budget(seconds=5), {"elapsed": 5.0}, "time"),
        (Budget(target=0.5), {}, None),
        (Budget(target=0.5), {"best": 0.51}, None),
        (Budget(target=0.5), {"best": 0.5}, "target"),
        (Budget(target=-1.0), {"best": math.nan}, None),
        (
            Budget(fold_epochs=10, seconds=5, target=1.0),
            {"fold_epochs": 10, "elapsed": 5, "best": 1.0},
            "target",
        ),
        (Budget(fold_epochs=10, seconds=5), {"fold_epochs": 10, "elapsed": 5}, "time"),
    ],
)
def test_exceeded_says_which_limit(
    budget: Budget, spent: dict[str, float], expected: str | None
) -> None:
    exceeded = Spending(budget, **spent).exceeded  # type: ignore[arg-type]
    assert exceeded is None if expected is None else expected in (exceeded or "")


def test_what_is_pledged_counts_as_spent() -> None:
    spending = Spending(Budget(fold_epochs=100), fold_epochs=30, pledged=20)
    assert spending.affords(50)
    assert not spending.affords(51)


def test_time_is_reckoned_at_the_pace_so_far() -> None:
    spending = Spending(Budget(seconds=100), fold_epochs=10, train_seconds=20.0, elapsed=60.0)
    assert spending.affords(20)
    assert not spending.affords(21)


def test_without_a_pace_yet_time_allows_a_start() -> None:
    assert Spending(Budget(seconds=0.001)).affords(10**6)


@pytest.mark.parametrize(
    "budget", [Budget(fold_epochs=0), Budget(seconds=0.0), Budget(target=math.inf)]
)
def test_nothing_is_affordable_once_a_limit_is_reached(budget: Budget) -> None:
    assert not Spending(budget).affords(0)


def test_both_limits_must_allow_it() -> None:
    spending = Spending(
        Budget(fold_epochs=100, seconds=100), fold_epochs=10, train_seconds=10.0, elapsed=50.0
    )
    assert spending.affords(50)
    assert not spending.affords(60)
    spending.elapsed = 10.0
    assert spending.affords(90)
    assert not spending.affords(91)
