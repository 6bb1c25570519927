"""What is computed from the values of a trial's folds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foldrace.trainables.training.reports import EpochReport, FoldReport, mean_and_standard_error


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_mean_and_its_standard_error_are_numpys(count):
    values = np.random.default_rng(count).random(count)
    mean, error = mean_and_standard_error(values.tolist())
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(count), rel=1e-12)


def test_one_fold_has_no_standard_error_and_an_infinite_one_spoils_the_mean():
    mean, error = mean_and_standard_error([0.25])
    assert mean == 0.25 and math.isnan(error)
    for bad in (math.inf, math.nan):
        mean, error = mean_and_standard_error([0.25, bad])
        assert mean == math.inf and math.isnan(error)


def test_a_trial_fails_only_if_a_fold_diverged_without_usable_weights():
    def report(best_epoch):
        return FoldReport(0, 3, best_epoch, True, "val_loss is nan", {"val_loss": 1.0})

    assert EpochReport(3, (report(2),), 3, 1.0, True).diverged is None
    assert EpochReport(3, (report(2), report(0)), 3, 1.0, True).diverged == "val_loss is nan"
