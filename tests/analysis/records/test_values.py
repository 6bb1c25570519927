"""Recorded parameters in reports are what the sweep file says, however their text looks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from foldrace.analysis.records.sweep import SweepRecord
from foldrace.analysis.records.values import distributions, read_spec, read_value, read_values
from foldrace.search.spec.sweep_spec import parse_spec

SPACE = {
    "label": {"choice": ["1e3", "1000", "True", "None", "7", "yes", "12:30"]},
    "eps": {"choice": [None, 1e-8]},
    "lr": {"log": [1e-4, 1.0]},
    "units": {"choice": [1, 2]},
    "layers": {"int": [1, 4]},
    "name": "07",
}
SPEC = parse_spec({"dataset": "digits", "space": SPACE}, Path())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *(("label", text, text) for text in SPACE["label"]["choice"]),  # type: ignore[index]
        ("eps", "None", None),
        ("eps", "1e-08", 1e-8),
        ("lr", "0.5", 0.5),
        ("units", "2.0", 2),
        ("layers", "3", 3),
        ("name", "07", "07"),
        ("other", "16", 16),
        ("other", "1e3", 1000.0),
        ("other", "adam", "adam"),
    ],
)
def test_a_value_is_read_by_its_distribution(name: str, text: str, value: Any) -> None:
    again = read_spec(SPEC.to_yaml())
    assert again == SPEC
    found = read_value(text, distributions(again, name))
    assert found == value and isinstance(found, type(value))
    assert read_values({name: text}, again) == {name: value}


def test_without_a_sweep_file_a_value_is_a_number_if_it_looks_like_one() -> None:
    assert read_spec(None) is None and read_spec("colour: red") is None
    assert read_values({"a": "1e3", "b": "x"}, None) == {"a": 1000.0, "b": "x"}


def test_choices_that_look_like_one_number_stay_two_categories() -> None:
    trials = pd.DataFrame({"trial": [0, 1, 2], "arm": "", "params.label": ["1000", "1e3", "7"]})
    shown = cast(SweepRecord, SimpleNamespace(spec=SPEC, trials=trials))
    parameter = SweepRecord._parameter(shown, "label")
    assert parameter.values == {0: "1000", 1: "1e3", 2: "7"}
    assert parameter.categories == tuple(SPACE["label"]["choice"])  # type: ignore[index]
