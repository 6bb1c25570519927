"""The study benchmark's arithmetic and its picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.notebook import Counts
from tests.benchmarks.spread import Spread
from tests.benchmarks.study import run as study
from tests.benchmarks.study.figure import draw_study
from tests.benchmarks.study.run import Run, Setting, StudySide, summary


def run(
    side: StudySide, seed: int, seconds: float, fold_epochs: int = 54, test_mse: float = 0.02
) -> Run:
    return Run(side, seed, seconds, None, fold_epochs, 3, 0.01, 0.02, test_mse)


RUNS = [
    run(StudySide.SWEEP, 1, 50, test_mse=0.021),
    run(StudySide.NOTEBOOK, 1, 200),
    run(StudySide.RACE, 1, 20, 10),
    run(StudySide.RACE, 2, 40, 12),
    run(StudySide.NOTEBOOK, 2, 800),
    run(StudySide.SWEEP, 2, 50, test_mse=0.023),
]


def test_times_and_errors_are_compared_round_by_round() -> None:
    found = summary(RUNS)
    assert found[StudySide.SWEEP]["times_faster"] == Spread(pytest.approx(8), 4, 16, 2)
    assert found[StudySide.SWEEP]["test_mse_more"] == {
        "mean": pytest.approx(0.002),
        "standard_error": pytest.approx(0.001),
    }
    assert found[StudySide.RACE]["fold_epochs"].low == 10
    assert "times_faster" not in found[StudySide.NOTEBOOK]


def test_unequal_counts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        study, "run_side", lambda side, seed, setting, folder: run(side, seed, 1.0, fold_epochs=53)
    )
    setting = Setting(Counts(6, 3, 3), 256, "digits", tmp_path, tmp_path)
    with pytest.raises(SystemExit, match="53 fold-epochs"):
        list(study.rounds(1, setting, tmp_path))


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw_study(RUNS, tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size > 10_000
