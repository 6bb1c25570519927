"""When a fold ends before its time: early stopping keeps the best, and a divergence is named."""

from __future__ import annotations

import math
import re

import pytest
import torch

from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.training.options import EarlyStopping
from tests.helpers.small_tasks import LINEAR, TASK, Linear, make, scripted, train

# --- early stopping


@pytest.mark.parametrize(
    ("patience", "min_delta", "script", "epochs", "best"),
    [
        (0, 0.0, (3.0, 4.0), 2, 1),
        (0, 0.0, (3.0, 2.0, 2.0), 3, 2),
        (1, 0.0, (3.0, 4.0, 2.0, 5.0, 5.0), 5, 3),
        (2, 0.0, (3.0, 2.0, 4.0, 1.0, 5.0, 4.0, 3.0), 7, 4),
        (0, 0.5, (3.0, 2.75), 2, 1),
        (1, 0.5, (3.0, 2.75, 2.25, 2.0, 1.875), 5, 3),
        (2, 0.5, (3.0, 2.75, 2.625, 2.25, 2.0, 1.9375, 1.875), 7, 4),  # slow progress adds up
    ],
)
def test_early_stopping_keeps_the_best_epochs_weights_and_numbers(
    patience, min_delta, script, epochs, best
):
    fold = scripted(*script, epochs=20, early_stopping=EarlyStopping(patience, min_delta))
    reports = train(fold, epochs)
    assert [report.stopped for report in reports] == [False] * (epochs - 1) + [True]
    last = reports[-1]
    assert (last.epoch, last.best_epoch, last.diverged) == (epochs, best, None)
    assert (last.val_loss, last.metrics["epoch_val_loss"]) == (script[best - 1], script[-1])
    assert last.metrics["train_loss"] == 101 - epochs  # of the last epoch, not of the kept one
    assert fold.weights()["weight"].item() == 100 - best
    assert (
        fold.train_epoch() == fold.report() == last
    )  # the script is used up: another epoch would fail


def test_an_improvement_counts_only_beyond_min_delta():
    reports = train(scripted(3.0, 2.25, 1.75, early_stopping=EarlyStopping(0, 0.5)), 3)
    assert [report.best_epoch for report in reports] == [1, 2, 2]
    assert reports[-1].stopped


def test_without_early_stopping_the_last_epoch_counts():
    fold = scripted(1.0, 2.0, 3.0)
    last = train(fold, 3)[-1]
    assert (last.epoch, last.best_epoch, last.stopped, last.val_loss) == (3, 3, False, 3.0)
    assert fold.weights()["weight"].item() == 97


def test_pictures_are_of_the_kept_weights(digits):
    fold = make(
        digits, {"lr": 0.05, "dropout": 0.0, "batch_size": 4}, early_stopping=EarlyStopping(4)
    )
    while train(fold, 1)[0].best_epoch == fold.epoch:
        assert fold.epoch < 8
    model = TASK.implementation.build(fold.params, (1, 8, 8))
    pictures = []
    for weights in (fold.weights(), fold.model.state_dict()):
        model.load_state_dict(weights)
        with torch.no_grad():
            pictures.append(model.eval()(digits[:4] / 255).mul(255).round().to(torch.uint8))
    assert torch.equal(fold.reconstruct(digits[:4]), pictures[0]) and not torch.equal(*pictures)


# --- divergence


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize(
    ("task", "reason"),
    [(TASK, "gradient has vanished"), (LINEAR, "has made it worse|is (nan|inf)")],
)
def test_a_learning_rate_of_a_thousand_diverges(digits, optimizer, task, reason):
    fold = make(digits, {"optimizer": optimizer, "lr": 1e3, "batch_size": 8}, task=task)
    last = train(fold, 4)[-1]
    assert last.diverged is not None and last.stopped and last.epoch <= 4
    assert last.diverged.startswith(f"fold 0, epoch {last.epoch}: ")
    assert re.search(reason, last.diverged)
    assert (last.val_loss, last.best_epoch) == (math.inf, 0)
    assert fold.train_epoch() == last


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("lr", [1e-3, 1e-7])
@pytest.mark.parametrize("task", [TASK, LINEAR])
def test_a_healthy_run_and_a_hopelessly_slow_one_have_not_diverged(digits, optimizer, lr, task):
    last = train(make(digits, {"optimizer": optimizer, "lr": lr}, task=task), 3)[-1]
    assert last.diverged is None and not last.stopped and last.epoch == last.best_epoch == 3
    assert 0 < last.val_loss < 1


def test_a_small_gradient_has_not_vanished(digits):
    class Tiny(Linear):
        def losses(self, model, images, params):
            return {
                name: value * 1e-8 for name, value in super().losses(model, images, params).items()
            }

    last = train(make(digits, {"optimizer": "sgd"}, task=LoadedTask("tiny", Tiny(), {}, None)), 2)[
        -1
    ]
    assert last.diverged is None and 0 < last.val_loss < 1e-8


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_named(bad):
    last = train(scripted(3.0, bad, fold=1), 2)[-1]
    assert last.diverged == f"fold 1, epoch 2: val_loss is {bad}"
    assert (last.val_loss, last.best_epoch, last.stopped) == (math.inf, 0, True)


def test_under_early_stopping_the_weights_from_before_a_divergence_are_kept():
    fold = scripted(3.0, 2.0, math.nan, early_stopping=EarlyStopping(5))
    last = train(fold, 3)[-1]
    assert last.diverged and last.stopped
    assert (last.val_loss, last.best_epoch, fold.weights()["weight"].item()) == (2.0, 2, 98)
