"""The picture of a sweep: what it says, and that it is drawn whatever there is."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from foldrace.analysis.reports.sweep.overview import (
    Overview,
    _headline,
    _varying_parameters,
    draw_overview,
)


def overview(*statuses: str, folds: int = 3, strip: bool = True) -> Overview:
    rows = [
        {
            "trial": trial,
            "run_id": str(trial),
            "status": status,
            "reason": "",
            "phase": "",
            "val_loss": 0.02 + 0.01 * trial,
            "val_loss_se": 0.001 if folds > 1 else math.nan,
            "params.optimizer": "sgd" if trial == 1 else "adam",
            "params.momentum": "0.9" if trial == 1 else math.nan,
            "params.latent_dim": "16",
        }
        for trial, status in enumerate(statuses)
    ]
    columns = ["trial", "run_id", "status", "reason", "phase", "val_loss", "val_loss_se"]
    trials = pd.DataFrame(rows, columns=None if rows else columns)
    curve = pd.DataFrame(
        {"epoch": [1.0, 2.0], "val_loss": [0.1, 0.05], "val_loss_se": [0.01, 0.005]}
    )
    best = {
        trial: [0.01, 0.02, 0.03][:folds]
        for trial, status in enumerate(statuses)
        if status == "completed"
    }
    pixels = np.zeros((20, 90, 3), np.uint8) if strip else None
    return Overview("ae", trials, dict.fromkeys(range(len(statuses)), curve), best, pixels)


@pytest.mark.parametrize(
    "shown",
    [
        overview("completed", "pruned", "failed"),
        overview("completed", folds=1, strip=False),
        overview("failed", "failed", strip=False),
        overview(strip=False),
    ],
)
def test_any_sweep_is_drawn_without_a_warning(shown: Overview, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        draw_overview(shown, tmp_path / "overview.png")
    with Image.open(tmp_path / "overview.png") as image:
        assert image.width > 1000 and len(set(image.convert("L").getdata())) > 20


def test_the_headline_names_the_best_its_error_and_what_became_of_the_others() -> None:
    assert (
        _headline(overview("completed", "pruned", "failed"))
        == "ae: trial 0 is best, with a CV loss of 0.02000 ± 0.00100; of 3 trials 1 pruned,"
        " 1 failed"
    )
    assert "no trial has completed" in _headline(overview("failed"))


def test_a_trial_is_described_by_every_parameter_that_varies() -> None:
    shown = overview("completed", "completed")
    assert _varying_parameters(shown, 0) == "optimizer=adam"
    assert _varying_parameters(shown, 1) == "optimizer=sgd momentum=0.9"
