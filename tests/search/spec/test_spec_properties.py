"""Whatever is written becomes a spec or an InputError; the schema agrees with the parser."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import event, given, settings
from hypothesis import strategies as st

from foldrace.errors import InputError
from foldrace.search.spec.sweep_spec import SweepSpec, json_schema, load_spec, parse_spec
from tests.search.spec.test_sweep_spec import FULL, ROOT, SPECS, parse

# --- properties ----------------------------------------------------------------------------------

KEYS = [
    *SweepSpec.model_fields,
    "kind",
    "splits",
    "seed",
    "limit",
    "lr",
    "log",
    "choice",
    "uniform",
    "int",
    "when",
    "step",
    "value",
    "log_int",
    "trials",
    "time_budget",
    "start_with",
    "gpu",
    "optimizer",
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["digits", "tpe", "kfold", "holdout", "90s", "./a.py:B", "~x/\0", "1h", "a/../b"]
    ),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=4),
    ),
    max_leaves=12,
)
NUMBERS = st.floats(-1e6, 1e6, allow_nan=False) | st.integers(-1000, 1000)
PAIRS = st.lists(NUMBERS, min_size=2, max_size=2)
FORMS = st.one_of(
    SCALARS,
    TREES,
    st.builds(
        lambda form, bounds, rest: {form: bounds, **rest},
        st.sampled_from(["choice", "uniform", "log", "int", "log_int"]),
        PAIRS.map(sorted)
        | st.lists(st.integers(1, 50), min_size=2, max_size=2).map(sorted)
        | PAIRS,
        st.fixed_dictionaries(
            {},
            optional={
                "when": st.dictionaries(
                    st.sampled_from(["n", "lr"]),
                    SCALARS | st.lists(SCALARS, min_size=1, max_size=2),
                ),
                "step": st.sampled_from([1, 0.5]) | NUMBERS,
            },
        ),
    ),
)
SPACES = st.dictionaries(st.sampled_from(["lr", "momentum", "n", "optimizer"]), FORMS, max_size=3)


def outcome(tree: Any) -> SweepSpec | InputError:
    try:
        return parse_spec(tree, Path("/tmp"))
    except InputError as error:
        assert str(error) and error.field
        return error


@settings(max_examples=250, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), TREES, max_size=5) | TREES)
def test_any_tree_is_a_spec_or_an_input_error(tree: Any) -> None:
    if isinstance(tree, dict):
        tree.setdefault("dataset", "digits")
    outcome(tree)


@settings(max_examples=250, deadline=None)
@given(
    SPACES,
    st.fixed_dictionaries(
        {}, optional={"epochs": st.integers(1, 9), "name": SCALARS, "task": SCALARS}
    ),
)
def test_what_is_accepted_round_trips(space: dict[str, Any], rest: dict[str, Any]) -> None:
    spec = outcome({"dataset": "digits", "space": space, **rest})
    event("refused" if isinstance(spec, InputError) else f"{len(spec.space)} parameters")
    if isinstance(spec, SweepSpec):
        text = spec.to_yaml()
        assert parse_spec(yaml.safe_load(text), Path("/")) == spec


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_spec_or_an_input_error(text: str) -> None:
    try:
        parse((text,))
    except InputError as error:
        assert str(error)


# --- the schema, and what an import costs --------------------------------------------------------


def test_the_shipped_schema_is_up_to_date() -> None:
    shipped = json.loads((SPECS / "schema.json").read_text(encoding="utf-8"))
    assert shipped == json_schema(), "write json_schema() to search/specs/schema.json"


def test_the_schema_agrees_with_the_parser() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.validate(yaml.safe_load(FULL.replace("1e-", "1.0e-")))
    validator.validate(yaml.safe_load(parse(space={"lr": {"log": [1, 2]}, "n": 3}).to_yaml()))
    validator.validate({"dataset": "digits"})
    assert not validator.is_valid({})
    for wrong in (
        {"serch": 1},
        {"epochs": 0},
        {"space": {"lr": [1]}},
        {"space": {"lr": {"log": [1]}}},
    ):
        assert not validator.is_valid({"dataset": "digits", **wrong}), wrong


def test_every_field_is_described() -> None:
    schema = json_schema()
    for name, section in {"": schema, **schema["$defs"]}.items():
        for field, described in section["properties"].items():
            assert described.get("description"), f"{name}.{field}"


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_specs_are_valid(path: Path) -> None:
    assert load_spec(path).space


def test_reading_a_spec_imports_nothing_heavy() -> None:
    code = (
        "import sys, pathlib, foldrace.search.spec.sweep_spec,"
        " foldrace.search.spec.space;foldrace.search.spec.sweep_spec.parse_spec({'dataset':"
        " 'digits', 'space': {'lr': 1}}, pathlib.Path('/'));print([m for m in ('torch', 'ray',"
        " 'optuna', 'mlflow', 'numpy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
