"""A sweep file either becomes a spec that says the same, or an InputError that names field, value
and rule."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from foldrace.errors import InputError
from foldrace.search.spec.distributions import Choice, Fixed, Log
from foldrace.search.spec.errors import SpecError
from foldrace.search.spec.sweep_spec import SweepSpec, load_spec, parse_spec
from foldrace.search.sweeps.begin import without_effect

ROOT = Path(__file__).parents[3]
SPECS = ROOT / "search" / "specs"

FULL = """
name: conv-ae
task: autoencoder
dataset: {name: fashion-mnist, limit: 12000, seed: 1, size: [14, 14]}
folds: {kind: repeated, splits: 4, repeats: 3, shuffle: true, seed: 7}
epochs: 9
early_stopping: {patience: 2, min_delta: 1e-4}
objective: mse
space:
  optimizer: {choice: [adam, sgd]}
  lr: {log: [1e-4, 3.0e-2]}
  momentum: {uniform: [0, 0.9], step: 0.1, when: {optimizer: sgd}}
  batch_size: {log_int: [16, 256]}
  latent_dim: 16
  eps: null
search: {sampler: random, trials: 40, seed: 3, time_budget: 1h30m,
         start_with: [{optimizer: adam, lr: 1e-3}]}
scheduler: {kind: fifo, reduction_factor: 2, grace_epochs: 2}
resources: {cpu: 2, gpu: 0.5}
tracking: {experiment: ae, uri: "http://localhost:5000"}
"""


def parse(overrides: tuple[str, ...] = (), **keys: Any) -> SweepSpec:
    return parse_spec({"dataset": "digits", **keys}, Path.cwd(), overrides)


def refused(**keys: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        parse(**keys)
    return caught.value


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "sweep.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- what a good file becomes --------------------------------------------------------------------


def test_every_key_is_read(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, FULL))
    assert (spec.dataset.name, spec.dataset.limit, spec.dataset.size) == (
        "fashion-mnist",
        12000,
        (14, 14),
    )
    assert (spec.folds.kind, spec.folds.repeats, spec.folds.shuffle) == ("repeated", 3, True)
    assert spec.early_stopping.min_delta == 1e-4
    assert spec.space["optimizer"] == Choice(choice=("adam", "sgd"))
    assert spec.space["lr"] == Log(log=[1e-4, 3e-2])
    assert dict(spec.space["momentum"].when) == {"optimizer": ("sgd",)}
    assert spec.space["latent_dim"] == Fixed(value=16)
    assert spec.search.time_budget == 5400.0
    assert spec.search.start_with == ({"optimizer": "adam", "lr": 0.001},)
    assert (spec.scheduler.reduction_factor, spec.resources.gpu) == (2.0, 0.5)


def test_a_data_set_is_enough() -> None:
    spec = parse()
    assert (spec.name, spec.task, spec.epochs, spec.search.trials) == (
        "autoencoder",
        "autoencoder",
        9,
        20,
    )
    assert (
        spec.scheduler.kind == "promotion" and spec.search.time_budget is None and spec.space == {}
    )


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("package.module:Name", "Name"),
        ("variational", "variational"),
        ("a.b:_c d", "c-d"),
        ("a:..", "sweep"),
    ],
)
def test_the_name_follows_the_task(task: str, name: str) -> None:
    assert parse(task=task).name == name
    assert parse(task=task, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), (12, 12)],
)
def test_time_budgets(written: object, seconds: float) -> None:
    assert parse(search={"time_budget": written}).search.time_budget == seconds


def test_a_spec_survives_its_yaml(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path, FULL))
    assert parse_spec(yaml.safe_load(spec.to_yaml()), Path("/")) == spec
    assert load_spec(write(tmp_path, spec.to_yaml())) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_spec_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse().epochs = 3  # type: ignore[misc]


def test_the_mapping_is_left_as_it_was() -> None:
    given_mapping = {"dataset": "digits", "space": {"lr": 0.1}}
    parse_spec(given_mapping, Path.cwd(), ["space.lr=0.2", "dataset.limit=3"])
    assert given_mapping == {"dataset": "digits", "space": {"lr": 0.1}}


@pytest.mark.parametrize(
    ("plain", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("yes", "yes"),
        ("2024-01-01", "2024-01-01"),
        ("1:30", "1:30"),
        ("010", "010"),
        ("1_000", 1000),
        ("~", None),
        ("true", True),
        ("'1e-3'", "1e-3"),
    ],
)
def test_plain_values_are_what_they_look_like(tmp_path: Path, plain: str, value: object) -> None:
    spec = load_spec(write(tmp_path, f"dataset: digits\nspace: {{lr: {plain}}}"))
    assert spec.space["lr"] == Fixed(value=value)
    assert load_spec(write(tmp_path, spec.to_yaml())) == spec
    assert parse_spec(yaml.safe_load(spec.to_yaml()), tmp_path) == spec


# --- overrides -----------------------------------------------------------------------------------


def test_overrides_have_the_types_of_the_file(tmp_path: Path) -> None:
    settings = [
        "space.lr={log: [1e-4, 1e-2]}",
        "search.start_with=[]",
        "dataset=digits",
        "dataset.limit=100",
        "search.trials=5",
        "search.time_budget=90s",
        "name=",
        "objective=null",
    ]
    spec = load_spec(write(tmp_path, FULL), settings)
    assert spec.space["lr"] == Log(log=[1e-4, 1e-2])
    assert (spec.dataset.name, spec.dataset.limit, spec.dataset.seed) == ("digits", 100, 0)
    assert (spec.search.trials, spec.search.time_budget, spec.search.start_with) == (5, 90.0, ())
    assert (spec.name, spec.objective.metric) == ("autoencoder", None)


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("epochs", "key=value"),
        ("=3", "key=value"),
        ("a..b=3", "key=value"),
        ("space.lr=[1", "line 1"),
        ("epochs.more=3", "epochs is not a mapping"),
        ("space.lr.log=[1, 2]", "space.lr is not a mapping"),
    ],
)
def test_malformed_overrides(override: str, word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        parse((override,), epochs=1, space={"lr": 0.1})
    assert caught.value.field == "--set" and caught.value.value == override


def test_an_override_is_validated_like_the_file() -> None:
    with pytest.raises(InputError, match=r"search\.trials: 0: must be a whole number at least 1"):
        parse(("search.trials=0",))


# --- paths ---------------------------------------------------------------------------------------


def test_files_are_looked_for_beside_the_spec_and_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "specs", tmp_path / "here"
    for folder in (beside, here):
        folder.mkdir()
    (beside / "my_models.py").touch()
    (here / "my_models.py").touch()
    (here / "data.npz").touch()
    monkeypatch.chdir(here)
    path = write(beside, "task: ./my_models.py:Mine\ndataset: data.npz")
    spec = load_spec(path)
    assert spec.task == f"{(beside / 'my_models.py').resolve()}:Mine"
    assert spec.name == "Mine"
    assert spec.dataset.name == str((here / "data.npz").resolve())
    assert parse_spec(yaml.safe_load(spec.to_yaml()), Path("/")) == spec


@pytest.mark.parametrize("name", ["fashion-mnist", "digits", "package.module:load"])
def test_plain_names_stay(name: str) -> None:
    assert parse(dataset=name).dataset.name == name
    assert parse(task=name).task == name


# --- files that are no specs ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("dataset: a: b", ("line 1, column 11", "mapping values", "`dataset: a: b`")),
        ("dataset: digits\nspace: {lr: [1", ("line 2",)),
        ("dataset: digits\n\tepochs: 3", ("line 2, column 1", "spaces, not tabs")),
        ("dataset: digits\nepochs: 3\nepochs: 4", ("line 3, column 1", "'epochs' a second time")),
        ("dataset: &d digits\nname: *d", ("line 2, column 7", "alias")),
        ("dataset: !!python/object/apply:os.system [ls]", ("line 1, column 10", "tag")),
        ("1: 2", ("line 1", "not text")),
        ("a: " + "[" * 5000, ("levels",)),
        ("epochs: " + "9" * 5000, ("not YAML",)),
        (b"\x89PNG\r\n\xff\xfe", ("not UTF-8 text",)),
        (b"dataset: \x00", ("not text",)),
        ("", ("empty",)),
        ("# only a comment", ("empty",)),
        ("- a\n- b", ("not a list",)),
        ("digits", ("not a single value",)),
        ("dataset: digits\n---\ndataset: digits", ("document",)),
        (b"#" * 1_000_001, ("1 MB",)),
    ],
)
def test_broken_files(tmp_path: Path, content: str | bytes, words: tuple[str, ...]) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError) as caught:
        load_spec(path)
    assert caught.value.field == str(path)
    for word in words:
        assert word in str(caught.value)


def test_missing_files(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    with pytest.raises(InputError, match=rf"no such file; did you mean {path}\?"):
        load_spec(tmp_path / "sweeep.yml")
    with pytest.raises(InputError, match="no such file; there is no folder"):
        load_spec(tmp_path / "nowhere" / "sweep.yaml")
    with pytest.raises(InputError, match="is a folder"):
        load_spec(tmp_path)


def test_no_mapping() -> None:
    with pytest.raises(InputError, match=r"spec: .*mapping"):
        parse_spec([1, 2], Path.cwd())  # type: ignore[arg-type]


# --- wrong specs: the exact field, and a word of the rule ----------------------------------------

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"serch": {}}, "serch", "did you mean 'search'?"),
    ({"name": "../up"}, "name", "letters"),
    ({"name": "a..b"}, "name", "no '..'"),
    ({"name": "x" * 65}, "name", "1 to 64"),
    ({"name": 3}, "name", "quotes"),
    ({"task": ""}, "task", "must be text"),
    ({"dataset": None}, "dataset", "data set's name"),
    ({"dataset": {"name": "digits", "limt": 3}}, "dataset.limt", "did you mean 'limit'?"),
    ({"dataset": {"limit": 3}}, "dataset.name", "is missing"),
    ({"dataset": {"name": "digits", "size": [28]}}, "dataset.size", "[height, width]"),
    ({"folds": 3}, "folds", "must be a mapping"),
    ({"folds": {"splits": 1}}, "folds.splits", "kind: holdout"),
    ({"folds": {"kind": "k-fold"}}, "folds.kind", "did you mean 'kfold'?"),
    ({"folds": {"kind": "holdout", "repeats": 3}}, "folds.repeats", "kind: kfold, stratified"),
    ({"folds": {"kind": "repeated", "shuffle": False}}, "folds.shuffle", "would repeat the same"),
    ({"folds": {"kind": "group", "gap": 2}}, "folds.gap", "is for kind: time_series alone"),
    ({"folds": {"fraction": 0.1}}, "folds.fraction", "kind: holdout"),
    ({"folds": {"kind": "holdout", "fraction": 1}}, "folds.fraction", "below 1"),
    ({"folds": {"shuffle": "yes"}}, "folds.shuffle", "true or false"),
    ({"folds": {"seed": -1}}, "folds.seed", "at least 0"),
    ({"epochs": "3"}, "epochs", "without quotes"),
    ({"epochs": True}, "epochs", "whole number"),
    ({"epochs": 1.5}, "epochs", "whole number at least 1"),
    ({"epochs": 10**400}, "epochs", "too large"),
    ({"early_stopping": {"patience": -1}}, "early_stopping.patience", "at least 0"),
    ({"early_stopping": {"min_delta": float("nan")}}, "early_stopping.min_delta", "finite"),
    ({"search": {"sampler": "tp"}}, "search.sampler", "did you mean 'tpe'?"),
    ({"search": {"time_budget": "soon"}}, "search.time_budget", "1h30m"),
    ({"search": {"time_budget": 0}}, "search.time_budget", "above 0"),
    ({"search": {"start_with": {"lr": 1}}}, "search.start_with", "must be a list"),
    ({"search": {"start_with": [{}, {"lr": [1]}]}}, "search.start_with[1].lr", "must be a number"),
    ({"scheduler": {"reduction_factor": 1}}, "scheduler.reduction_factor", "at least 1.1"),
    (
        {"scheduler": {"grace_epochs": 10}},
        "scheduler.grace_epochs",
        "at most the number of epochs, 9",
    ),
    ({"resources": {"gpu": 1.5}}, "resources.gpu", "whole number"),
    ({"resources": {"cpu": 0}}, "resources.cpu", "at least 0.001"),
    ({"tracking": {"url": "x"}}, "tracking.url", "did you mean 'uri'?"),
    ({"space": {"l r": 1}}, "space.l r", "letters"),
    ({"space": {"lr": [1, 2]}}, "space.lr", "did you mean {choice: [1, 2]}?"),
    ({"space": {"lr": {"unform": [0, 1]}}}, "space.lr", "did you mean 'uniform'?"),
    ({"space": {"lr": {"log": [1, 2], "uniform": [1, 2]}}}, "space.lr", "2 forms"),
    ({"space": {"lr": {"log": [1, 2], "step": 1}}}, "space.lr.step", "unknown key"),
    ({"space": {"lr": {"log": [0.1, 0.01]}}}, "space.lr.log", "did you mean [0.01, 0.1]?"),
    (
        {"space": {"lr": {"uniform": [1, 1]}}},
        "space.lr.uniform",
        "did you mean the fixed value 1?",
    ),
    ({"space": {"lr": {"log": [0, 1]}}}, "space.lr.log[0]", "above 0"),
    ({"space": {"lr": {"log": [0.1]}}}, "space.lr.log", "two numbers"),
    (
        {"space": {"lr": {"uniform": [1, 2, 3]}}},
        "space.lr.uniform",
        "did you mean {choice: [1, 2, 3]}?",
    ),
    ({"space": {"lr": {"uniform": [0, float("inf")]}}}, "space.lr.uniform[1]", "finite"),
    ({"space": {"lr": {"choice": [1, float("nan")]}}}, "space.lr.choice[1]", "finite"),
    ({"space": {"lr": {"choice": []}}}, "space.lr.choice", "at least one"),
    ({"space": {"lr": {"choice": [1, 2, 1.0]}}}, "space.lr.choice", "twice"),
    ({"space": {"lr": {"choice": "adam"}}}, "space.lr.choice", "list"),
    ({"space": {"n": {"int": [1, 2.5]}}}, "space.n.int[1]", "whole number"),
    ({"space": {"n": {"log_int": [0, 8]}}}, "space.n.log_int[0]", "at least 1"),
    ({"space": {"n": {"int": [1, 8], "step": 3}}}, "space.n.step", "did you mean [1, 7]?"),
    ({"space": {"n": {"int": [1, 8], "step": 9}}}, "space.n.step", "wider"),
    ({"space": {"n": {"uniform": [0.1, 0.3], "step": 0.21}}}, "space.n.step", "wider"),
    (
        {"space": {"n": {"uniform": [0, 1], "step": 0.3}}},
        "space.n.step",
        "did you mean [0.0, 0.9]?",
    ),
    ({"space": {"n": {"uniform": [0, 1], "step": 1e-9}}}, "space.n.step", "1,000,000"),
    ({"space": {"n": {"value": 1, "when": {}}}}, "space.n.when", "parent"),
    ({"space": {"n": {"value": 1, "when": {"o": []}}}}, "space.n.when.o", "at least one"),
]


@pytest.mark.parametrize(("keys", "field", "word"), WRONG, ids=[f"{f}-{w}" for _, f, w in WRONG])
def test_wrong_specs_are_refused_by_name(keys: dict[str, Any], field: str, word: str) -> None:
    error = refused(**keys)
    assert error.field == field
    assert word in str(error)
    assert "Input should" not in str(error)


def test_bounds_across_the_range_have_exact_steps() -> None:
    assert parse(space={"n": {"uniform": [0, 0.3], "step": 0.1}}).space["n"] is not None


def test_several_mistakes_are_one_error() -> None:
    error = refused(epochs=0, folds={"seed": "a"}, space={"lr": {"log": [2, 1]}})
    assert isinstance(error, SpecError)
    assert [e.field for e in error.errors] == ["folds.seed", "epochs", "space.lr.log"]
    assert str(error).count("\n") == 2
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_unfit_python_values_are_refused() -> None:
    assert refused(space={"lr": object()}).field == "space.lr"
    assert refused(space={3: 4}).field == "space"
    endless: dict[str, Any] = {}
    endless["a"] = endless
    assert "levels" in str(refused(space=endless))


def test_how_folds_are_computed_is_checked_and_kept():
    training = parse(training={"fused": False, "precision": "tf32"}).training
    assert (training.fused, training.precision) == (
        False,
        "tf32",
    ) and parse().training.fused == "auto"
    for wrong in ({"fused": "yes"}, {"precision": "float16"}, {"fuse": True}):
        with pytest.raises(InputError, match="training"):
            parse(training=wrong)
    assert (
        str(refused(training={"fused": "yes"}))
        == "training.fused: yes: must be one of auto, true, false"
    )
    assert str(refused(training={"precision": "bfloat"})).endswith(
        "bfloat16; did you mean 'bfloat16'?"
    )


def test_a_quoted_number_gets_the_hint_to_remove_the_quotes() -> None:
    assert refused(resources={"cpu": "2"}).hint == "without quotes"
    assert refused(resources={"cpu": "two"}).hint == ""


def test_valid_shares_of_cpus_and_gpus() -> None:
    assert (
        refused(resources={"cpu": 1e-9}).rule
        == refused(resources={"cpu": 0}).rule
        == "must be a number at least 0.001"
    )
    assert refused(resources={"gpu": 1e-9}).rule == "must be 0, or at least 0.001"
    assert refused(resources={"gpu": 1.5}).rule.startswith(
        "must be a whole number if it is above 1"
    )


@pytest.mark.parametrize(
    ("training", "gpu", "said"),
    [
        ({"precision": "tf32"}, 0, ["training.precision: tf32 changes nothing without a GPU"]),
        ({"precision": "tf32"}, 0.5, []),
        ({"fused": True}, 0, ["training.fused: folds as one batched program are slower on a CPU"]),
        ({"fused": True}, 1, []),
        ({}, 0, []),
    ],
)
def test_settings_without_effect_are_reported(
    training: dict[str, Any], gpu: float, said: list[str]
) -> None:
    lines = list(without_effect(parse(training=training, resources={"gpu": gpu})))
    assert len(lines) == len(said) and all(
        line.startswith(start) for line, start in zip(lines, said, strict=True)
    )


@pytest.mark.parametrize("text", [r'{limit: "\ud83d\udca5"}', r'{"\ud800": 1}', r'"\udfff"'])
def test_text_that_cannot_be_encoded_is_refused_wherever_it_stands(tmp_path, text) -> None:
    (tmp_path / "a.yaml").write_text(f"dataset: {text}\n")
    with pytest.raises(InputError, match="without half a surrogate pair"):
        load_spec(tmp_path / "a.yaml")


def test_a_sweep_file_may_be_named_by_text() -> None:
    path = ROOT / "search" / "specs" / "quick.yaml"
    assert load_spec(str(path)) == load_spec(path)


@pytest.mark.parametrize(
    ("limit", "value"), [("trial_timeout", "10m"), ("memory", "4GB"), ("fail_fast", True)]
)
def test_what_depends_on_a_clock_or_a_node_is_refused_where_results_must_not(
    limit: str, value: Any
) -> None:
    search = {"deterministic": True, "max_concurrent_trials": 2}
    error = refused(search=search, limits={limit: value})
    assert error.field == "search.deterministic" and f"limits.{limit}" in str(error)
    assert parse(search=search, limits={"max_failures": 1}).search.deterministic


def test_starting_points_beyond_the_trials_are_said() -> None:
    points = [{"lr": 0.1}, {"lr": 0.2}]
    spec = parse(search={"trials": 1, "start_with": points}, space={"lr": {"log": [0.01, 1]}})
    assert list(without_effect(spec)) == [
        "search.start_with: of its 2 points the first 1 are tried, since search.trials is 1"
    ]
    assert not list(without_effect(parse(search={"trials": 2, "start_with": points[:1]})))


@pytest.mark.parametrize(
    ("low", "high", "step"),
    [(0.1, 0.3, 0.2), (0.1, 0.7, 0.2), (-0.3, 0.3, 0.2), (0.001, 0.01, 0.001), (0, 0.7, 0.7)],
)
def test_a_step_fits_as_it_is_written_and_every_value_can_be_drawn(
    low: float, high: float, step: float
) -> None:
    entry = parse(space={"x": {"uniform": [low, high], "step": step}}).space["x"]
    assert entry.grid is not None and (entry.grid[0], entry.grid[-1]) == (low, high)
    drawn = entry.to_optuna()
    assert all(entry.contains(value) and drawn._contains(value) for value in entry.grid)
