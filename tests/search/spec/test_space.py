"""A space draws only what training accepts, keeps its conditions, and refuses at the start what
could fail later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from foldrace.errors import InputError
from foldrace.search.spec.space import SearchSpace
from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.trainables.tasks.parameters import (
    OPTIMIZER_PARAMETERS,
    TRAINING_PARAMETERS,
    Parameter,
    complete,
)

optuna.logging.set_verbosity(optuna.logging.WARNING)

TASK = {
    "latent_dim": Parameter(16, "size of the code", low=1),
    "layers": Parameter(2, "hidden layers", low=1, high=8),
    "dropout": Parameter(0.0, "share of units", low=0.0, below=1.0),
    "norm": Parameter("none", "normalisation", choices=("none", "batch", "group")),
    "groups": Parameter(4, "groups of the normalisation", low=1),
    "tied": Parameter(False, "tied weights"),
    "weight": Parameter(1.0, "of the second term", low=0.0),
}
DECLARED = {**TRAINING_PARAMETERS, **TASK}
OWN = {name for own in OPTIMIZER_PARAMETERS.values() for name in own}


def build(**space: Any) -> SearchSpace:
    spec = parse_spec({"dataset": "digits", "space": space}, Path("/"))
    return SearchSpace.build(spec.space, DECLARED)


def draw(space: SearchSpace, n: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [space.suggest(study.ask()) for _ in range(n)]


NESTED = {
    "groups": {"choice": [2, 4], "when": {"norm": "group"}},
    "norm": {"choice": ["none", "group"], "when": {"layers": [3, 4]}},
    "layers": {"int": [1, 4]},
    "lr": {"log": [1e-4, 1e-1]},
    "optimizer": {"choice": ["adam", "sgd"]},
    "momentum": {"uniform": [0.1, 0.9], "step": 0.4, "when": {"optimizer": ["sgd"]}},
    "nesterov": {"choice": [True, False], "when": {"optimizer": ["sgd"]}},
    "batch_size": {"log_int": [16, 256]},
    "latent_dim": 8,
}


# --- drawing -------------------------------------------------------------------------------------


def test_conditions_hold_in_every_draw() -> None:
    drawn = draw(build(**NESTED), 200)
    for params in drawn:
        assert ("norm" in params) == (params["layers"] >= 3)
        assert ("groups" in params) == (params.get("norm") == "group")
        assert ("momentum" in params) == ("nesterov" in params) == (params["optimizer"] == "sgd")
        assert params["latent_dim"] == 8
        assert params.get("momentum", 0.1) in (0.1, 0.5, 0.9)
        complete(params, TASK)
    assert {params.get("groups") for params in drawn} == {None, 2, 4}


def test_draws_have_the_declared_types_and_ranges() -> None:
    space = build(
        weight={"int": [0, 3]},
        layers={"int": [2, 8], "step": 3},
        lr={"choice": [1, 0.1]},
        eps=None,
    )
    for params in draw(space):
        assert isinstance(params["weight"], float) and isinstance(params["lr"], float)
        assert type(params["layers"]) is int and params["layers"] in (2, 5, 8)
        assert params["eps"] is None


def test_parents_come_first_whatever_the_order_of_the_file() -> None:
    space = build(**NESTED)
    order = space.parameters
    assert order.index("layers") < order.index("norm") < order.index("groups")
    assert set(order) == set(NESTED) and set(space.tunable) == set(NESTED) - {"latent_dim"}


def test_only_what_varies_reaches_optuna() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space, trial = build(**NESTED), study.ask()
    params = space.suggest(trial)
    assert trial.params == {name: value for name, value in params.items() if name in space.tunable}


def test_a_fixed_value_can_have_a_condition() -> None:
    space = build(
        optimizer={"choice": ["adam", "sgd"]},
        momentum={"value": 0.9, "when": {"optimizer": "sgd"}},
    )
    assert {(p["optimizer"], p.get("momentum")) for p in draw(space)} == {
        ("adam", None),
        ("sgd", 0.9),
    }


def test_the_same_seed_draws_the_same() -> None:
    assert draw(build(**NESTED), 5, seed=1) == draw(build(**NESTED), 5, seed=1)


def test_an_empty_space_is_all_defaults() -> None:
    assert draw(build(), 1) == [{}]


# --- points to start with ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point",
    [
        {"optimizer": "adam", "lr": 0.001},
        {
            "optimizer": "sgd",
            "momentum": 0.5,
            "nesterov": True,
            "layers": 4,
            "norm": "group",
            "groups": 2,
        },
        {"batch_size": 17, "latent_dim": 8},
        {},
    ],
)
def test_a_point_is_what_the_next_trial_gets(point: dict[str, Any]) -> None:
    space = build(**NESTED)
    checked = space.check_point(point, "search.start_with[0]")
    assert checked == {name: value for name, value in point.items() if name != "latent_dim"}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(checked)
    params = space.suggest(study.ask())
    assert point.items() <= params.items()


@pytest.mark.parametrize(
    ("point", "name", "word"),
    [
        ({"learning_rate": 0.1}, "learning_rate", "not in the space"),
        ({"dropout": 0.1}, "dropout", "not in the space"),
        ({"lr": 0.5}, "lr", "{log: [0.0001, 0.1]}"),
        ({"lr": "fast"}, "lr", "must be a number"),
        ({"optimizer": "adamw"}, "optimizer", "not among"),
        ({"optimizer": "adem"}, "optimizer", "did you mean"),
        ({"batch_size": 8}, "batch_size", "range"),
        ({"batch_size": 16.5}, "batch_size", "whole number"),
        ({"optimizer": "sgd", "momentum": 0.3}, "momentum", "range"),
        (
            {"optimizer": "adam", "momentum": 0.5},
            "momentum",
            "exists only if optimizer is sgd; here it is adam",
        ),
        ({"momentum": 0.5}, "momentum", "add optimizer"),
        ({"layers": 2, "norm": "group"}, "norm", "exists only if layers is 3 or 4"),
        ({"layers": 3, "groups": 2}, "groups", "norm"),
        ({"latent_dim": 9}, "latent_dim", "fixed to 8"),
    ],
)
def test_points_outside_the_space(point: dict[str, Any], name: str, word: str) -> None:
    with pytest.raises(InputError) as caught:
        build(**NESTED).check_point(point, "search.start_with[2]")
    assert caught.value.field == f"search.start_with[2].{name}"
    assert word in str(caught.value)


# --- spaces that are refused ---------------------------------------------------------------------

CHOICE = {"choice": ["adam", "sgd", "rmsprop"]}
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"learning_rat": 0.1}, "space.learning_rat", "unknown parameter"),
    ({"latent_dims": 3}, "space.latent_dims", "did you mean 'latent_dim'?"),
    ({"lr": 0}, "space.lr", "above 0"),
    ({"lr": "0.1"}, "space.lr", "must be a number"),
    ({"lr": {"uniform": [0, 1]}}, "space.lr", "above 0"),
    ({"dropout": {"uniform": [0, 1]}}, "space.dropout", "below 1"),
    ({"lr": {"choice": [0.1, -1]}}, "space.lr", "above 0"),
    ({"optimizer": {"choice": ["adam", "sdg"]}}, "space.optimizer", "did you mean 'sgd'?"),
    ({"optimizer": {"int": [1, 2]}}, "space.optimizer", "no range"),
    ({"tied": {"int": [0, 1]}}, "space.tied", "true or false"),
    ({"latent_dim": {"uniform": [2, 8]}}, "space.latent_dim", "use {int: [low, high]}"),
    ({"latent_dim": {"log": [2, 8]}}, "space.latent_dim", "use {log_int: [low, high]}"),
    ({"layers": {"int": [1, 9]}}, "space.layers", "at most 8"),
    ({"layers": {"choice": [1, 1.0001]}}, "space.layers", "whole number"),
    (
        {"lr": {"value": 0.1, "when": {"optimiser": "sgd"}}, "optimizer": CHOICE},
        "space.lr.when.optimiser",
        "did you mean 'optimizer'?",
    ),
    (
        {"lr": {"value": 0.1, "when": {"optimizer": "adam"}}},
        "space.lr.when.optimizer",
        "stays 'adam'",
    ),
    ({"lr": {"value": 0.1, "when": {"lr": 0.1}}}, "space.lr.when.lr", "itself"),
    (
        {"lr": {"value": 0.1, "when": {"norm": "batc"}}, "norm": {"choice": ["none", "batch"]}},
        "space.lr.when.norm",
        "did you mean 'batch'?",
    ),
    (
        {"lr": {"value": 0.1, "when": {"norm": "group"}}, "norm": {"choice": ["none", "batch"]}},
        "space.lr.when.norm",
        "never has this value",
    ),
    (
        {"lr": {"value": 0.1, "when": {"layers": 5}}, "layers": {"int": [1, 4]}},
        "space.lr.when.layers",
        "never has this value",
    ),
    (
        {"lr": {"value": 0.1, "when": {"dropout": 0.5}}, "dropout": {"uniform": [0, 0.5]}},
        "space.lr.when.dropout",
        "continuous",
    ),
    (
        {
            "norm": {"choice": ["none"], "when": {"layers": 1}},
            "layers": {"value": 1, "when": {"norm": "none"}},
        },
        "space.norm.when",
        "circle",
    ),
    (
        {"optimizer": CHOICE, "momentum": {"uniform": [0, 0.9]}},
        "space.momentum",
        "adam has no parameter of that name; add `when: {optimizer: [sgd, rmsprop]}`",
    ),
    (
        {
            "optimizer": CHOICE,
            "alpha": {"uniform": [0.5, 0.9], "when": {"optimizer": ["sgd", "rmsprop"]}},
        },
        "space.alpha",
        "sgd has no parameter of that name; add `when: {optimizer: [rmsprop]}`",
    ),
    (
        {
            "optimizer": CHOICE,
            "norm": {"choice": ["none", "batch"]},
            "momentum": {"uniform": [0, 0.9], "when": {"norm": "batch"}},
        },
        "space.momentum",
        "`when: {norm: [batch], optimizer: [sgd, rmsprop]}`",
    ),
    ({"optimizer": "adam", "momentum": 0.9}, "space.momentum", "adam has no parameter"),
    ({"momentum": 0.9}, "space.momentum", "adam is the optimizer by default"),
    (
        {
            "norm": {"choice": ["none", "batch"]},
            "optimizer": {"value": "sgd", "when": {"norm": "batch"}},
            "momentum": 0.9,
        },
        "space.momentum",
        "adam has no parameter",
    ),
    ({"optimizer": "sgd", "nesterov": True}, "space.nesterov", "momentum above 0"),
    (
        {"optimizer": "sgd", "nesterov": True, "momentum": {"uniform": [0, 0.9]}},
        "space.nesterov",
        "can be 0",
    ),
    (
        {
            "optimizer": "sgd",
            "nesterov": True,
            "norm": {"choice": ["none", "batch"]},
            "momentum": {"value": 0.9, "when": {"norm": "batch"}},
        },
        "space.nesterov",
        "only for some values of norm",
    ),
]


@pytest.mark.parametrize(("space", "field", "word"), WRONG, ids=[f"{f}-{w}" for _, f, w in WRONG])
def test_wrong_spaces_are_refused_by_name(space: dict[str, Any], field: str, word: str) -> None:
    with pytest.raises(InputError) as caught:
        build(**space)
    assert caught.value.field == field
    assert word in str(caught.value)


@pytest.mark.parametrize(
    "space",
    [
        {"optimizer": "sgd", "momentum": {"uniform": [0, 0.9]}},
        {"optimizer": {"choice": ["sgd", "rmsprop"]}, "momentum": 0.9},
        {
            "optimizer": CHOICE,
            "momentum": {"choice": [0.0, 0.9], "when": {"optimizer": ["sgd"]}},
            "nesterov": {"value": True, "when": {"momentum": 0.9}},
        },
        {"optimizer": CHOICE, "beta1": {"uniform": [0.8, 0.95], "when": {"optimizer": "adam"}}},
        {"beta1": {"uniform": [0.8, 0.95]}},
        {"optimizer": "sgd", "momentum": {"value": 0.9, "when": {"optimizer": "sgd"}}},
    ],
)
def test_spaces_in_which_every_parameter_has_its_optimizer(space: dict[str, Any]) -> None:
    for params in draw(build(**space), 30):
        complete(params, TASK)


# --- property ------------------------------------------------------------------------------------


def _ranges(name: str) -> st.SearchStrategy[Any]:
    """Entries for a parameter: mostly fit for it, some not."""
    parameter = DECLARED[name]
    if parameter.choices:
        values: st.SearchStrategy[Any] = st.sampled_from(parameter.choices)
    elif isinstance(parameter.default, bool):
        values = st.booleans()
    elif isinstance(parameter.default, int):
        values = st.integers(1, 8)
    else:
        values = st.floats(0, 0.99) | st.sampled_from([0.0, 0.5, 0.9])
    pairs = st.lists(values, min_size=2, max_size=2, unique=True).map(sorted)
    forms = ["int", "log_int"] if isinstance(parameter.default, int) else ["uniform", "log"]
    return values | st.one_of(
        st.builds(lambda v: {"choice": v}, st.lists(values, min_size=1, max_size=3, unique=True)),
        st.builds(lambda v: {"value": v}, values),
        *(st.builds(lambda v, f=form: {f: v}, pairs) for form in forms),
    )


@st.composite
def _spaces(drawn: st.DrawFn) -> dict[str, Any]:
    common = sorted(set(DECLARED) - OWN)
    names = drawn(st.lists(st.sampled_from(common), max_size=5, unique=True))
    names += drawn(st.lists(st.sampled_from(sorted(OWN)), max_size=2, unique=True))
    space = {name: drawn(_ranges(name)) for name in names}
    for name in names:
        parents = [
            p for p in names if p != name and isinstance(space[p], dict) and "choice" in space[p]
        ]
        if parents and isinstance(space[name], dict) and drawn(st.booleans()):
            parent = drawn(st.sampled_from(parents))
            values = drawn(
                st.lists(st.sampled_from(space[parent]["choice"]), min_size=1, unique=True)
            )
            space[name] = {**space[name], "when": {parent: values}}
    owners = [o for o, own in OPTIMIZER_PARAMETERS.items() if OWN & set(names) <= set(own)]
    if owners and drawn(st.integers(0, 3)):
        space["optimizer"] = drawn(st.sampled_from(owners))
    return space


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(_spaces(), st.integers(0, 100))
def test_whatever_builds_draws_what_training_accepts(written: dict[str, Any], seed: int) -> None:
    try:
        space = build(**written)
    except InputError as error:
        event("refused")
        assert str(error)
        return
    assume(written)
    event(f"built {len(written)}")
    for params in draw(space, 3, seed):
        complete(params, TASK)
        for name, entry in space.entries.items():
            holds = all(params.get(p, "absent") in values for p, values in entry.when.items())
            assert (name in params) == holds
        tunable = {name: value for name, value in params.items() if name in space.tunable}
        assert space.check_point(params, "point") == tunable
