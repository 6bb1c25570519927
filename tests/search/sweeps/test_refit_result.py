"""The result of a refit as JSON, and read back from its record."""

from __future__ import annotations

import json
from dataclasses import replace

from foldrace.search.sweeps.refit import RefitResult

RESULT = RefitResult(
    "ae", "f00", 9, 540, 60, {"loss": 0.1, "mse": 0.1}, 0.2, "models:/ae@champion"
)
HIGH = replace(RESULT, score=0.9, metric="accuracy", direction="maximize")


def test_a_result_is_read_back_as_it_was_recorded() -> None:
    for result in (RESULT, HIGH):
        text = json.dumps(result.to_json())
        assert RefitResult.recorded(text) == replace(result, repeated=True)


def test_a_loss_is_called_so_and_a_score_has_the_name_of_its_metric() -> None:
    assert RESULT.to_json()["val_loss"] == 0.2 and "val_loss" not in HIGH.to_json()
    assert ("cross-validated accuracy", "0.90000") in HIGH.rows()


def test_what_an_earlier_version_recorded_is_read() -> None:
    found = {**RESULT.to_json()}
    for name in ("score", "metric", "direction"):
        del found[name]
    assert RefitResult.recorded(json.dumps(found)) == replace(RESULT, repeated=True)
