"""The examples of the docs: each is one file and a sweep file, and learns something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foldrace.search.preparing.prepare import prepare
from foldrace.search.preparing.work import make_work
from foldrace.search.spec.sweep_spec import load_spec

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
DIGITS = "dataset={name: digits, size: [8, 8], limit: 240, target: labels}"
# overrides that make it quick, parameters, and a score that only a network that learns has
LEARNING = {
    "classifier": ([DIGITS, "epochs=6"], {"lr": 0.01, "width": 16, "batch_size": 16}, 0.5),
    "regression": ([], {"lr": 0.01, "width": 16, "weight_decay": 0.01}, 60.0),
    "sequences": (["epochs=6"], {"lr": 0.02, "width": 16}, 0.7),
    "denoising": (["dataset.limit=400"], {"lr": 0.01, "latent_dim": 16, "noise": 0.1}, 0.05),
    "patients": ([], {"lr": 0.05}, 0.9),
    "demand": ([], {"lr": 0.02, "width": 16, "weight_decay": 1e-5}, 4.9),
    "resnet": (["dataset.limit=60", "epochs=1"], {}, 0.0),
}


@pytest.mark.parametrize("name", LEARNING)
def test_an_example_learns(name: str, tmp_path: Path) -> None:
    overrides, params, expected = LEARNING[name]
    spec = load_spec(EXAMPLES / f"{name}.yaml", overrides)
    prepared = prepare(spec, tmp_path)
    work = make_work(prepared)
    fixed = {key: entry.value for key, entry in spec.space.items() if hasattr(entry, "value")}
    chosen: dict[str, Any] = {**fixed, **params}
    cv = work.cross_validation(chosen, work.samples_on())
    while not cv.finished:
        report = cv.advance()
    assert report.diverged is None
    score = prepared.objective.score(report.metrics["val_loss"])
    assert score >= expected if prepared.objective.maximize else score <= expected


def test_every_example_is_tried() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == set(LEARNING)
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(LEARNING)
