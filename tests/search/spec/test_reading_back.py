"""What is drawn, recorded as text and read back is the same value of the same type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import Param

from foldrace.search.recording.reader import parameter_values
from foldrace.search.spec.space import SearchSpace
from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.search.spec.yaml_files import read_yaml
from foldrace.trainables.tasks.parameters import Parameter, Value
from tests.helpers.stores import new_store

AWKWARD = ["True", "None", "1e3", "1000", "7", "07", "nan", "-1", "null", "~", "inf", " a ", "é"]
TEXTS = st.sampled_from(AWKWARD) | st.text(
    st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=9
)
NUMBERS = st.floats(1e-9, 1e9) | st.integers(1, 10**9)
PAIRS = st.tuples(NUMBERS, NUMBERS).filter(lambda pair: pair[0] < pair[1]).map(list)
WHOLE = st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)).filter(lambda p: p[0] < p[1])
LISTS: dict[Parameter, Any] = {
    Parameter("a"): st.lists(TEXTS, min_size=1, unique=True),
    Parameter("True", choices=tuple(AWKWARD)): st.lists(
        st.sampled_from(AWKWARD), min_size=1, unique=True
    ),
    Parameter(False): st.lists(st.booleans(), min_size=1, unique=True),
    Parameter(None): st.lists(st.none() | NUMBERS, min_size=1, unique=True),
    Parameter(0.5): st.lists(NUMBERS, min_size=1, unique=True),
    Parameter(3): st.lists(st.integers(-(2**53), 2**53), min_size=1, unique=True),
}
RANGES: dict[Parameter, Any] = {
    Parameter(0.5): PAIRS.flatmap(
        lambda pair: st.sampled_from([{"uniform": pair}, {"log": pair}])
    ),
    Parameter(3): WHOLE.flatmap(
        lambda pair: st.sampled_from([{"int": [*pair]}, {"log_int": [*pair]}])
    ),
}


@st.composite
def spaces(draw: Any) -> tuple[Parameter, Any]:
    """A parameter, and what may stand in a sweep file for it."""
    if draw(st.booleans()):
        parameter = draw(st.sampled_from(list(RANGES)))
        return parameter, draw(RANGES[parameter])
    parameter = draw(st.sampled_from(list(LISTS)))
    values = draw(LISTS[parameter])
    return parameter, draw(st.sampled_from([{"choice": values}, {"value": values[0]}]))


def identical(one: Value, other: Value) -> bool:
    return type(one) is type(other) and one == other


@settings(max_examples=150, deadline=None)
@given(spaces(), st.integers(0, 2**32 - 1))
def test_value_record_value(case: tuple[Parameter, Any], seed: int) -> None:
    parameter, entry = case
    spec = parse_spec({"dataset": "digits", "space": {"x": entry}}, Path())
    recorded = parse_spec(read_yaml(spec.to_yaml(), "recorded"), Path())
    assert recorded == spec
    space = SearchSpace.build(recorded.space, {"x": parameter})
    drawn = space.suggest(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed)).ask())
    text = str(drawn["x"])
    assert identical(parameter_values({"x": text}, {"x": parameter})["x"], drawn["x"])
    assert identical(space.entries["x"].read(text), drawn["x"])
    unfitted = recorded.space["x"].read(text)  # of readers that do not have the task
    assert unfitted == drawn["x"] and isinstance(unfitted, str) == isinstance(drawn["x"], str)


def test_mlflow_keeps_every_such_text(tmp_path: Path) -> None:
    client = new_store(tmp_path)
    run = client.create_run(client.create_experiment("all")).info.run_id
    values: list[Value] = [*AWKWARD, None, True, 1e-8, 1 / 3, 2**53, -0.0]
    texts = {f"p{number}": str(value) for number, value in enumerate(values)}
    client.log_batch(run, params=[Param(name, text) for name, text in texts.items()])
    assert client.get_run(run).data.params == texts


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"choice": [1, 2]}, "3"),
        ({"choice": ["1e3"]}, "1000.0"),
        ({"int": [1, 9]}, "1.5"),
        (7, "8"),
    ],
)
def test_a_text_that_no_value_is_recorded_as_is_refused(entry: Any, text: str) -> None:
    spec = parse_spec({"dataset": "digits", "space": {"x": entry}}, Path())
    with pytest.raises(ValueError, match=text):
        spec.space["x"].read(text)
