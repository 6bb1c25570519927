"""Cross-validation along a ladder: aligned points, costs, and the same numbers for any ladder."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch

from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.training.cross_validation import CrossValidation
from foldrace.trainables.training.ladder import Rung
from foldrace.trainables.training.options import EarlyStopping, TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldKind, FoldPlan
from tests.helpers.small_tasks import NUMBERED, SMALL, TASK, Scripted, same

LADDER = [Rung(1, 1), Rung(1, 3), Rung(3, 3), Rung(3, 5)]


def make(images, ladder=(), params=None, splits=3, epochs=5, n=60, **options):
    folds = FoldPlan(n, splits=splits).split()
    complete = TASK.complete({**SMALL, **(params or {})})
    settings = TrainingOptions(epochs, **options)
    return CrossValidation(
        TASK, complete, Samples.of_images(images[:n]), folds, settings, ladder=ladder
    )


def climb(validation):
    reports = []
    while not validation.finished:
        reports.append(validation.advance())
    return reports


def scripted(*scripts, splits=None, epochs=5, ladder=(), **options):
    """Folds whose validation losses are as given, one tuple a fold."""

    class ByFold(Scripted):
        def losses(self, model, images, params):
            terms = super().losses(model, images, params)
            if not model.training:
                fold = self.validations[tuple(self.seen[-1][1])]
                terms["loss"] = torch.full((len(images),), self.waiting[fold].pop(0))
            return terms

    folds = FoldPlan(12, splits=len(scripts)).split()
    task = LoadedTask("by fold", ByFold(*[0.0] * 99), {}, None)
    task.implementation.waiting = [list(script) for script in scripts]
    task.implementation.validations = {
        tuple(split.validation.tolist()): i for i, split in enumerate(folds)
    }
    params = task.complete({"optimizer": "sgd", "lr": 1.0})
    settings = TrainingOptions(epochs, **options)
    return CrossValidation(
        task, params, Samples.of_images(NUMBERED[:12]), folds, settings, ladder=ladder
    )


def test_without_a_ladder_all_folds_move_in_lock_step(digits):
    reports = climb(make(digits, epochs=3))
    assert [[fold.epoch for fold in report.folds] for report in reports] == [
        [1] * 3,
        [2] * 3,
        [3] * 3,
    ]
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert [report.fold_epochs for report in reports] == [3, 6, 9]
    assert [report.finished for report in reports] == [False, False, True]
    assert [fold.fold for fold in reports[0].folds] == [0, 1, 2]


def test_a_trials_metrics_are_the_means_over_its_folds(digits):
    report = climb(make(digits, epochs=2))[-1]
    losses = np.array([fold.val_loss for fold in report.folds])
    assert len(set(losses)) == 3
    assert report.metrics["val_loss"] == pytest.approx(losses.mean(), rel=1e-12)
    assert report.metrics["val_loss_se"] == pytest.approx(
        losses.std(ddof=1) / math.sqrt(3), rel=1e-9
    )
    for name in ("train_loss", "val_mse", "epoch_val_loss"):
        assert report.metrics[name] == pytest.approx(
            np.mean([f.metrics[name] for f in report.folds]), rel=1e-12
        )


def test_a_single_split_has_no_standard_error(digits):
    folds = FoldPlan(60, FoldKind.HOLDOUT).split()
    validation = CrossValidation(
        TASK, TASK.complete(SMALL), Samples.of_images(digits[:60]), folds, TrainingOptions(1)
    )
    (report,) = climb(validation)
    assert math.isnan(report.metrics["val_loss_se"]) and math.isfinite(report.metrics["val_loss"])


def test_a_ladder_visits_exactly_its_aligned_points():
    reports = climb(scripted(*[[float(i)] * 5 for i in (1, 2, 6)], ladder=LADDER))
    assert [(len(report.folds), report.epoch) for report in reports] == [
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 3),
        (3, 3),
        (3, 4),
        (3, 5),
    ]
    assert all(fold.epoch == report.epoch for report in reports for fold in report.folds)
    assert [report.fold_epochs for report in reports] == [1, 2, 3, 6, 9, 12, 15]
    assert [report.metrics["val_loss"] for report in reports] == [1, 1, 1, 1.5, 3, 3, 3]
    assert [report.finished for report in reports] == [False] * 6 + [True]


def test_a_rung_that_rises_in_both_lets_the_new_folds_catch_up_first():
    reports = climb(scripted([1.0] * 3, [1.0] * 3, epochs=3, ladder=[Rung(1, 1), Rung(2, 3)]))
    assert [(len(report.folds), report.epoch) for report in reports] == [
        (1, 1),
        (2, 1),
        (2, 2),
        (2, 3),
    ]


@pytest.mark.parametrize("params", [{}, {"schedule": "one-cycle"}])
def test_a_ladder_gives_every_fold_the_numbers_of_lock_step(digits, params):
    steady = {report.epoch: report for report in climb(make(digits, params=params))}
    for report in climb(make(digits, LADDER, params)):
        assert report.folds == steady[report.epoch].folds[: len(report.folds)]


@pytest.mark.parametrize("patience", [None, 2])
def test_a_state_from_any_point_of_the_ladder_continues_bit_for_bit(digits, patience):
    def fresh():
        return make(digits, LADDER, {"lr": 0.02}, n=36, early_stopping=EarlyStopping(patience))

    def numbers(report):
        return (
            report.epoch,
            report.folds,
            report.fold_epochs,
            report.finished,
            report.metrics["val_loss"],
        )

    whole, saved, expected = fresh(), [], []
    while not whole.finished:
        expected.append(numbers(whole.advance()))
        buffer = io.BytesIO()
        torch.save(whole.state_dict(), buffer)
        saved.append(buffer.getvalue())
    for position, state in enumerate(saved, 1):
        resumed = fresh()
        resumed.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        assert numbers(resumed.report()) == expected[position - 1]
        assert [numbers(report) for report in climb(resumed)] == expected[position:]
        assert len(resumed.folds) == len(whole.folds)
        for one, two in zip(resumed.folds, whole.folds, strict=True):
            assert same(one.model.state_dict(), two.model.state_dict())
            assert same(one.stepping.state_dict(), two.stepping.state_dict())
            assert same(one.weights(), two.weights())


def test_a_trial_is_finished_when_every_fold_has_stopped_early():
    reports = climb(
        scripted([3.0, 4.0], [2.0, 1.0, 5.0], early_stopping=EarlyStopping(0), epochs=9)
    )
    assert [report.finished for report in reports] == [False, False, True]
    assert [[fold.stopped for fold in report.folds] for report in reports] == [
        [False] * 2,
        [True, False],
        [True] * 2,
    ]
    last = reports[-1]
    assert (last.epoch, last.fold_epochs, last.diverged) == (3, 5, None)
    assert [fold.val_loss for fold in last.folds] == [3.0, 1.0]
    assert last.metrics["val_loss"] == 2.0


def test_one_stopped_fold_does_not_finish_a_trial_whose_others_have_not_begun():
    ladder = [Rung(1, 3), Rung(2, 3)]
    reports = climb(
        scripted([3.0, 4.0], [2.0, 1.0, 0.5], ladder=ladder, early_stopping=EarlyStopping(0))
    )
    assert [(len(report.folds), report.epoch) for report in reports] == [
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 3),
    ]
    assert [report.fold_epochs for report in reports] == [1, 2, 2, 5]


def test_a_diverged_trial_is_finished_at_once():
    reports = climb(scripted([3.0, 3.0], [3.0, math.nan], [3.0, 3.0], epochs=9))
    assert [report.finished for report in reports] == [False, True]
    last = reports[-1]
    assert last.diverged == "fold 1, epoch 2: val_loss is nan"
    assert last.metrics["val_loss"] == math.inf and math.isnan(last.metrics["val_loss_se"])
    assert reports[0].diverged is None


def test_a_fold_that_diverges_after_a_good_epoch_stops_alone_under_early_stopping():
    reports = climb(
        scripted([3.0, math.nan], [2.0, 1.0, 0.5], epochs=3, early_stopping=EarlyStopping(5))
    )
    assert len(reports) == 3 and all(report.diverged is None for report in reports)
    assert reports[-1].metrics["val_loss"] == 1.75
    assert reports[-1].fold_epochs == 5


def test_reconstructions_are_of_the_folds_own_validation_images(digits):
    validation = make(digits, epochs=1)
    validation.advance()
    for fold, split in enumerate(FoldPlan(60, splits=3).split()):
        originals, seen = validation.reconstruct(fold, 4)
        assert torch.equal(originals, digits[split.validation[:4]])
        assert torch.equal(seen, validation.folds[fold].reconstruct(originals))
        assert seen.shape == (4, 1, 8, 8) and seen.dtype == torch.uint8
    blind = scripted([1.0], [1.0], epochs=1)
    blind.advance()
    assert blind.reconstruct(0, 4) is None
