"""Both sides of the study benchmark, on a few digits: the same counts, and errors of the same
data."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldrace.trainables.data.datasets import load_dataset
from tests.benchmarks.notebook import Counts, write_raw
from tests.benchmarks.study.run import Setting, StudySide, run_side

pytestmark = pytest.mark.long


def test_sweep_and_notebook_train_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "FOLDRACE_DIR", "FOLDRACE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    write_raw(tmp_path / "raw", load_dataset("digits", data_dir=tmp_path))
    counts = Counts(trials=2, folds=3, epochs=2)
    setting = Setting(counts, 128, "digits", tmp_path, tmp_path / "raw")
    ours, theirs = (
        run_side(side, 1, setting, tmp_path / side)
        for side in (StudySide.SWEEP, StudySide.NOTEBOOK)
    )
    for run in (ours, theirs):
        assert (
            (run.fold_epochs, run.refit_epochs) == (counts.fold_epochs, counts.epochs) == (12, 2)
        )
        assert 0.01 <= run.lr <= 0.03
        assert 0.01 < run.test_mse < 0.2 and 0.01 < run.val_mse < 0.2
    assert ours.search_seconds is not None and ours.search_seconds < ours.seconds
