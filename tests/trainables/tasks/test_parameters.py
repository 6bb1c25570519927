"""Every parameter is checked wherever it comes from, and a wrong one is named with its rule and
the way out."""

from __future__ import annotations

import inspect
import math
import pickle

import pytest

from foldrace.errors import InputError, nearest
from foldrace.trainables.tasks.parameters import (
    DEFAULT_LEARNING_RATES,
    OPTIMIZER_PARAMETERS,
    TRAINING_PARAMETERS,
    Parameter,
    check_optimizer_parameters,
    complete,
)
from foldrace.trainables.training.optimizers import _CLASSES

OWN = {name for own in OPTIMIZER_PARAMETERS.values() for name in own}


def test_defaults_are_filled_in_and_an_optimizers_own_are_left_out():
    params = complete({}, {"latent_dim": Parameter(16, low=1)})
    assert params == {
        "optimizer": "adam",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "batch_size": 128,
        "schedule": "constant",
        "latent_dim": 16,
    }
    assert not OWN & set(params)


def test_what_is_given_wins_and_the_input_stays_as_it_was():
    given = {"lr": 1, "optimizer": "sgd", "momentum": 0.9}
    params = complete(given, {})
    assert (params["lr"], params["momentum"]) == (1.0, 0.9)
    assert type(params["lr"]) is float
    assert given == {"lr": 1, "optimizer": "sgd", "momentum": 0.9}


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(
        InputError, match=r"space\.latent_dims: 4: unknown parameter; did you mean 'latent_dim'\?"
    ):
        complete({"latent_dims": 4}, {"latent_dim": Parameter(16)}, "space")


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("lr", 0.0, "must be a number above 0"),
        ("lr", -1e-3, "must be a number above 0"),
        ("lr", math.nan, "must be a number above 0"),
        ("lr", math.inf, "must be a number above 0"),
        ("lr", True, "must be a number above 0"),
        ("lr", "0.1", "must be a number above 0"),
        ("lr", None, "must be a number above 0"),
        ("weight_decay", -0.1, "must be a number at least 0"),
        ("batch_size", 0, "must be a whole number at least 1"),
        ("batch_size", 1.5, "must be a whole number at least 1"),
        ("batch_size", True, "must be a whole number at least 1"),
        ("beta1", 1.0, "must be a number at least 0 and below 1"),
        ("eps", 0.0, "must be a number above 0"),
        ("amsgrad", 1, "must be true or false"),
        ("optimizer", "adm", r"must be one of adam, .*; did you mean 'adam'\?"),
        ("schedule", None, "must be one of constant, cosine, one-cycle"),
    ],
)
def test_a_wrong_value_is_refused_by_field_value_and_rule(name, value, rule):
    with pytest.raises(InputError, match=rf"^parameters\.{name}: .*{rule}") as caught:
        complete({name: value}, {})
    assert caught.value.field == f"parameters.{name}"
    assert caught.value.value is value


def test_bounds_are_open_and_closed_as_declared():
    closed, opened = Parameter(0.5, low=0.0, high=1.0), Parameter(0.5, above=0.0, below=1.0)
    assert [closed.check("x", v) for v in (0, 1)] == [0.0, 1.0]
    for value in (0.0, 1.0):
        with pytest.raises(InputError, match="above 0 and below 1"):
            opened.check("x", value)
    for value in (-1e-9, 1 + 1e-9):
        with pytest.raises(InputError, match="at least 0 and at most 1"):
            closed.check("x", value)


def test_a_value_takes_the_type_of_the_default():
    whole = Parameter(4).check("x", 3.0)
    assert (whole, type(whole)) == (3, int)
    assert type(Parameter(0.5).check("x", 3)) is float
    assert Parameter(None).check("x", None) is None
    assert type(Parameter(None).check("x", 3)) is float
    with pytest.raises(InputError, match="must be text"):
        Parameter("a").check("x", 3)


def test_a_number_too_large_for_a_float_is_refused():
    with pytest.raises(InputError, match="must be a number above 0"):
        complete({"lr": 10**400}, {})


def test_momentum_for_adam_names_its_owners_and_the_condition_to_write():
    with pytest.raises(InputError) as caught:
        check_optimizer_parameters({"optimizer": "adam", "momentum": 0.9}, "space")
    text = str(caught.value)
    assert text.startswith(
        "space.momentum: 0.9: adam has no parameter of that name (it has: amsgrad, beta1,"
    )
    assert "momentum belongs to sgd, rmsprop: add `when: {optimizer: [sgd, rmsprop]}`" in text


def test_the_default_optimizer_counts_when_none_is_given():
    with pytest.raises(InputError, match="adam has no parameter"):
        complete({"rho": 0.5}, {})


@pytest.mark.parametrize("momentum", [{}, {"momentum": 0.0}])
def test_nesterov_without_momentum_is_refused(momentum):
    with pytest.raises(InputError, match="Nesterov momentum needs a momentum above 0"):
        complete({"optimizer": "sgd", "nesterov": True, **momentum}, {})
    assert complete({"optimizer": "sgd", "nesterov": False, **momentum}, {})["nesterov"] is False


def test_every_default_keeps_its_own_rule():
    for name, parameter in TRAINING_PARAMETERS.items():
        assert parameter.check(name, parameter.default) == parameter.default
        assert parameter.doc


def test_an_error_survives_a_process_border():
    error = pickle.loads(
        pickle.dumps(InputError("folds.splits", 1, "must be at least 2", "use a holdout"))
    )
    assert str(error) == "folds.splits: 1: must be at least 2; use a holdout"
    assert (error.field, error.value) == ("folds.splits", 1)
    assert isinstance(error, ValueError)


def test_a_hint_lists_the_choices_when_none_is_near():
    assert nearest("zzz", ["sgd", "adam"]) == "one of: adam, sgd"


def test_the_default_learning_rates_are_pytorchs():
    assert {
        name: inspect.signature(made).parameters["lr"].default for name, made in _CLASSES.items()
    } == dict(DEFAULT_LEARNING_RATES)
    assert set(DEFAULT_LEARNING_RATES) == set(OPTIMIZER_PARAMETERS)
