"""A comparison's sweep file: its rules, its arms, and the errors that name them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from foldrace.errors import InputError
from foldrace.search.preparing.prepare import prepare
from foldrace.search.sampling.arms import Arm, build_arms, differing
from foldrace.search.spec.sweep_spec import SweepSpec, load_spec, parse_spec
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.tasks.parameters import Value

ROOT = Path(__file__).parents[3]
TASK = load_task("autoencoder")
ARMS: dict[str, Any] = {
    "adam": {"space": {"lr": {"log": [1e-4, 1e-2]}}, "defaults": {"lr": 2e-3}},
    "heavy-ball": {
        "optimizer": "sgd",
        "space": {"lr": {"log": [1e-3, 1.0]}, "momentum": {"uniform": [0.0, 0.99]}},
    },
}


def parse(arms: Any = ARMS, **keys: Any) -> SweepSpec:
    tree = {"kind": "comparison", "dataset": "digits", "comparison": {"arms": arms}, **keys}
    return parse_spec({key: value for key, value in tree.items() if value is not ...}, Path.cwd())


def arms_of(arms: Mapping[str, Any], **keys: Any) -> dict[str, Arm]:
    return {arm.label: arm for arm in build_arms(parse(arms, **keys), TASK)}


def default_of(arm: Mapping[str, Any], **shared: Any) -> Mapping[str, Value]:
    return arms_of({"one": arm, "adam": {}}, space=shared)["one"].default


def test_a_comparison_is_fifo_and_random_and_names_its_optimizers() -> None:
    spec = parse()
    assert spec.comparison is not None
    assert [arm.optimizer for arm in spec.comparison.arms.values()] == ["adam", "sgd"]
    assert (spec.scheduler.kind, spec.search.sampler, spec.comparison.repeats) == (
        "fifo",
        "random",
        3,
    )
    assert parse(search={"sampler": "qmc", "trials": 4}).search.sampler == "qmc"
    assert parse(scheduler={}, search={"trials": 4}).scheduler.kind == "fifo"
    assert parse_spec({"dataset": "digits"}, Path.cwd()).kind == "sweep"


def test_what_is_planned_in_numbers_and_words() -> None:
    spec = parse(search={"trials": 8})
    assert spec.planned_trials == 2 * (1 + 8 + 3)
    assert spec.trials_text == "2 arms × (1 default + 8 random trials + 3 repeats)"
    assert spec.varying == ("optimizer", "lr", "momentum")
    assert parse({"adam": {"space": {"lr": {"log": [1, 2]}}}, "sgd": {}}).varying == (
        "optimizer",
        "lr",
    )
    sweep = parse_spec(
        {"dataset": "digits", "space": {"lr": {"log": [1, 2]}, "width": 4}}, Path.cwd()
    )
    assert (sweep.planned_trials, sweep.trials_text, sweep.varying) == (20, "20 trials", ("lr",))


def test_it_round_trips_and_ships_an_example() -> None:
    for spec in (parse(), load_spec(ROOT / "search" / "specs" / "optimizers.yaml")):
        assert parse_spec(yaml.safe_load(spec.to_yaml()), Path("/")) == spec


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"comparison": ...}, "comparison: is missing"),
        ({"kind": "sweep"}, "comparison: is for kind: comparison alone"),
        ({"kind": ...}, "comparison: is for kind: comparison alone"),
        ({"search": {"sampler": "gp"}}, "search.sampler: gp: must be random or qmc"),
        (
            {"search": {"objectives": ["val_loss", "seconds"]}},
            "search.objectives: ['val_loss', 'seconds']: must",
        ),
        (
            {"search": {"warm_start": "earlier"}},
            "search.warm_start: earlier: is not for a comparison",
        ),
        ({"search": {"sampler": "tpe"}}, "search.sampler: tpe: must be random or qmc"),
        ({"search": {"start_with": [{"lr": 0.1}]}}, "search.start_with: is not for a comparison"),
        ({"search": {"time_budget": "3m"}}, "search.time_budget: 180.0: is not for a comparison"),
        ({"scheduler": {"kind": "stopping"}}, "scheduler.kind: stopping: must be fifo"),
        (
            {"early_stopping": {"patience": 0}},
            "early_stopping.patience: 0: is not for a comparison",
        ),
        (
            {"folds": {"kind": "holdout"}},
            "folds.kind: holdout: must be one of kfold, stratified, group",
        ),
        (
            {"folds": {"kind": "repeated"}},
            "folds.kind: repeated: must be one of kfold, stratified, group",
        ),
        ({"folds": {"shuffle": False}}, "folds.shuffle: False: must be true"),
        (
            {"space": {"optimizer": "adam"}},
            "space.optimizer: is what the arms of a comparison differ in",
        ),
        (
            {"space": {"lr": 0.1}},
            "comparison.arms.adam.space.lr: is in the space that all arms share",
        ),
        (
            {"comparison": {"arms": ARMS, "repeats": 0}},
            "comparison.repeats: 0: must be a whole number at least 1",
        ),
        (
            {"comparison": {"arms": ARMS, "repeat": 2}},
            "comparison.repeat: 2: unknown key; did you mean 'repeats'?",
        ),
        ({"comparison": {}}, "comparison.arms: is missing"),
        (
            {"comparison": {"arms": ARMS}, "kind": "race"},
            "kind: race: must be one of sweep, comparison",
        ),
    ],
)
def test_unequal_costs_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(**keys)
    assert str(caught.value).startswith(said)


def test_a_sweep_may_use_samplers_that_a_comparison_cannot() -> None:
    for sampler in ("qmc", "cmaes", "gp", "nsga2"):
        spec = parse_spec({"dataset": "digits", "search": {"sampler": sampler}}, Path.cwd())
        assert spec.search.sampler == sampler


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ({"adam": {}}, "comparison.arms: {'adam': {}}: must hold at least two arms"),
        (
            {"adam": {}, "fast": {}},
            "comparison.arms.fast.optimizer: is missing, and fast is not an optimizer's name",
        ),
        ({"adam": {}, "a b": {}}, "comparison.arms.a b: must be an arm's label"),
        (
            {"adam": {}, "x": {"optimizer": "admw"}},
            "comparison.arms.x.optimizer: admw: is not an optimizer; did you mean",
        ),
        (
            {"adam": {"optimiser": 1}, "sgd": {}},
            "comparison.arms.adam.optimiser: 1: unknown key; did you mean 'opt",
        ),
        (
            {"adam": {"space": {"optimizer": "sgd"}}, "sgd": {}},
            "comparison.arms.adam.space.optimizer: belongs to the arm",
        ),
        (
            {"adam": {"defaults": {"optimizer": "sgd"}}, "sgd": {}},
            "comparison.arms.adam.defaults.optimizer: belongs to the",
        ),
        (
            {"adam": {"space": {"lr": {"log": [2, 1]}}}, "sgd": {}},
            "comparison.arms.adam.space.lr.log: [2, 1]: its",
        ),
    ],
)
def test_invalid_arms_are_refused(arms: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(arms)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("arms", "shared", "field", "rule"),
    [
        (
            {"sgd": {"space": {"lr": {"uniform": [0, 1]}}}},
            {},
            "comparison.arms.sgd.space.lr",
            "must be a number above",
        ),
        ({"sgd": {"space": {"lrr": 1}}}, {}, "comparison.arms.sgd.space.lrr", "unknown parameter"),
        (
            {"adam": {"space": {"momentum": 0.9}}},
            {},
            "comparison.arms.adam.space.momentum",
            "adam has no parameter",
        ),
        (
            {"sgd": {"space": {"nesterov": True}}},
            {},
            "comparison.arms.sgd.space.nesterov",
            "needs a momentum above 0",
        ),
        (
            {},
            {"momentum": 0.9},
            "space.momentum",
            "adam has no parameter of that name (in the arm adam)",
        ),
        ({}, {"widht": 4}, "space.widht", "unknown parameter (in the arm adam)"),
        (
            {"sgd": {"defaults": {"lr": -1.0}}},
            {},
            "comparison.arms.sgd.defaults.lr",
            "must be a number above 0",
        ),
        (
            {"sgd": {"defaults": {"lrr": 1.0}}},
            {},
            "comparison.arms.sgd.defaults.lrr",
            "unknown parameter",
        ),
        (
            {"adam": {"defaults": {"rho": 1.0}}},
            {},
            "comparison.arms.adam.defaults.rho",
            "adam has no parameter",
        ),
        (
            {"sgd": {"defaults": {"width": 4}}},
            {"width": 8},
            "comparison.arms.sgd.defaults.width",
            "is fixed to 8 for",
        ),
        (
            {"sgd": {"defaults": {"nesterov": True}}},
            {},
            "comparison.arms.sgd.defaults.nesterov",
            "Nesterov momentum",
        ),
    ],
)
def test_a_wrong_parameter_is_named_with_its_place_in_the_file(
    arms: dict[str, Any], shared: dict[str, Any], field: str, rule: str
) -> None:
    with pytest.raises(InputError) as caught:
        arms_of({"adam": {}, "sgd": {}, **arms}, space=shared)
    assert caught.value.field == field
    assert caught.value.rule.startswith(rule)


def test_an_arm_searches_the_shared_space_and_its_own() -> None:
    arms = arms_of(ARMS, space={"width": 8, "batch_size": {"choice": [32, 64]}})
    assert set(arms["adam"].space.parameters) == {"optimizer", "lr", "width", "batch_size"}
    assert set(arms["heavy-ball"].space.tunable) == {"lr", "momentum", "batch_size"}


def test_the_default_trial_has_pytorchs_learning_rate_unless_it_is_set() -> None:
    wide = {"lr": {"log": [1e-5, 10.0]}}
    assert default_of({"optimizer": "rmsprop", "space": wide}) == {
        "optimizer": "rmsprop",
        "lr": 1e-2,
    }
    assert default_of({"optimizer": "adadelta", "space": wide})["lr"] == 1.0
    assert default_of({"optimizer": "adadelta"})["lr"] == 1.0  # and so are its other trials
    assert (
        default_of({"optimizer": "adadelta", "space": wide, "defaults": {"lr": 0.5}})["lr"] == 0.5
    )
    assert (
        default_of({"optimizer": "sgd", "space": {"lr": {"log": [0.1, 1.0]}}})["lr"] == 1e-3
    )  # outside its range
    assert default_of({"optimizer": "sgd", "space": {"lr": 0.2}})["lr"] == 0.2


def test_an_arms_own_parameters_take_the_declared_defaults() -> None:
    own = {"momentum": {"uniform": [0.5, 0.9]}, "nesterov": {"choice": [True, False]}}
    assert default_of({"optimizer": "sgd", "space": own | {"lr": 0.1}}) == {
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.0,
        "nesterov": False,
    }
    assert (
        default_of({"optimizer": "rmsprop", "space": {"eps": {"log": [1e-8, 1e-2]}}}).get("eps")
        is None
    )
    assert default_of({"optimizer": "sgd", "defaults": {"momentum": 0.9}})["momentum"] == 0.9


@pytest.mark.parametrize(
    ("name", "entry", "value"),
    [
        ("batch_size", {"choice": [64, 128]}, 128),
        ("batch_size", {"choice": [64, 32]}, 64),
        ("batch_size", {"int": [10, 40], "step": 10}, 20),
        ("batch_size", {"log_int": [4, 64]}, 16),
        ("latent_dim", {"int": [2, 32]}, 16),
        ("weight_decay", {"log": [1e-4, 1e-2]}, 1e-3),
        ("weight_decay", {"uniform": [0.1, 0.5], "step": 0.2}, 0.3),
        ("weight_decay", {"uniform": [0.0, 0.5]}, 0.0),
        ("dropout", {"uniform": [0.0, 0.5]}, 0.25),
    ],
)
def test_a_shared_parameter_stays_in_its_range_in_the_default_trial(
    name: str, entry: Any, value: float
) -> None:
    assert default_of({"optimizer": "sgd"}, **{name: entry})[name] == pytest.approx(value)


def test_a_conditional_parameter_is_left_out_of_a_default_trial_without_its_parent() -> None:
    own = {
        "schedule": {"choice": ["cosine", "constant"]},
        "momentum": {"value": 0.5, "when": {"schedule": "cosine"}},
    }
    assert "momentum" not in default_of({"optimizer": "sgd", "space": own})
    chosen = default_of({"optimizer": "sgd", "space": own, "defaults": {"schedule": "cosine"}})
    assert chosen["momentum"] == 0.5


def test_parameters_that_can_differ_between_trials() -> None:
    arms = build_arms(parse(space={"width": 8, "batch_size": {"choice": [32, 64]}}), TASK)
    assert set(differing(arms)) == {"optimizer", "lr", "momentum", "batch_size"}
    arms = build_arms(
        parse({"adam": {}, "sgd": {"defaults": {"latent_dim": 4}}}, space={"width": 8}), TASK
    )
    assert set(differing(arms)) == {"optimizer", "latent_dim"}


def test_arms_may_not_differ_in_what_the_objective_depends_on(tmp_path: Path) -> None:
    arms = {"adam": {"space": {"loss": "bce"}}, "sgd": {"space": {"loss": "mse"}}}
    keys = {"dataset": {"name": "digits", "limit": 60}}
    assert prepare(parse(arms, **keys), tmp_path).arms
    with pytest.raises(InputError, match="trials of different loss cannot be compared by loss"):
        prepare(parse(arms, objective="loss", **keys), tmp_path)
