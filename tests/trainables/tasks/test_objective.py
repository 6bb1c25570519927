"""What trials are compared by: a metric and its direction."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foldrace.errors import InputError
from foldrace.search.preparing.task_checks import check_direction
from foldrace.search.spec.training_sections import ObjectiveSpec
from foldrace.trainables.tasks.loading import LoadedTask, load_task
from foldrace.trainables.tasks.objective import LOSS, Objective, sounds_better_high
from foldrace.trainables.training.cross_validation import CrossValidation
from foldrace.trainables.training.options import EarlyStopping, TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldPlan


class Scored:
    """A linear network; ``fit`` is better the higher it is, ``misfit`` is its negative."""

    def build(self, params: Any, sample: Any) -> nn.Module:
        return nn.Linear(math.prod(sample.shape), 1)

    def losses(self, model: nn.Module, images: Tensor, params: Any) -> dict[str, Tensor]:
        error = (model(images.flatten(1))[:, 0] - 1).square()
        return {
            "loss": error,
            "fit": 1 / (1 + error.detach()),
            "misfit": -1 / (1 + error.detach()),
        }


TASK = LoadedTask("scored", Scored(), {}, None)


@pytest.mark.parametrize("patience", [None, 0])
@pytest.mark.parametrize("seed", range(3))
def test_a_metric_and_its_negative_give_the_same_numbers_to_the_bit(
    digits: Tensor, patience: int | None, seed: int
) -> None:
    def reports(metric: str, direction: str | None) -> list[Any]:
        options = TrainingOptions(
            4,
            seed=seed,
            objective=metric,
            direction=direction,
            early_stopping=EarlyStopping(patience),
        )
        splits = FoldPlan(60, splits=3, seed=seed).split()
        params = TASK.complete({"batch_size": 16, "optimizer": "sgd", "lr": 0.01})
        cv = CrossValidation(TASK, params, Samples.of_images(digits[:60]), splits, options)
        found = []
        while not cv.finished:
            report = cv.advance()
            metrics = [dict(fold.metrics) for fold in report.folds]
            found.append((report.epoch, report.rungs, report.fold_epochs, metrics))
        return found

    high, low = reports("fit", "maximize"), reports("misfit", "minimize")
    assert high == low
    for metrics in high[-1][3]:
        assert metrics["val_loss"] == -metrics["val_fit"] < 0


def test_a_score_and_its_loss_are_inverse_and_named() -> None:
    for objective in (LOSS, Objective("auc", maximize=True), Objective("mse")):
        assert objective.score(objective.loss(0.25)) == 0.25
    assert (LOSS.name, LOSS.named({"mse", "loss"}), LOSS.named({"loss"})) == (
        "loss",
        "mse",
        "loss",
    )
    assert Objective("auc", maximize=True).key == "auc" and LOSS.key == "val_loss"


@pytest.mark.parametrize(
    ("name", "high"),
    [
        *[(name, True) for name in ("accuracy", "val_auc", "F1", "r2_score", "macro_f1", "psnr")],
        *[(name, False) for name in ("mse", "loss", "negative_elbo", "error", "perplexity")],
        *[(name, False) for name in ("accuracy_error", "neg_r2", "one_minus_auc", "accurate")],
    ],
)
def test_a_name_says_whether_more_is_better(name: str, high: bool) -> None:
    assert sounds_better_high(name) is high


def test_the_file_wins_over_the_task_and_a_direction_belongs_to_its_metric() -> None:
    class Own(Scored):
        objective, direction = "fit", "maximize"

    task = LoadedTask("own", Own(), {}, "fit")
    assert task.compared_by() == Objective("fit", True)
    assert task.compared_by("misfit") == Objective("misfit", False)
    assert task.compared_by("fit") == Objective("fit", True)
    assert task.compared_by("fit", "minimize") == Objective("fit", False)


def test_what_sounds_better_the_higher_is_not_minimised_by_mistake(tmp_path: Any) -> None:
    class Declared(Scored):
        objective = "accuracy"

    task = LoadedTask("declared", Declared(), {}, "accuracy")
    with pytest.raises(InputError) as caught:
        check_direction(task, ObjectiveSpec(), task.compared_by())
    assert str(caught.value) == (
        "objective: accuracy: would be minimised, and accuracy sounds as if more were better;"
        " write objective: {metric: accuracy, direction: maximize}, or minimize"
    )
    for direction in ("maximize", "minimize"):  # who says it means it
        given = ObjectiveSpec(metric="accuracy", direction=direction)
        check_direction(task, given, task.compared_by("accuracy", direction))
    elbo = load_task("variational")
    check_direction(elbo, ObjectiveSpec(), elbo.compared_by())
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    direction = 'up'\n    build = losses = lambda self: 1\n"
    )
    with pytest.raises(InputError, match=r"its direction is 'up'.*maximize, minimize"):
        load_task(f"{tmp_path}/mine.py:Mine")


def test_what_is_tuned_on_a_gradient_is_still_the_loss(digits: Tensor) -> None:
    options = TrainingOptions(1, objective="fit", direction="maximize")
    splits = FoldPlan(60, splits=3).split()
    cv = CrossValidation(TASK, TASK.complete({}), Samples.of_images(digits[:60]), splits, options)
    metrics = cv.advance().folds[0].metrics
    assert metrics["val_criterion"] > 0 and torch.isfinite(torch.tensor(metrics["val_criterion"]))
