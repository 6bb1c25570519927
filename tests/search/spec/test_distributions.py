"""What each form of a space's entry can be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from foldrace.search.spec.distribution_base import Distribution
from foldrace.search.spec.distributions import Fixed
from foldrace.search.spec.sweep_spec import parse_spec

FORMS: dict[str, Any] = {
    "choice": {"choice": ["adam", "sgd"]},
    "one choice": {"choice": [64]},
    "uniform": {"uniform": [0.0, 1.0]},
    "stepped": {"uniform": [0.0, 1.0], "step": 0.25},
    "log": {"log": [0.01, 1.0]},
    "int": {"int": [1, 9]},
    "stepped int": {"int": [2, 10], "step": 4},
    "log_int": {"log_int": [1, 16]},
    "fixed": 3,
}


def entry(form: str) -> Distribution:
    spec = parse_spec({"dataset": "digits", "space": {"x": FORMS[form]}}, Path())
    return spec.space["x"]


@pytest.mark.parametrize("form", FORMS)
def test_optunas_form_is_the_one_that_a_draw_leaves(form: str) -> None:
    asked = entry(form)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    value = asked.suggest(trial, "x")
    assert asked.contains(value)
    assert trial.distributions == ({} if isinstance(asked, Fixed) else {"x": asked.to_optuna()})


@pytest.mark.parametrize(
    ("form", "upper", "middle", "grid"),
    [
        ("choice", "adam", "adam", ["adam", "sgd"]),
        ("uniform", 1.0, 0.5, None),
        ("stepped", 1.0, 0.5, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("log", 1.0, 0.1, None),
        ("int", 9, 5, list(range(1, 10))),
        ("stepped int", 10, 6, [2, 6, 10]),
        ("log_int", 16, 4, list(range(1, 17))),
        ("fixed", 3, 3, [3]),
    ],
)
def test_the_upper_end_the_middle_and_the_grid(
    form: str, upper: Any, middle: Any, grid: list[Any] | None
) -> None:
    asked = entry(form)
    assert (asked.upper, asked.middle) == (upper, pytest.approx(middle))
    assert (asked.grid if asked.grid is None else list(asked.grid)) == grid


@pytest.mark.parametrize(
    ("form", "outside"),
    [
        ("choice", "rmsprop"),
        ("one choice", True),
        ("uniform", 1.5),
        ("stepped", 0.3),
        ("log", 0.001),
        ("int", 10),
        ("stepped int", 4),
        ("log_int", None),
        ("fixed", 4),
    ],
)
def test_a_value_outside_is_not_contained(form: str, outside: Any) -> None:
    assert not entry(form).contains(outside)
