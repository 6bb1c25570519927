"""Folds trained as one batched program have the numbers that they have alone, within rounding."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foldrace.trainables.data.sample import FieldInfo, Roles, Sample
from foldrace.trainables.tasks.loading import LoadedTask, load_task
from foldrace.trainables.training.cross_validation import CrossValidation
from foldrace.trainables.training.fused.epoch import CannotFuseError, can_fuse
from foldrace.trainables.training.ladder import Rung
from foldrace.trainables.training.options import EarlyStopping, Precision, TrainingOptions
from foldrace.trainables.training.reports import EpochReport
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldPlan, Split
from tests.helpers.small_tasks import SMALL, TASK, same

VARIATIONAL = load_task("variational")


def trial(
    images: Tensor,
    fused: bool,
    *,
    task: LoadedTask = TASK,
    params: Mapping[str, Any] | None = None,
    n: int = 90,
    epochs: int = 3,
    ladder: Sequence[Rung] = (),
    **options: Any,
) -> CrossValidation:
    small = SMALL if task.objective else {"batch_size": 16}
    complete = task.complete({**small, **(params or {})})
    splits = FoldPlan(n, splits=3).split()
    settings = TrainingOptions(epochs, **options)
    return CrossValidation(
        task, complete, Samples.of_images(images[:n]), splits, settings, ladder=ladder, fused=fused
    )


def climb(cv: CrossValidation) -> list[EpochReport]:
    reports = []
    while not cv.finished:
        reports.append(cv.advance())
    return reports


def assert_close(ours: list[EpochReport], theirs: list[EpochReport], *, rel: float = 2e-3) -> None:
    trained = [
        sorted(
            (fold for report in reports for fold in report.trained),
            key=lambda fold: (fold.fold, fold.epoch),
        )
        for reports in (ours, theirs)
    ]
    for mine, his in zip(*trained, strict=True):
        assert (mine.fold, mine.epoch, mine.stopped, mine.best_epoch) == (
            his.fold,
            his.epoch,
            his.stopped,
            his.best_epoch,
        )
        assert dict(mine.metrics) == pytest.approx(dict(his.metrics), rel=rel, abs=5e-5)


@pytest.mark.parametrize(
    "params",
    [
        {"dropout": 1.0},
        {"dropout": 0.7, "optimizer": "adamw", "schedule": "one-cycle", "weight_decay": 0.01},
        {"optimizer": "sgd", "momentum": 0.9, "lr": 0.05, "schedule": "cosine"},
        {"optimizer": "nadam"},
        {"optimizer": "radam"},
        {"optimizer": "rmsprop", "momentum": 0.5},
        {"optimizer": "adagrad", "lr": 0.001},
        {"optimizer": "adadelta", "lr": 1.0},
        {"dropout": 0.0, "loss": "bce", "activation": "silu"},
    ],
)
def test_the_folds_have_the_numbers_that_they_have_alone(
    digits: Tensor, params: dict[str, Any]
) -> None:
    ours, theirs = (
        climb(trial(digits, True, params=params)),
        climb(trial(digits, False, params=params)),
    )
    assert_close(ours, theirs)
    losses = [fold.val_loss for fold in ours[-1].folds]
    assert len(set(losses)) == 3  # not one fold three times


@pytest.mark.parametrize(
    "params", [{}, {"learned_variance": True, "dropout": 0.5, "warm_up": 2.0}]
)
def test_a_variational_autoencoders_folds_draw_their_own_noise(
    digits: Tensor, params: dict[str, Any]
) -> None:
    both = [
        climb(trial(digits, fused, task=VARIATIONAL, params=params)) for fused in (True, False)
    ]
    assert_close(*both)


@pytest.mark.parametrize("n", [91, 92, 145])
def test_folds_that_differ_by_a_sample_are_the_same_too(digits: Tensor, n: int) -> None:
    cvs = [trial(digits, fused, n=n) for fused in (True, False)]
    assert_close(climb(cvs[0]), climb(cvs[1]))
    assert len({len(fold.train_indices) for fold in cvs[0].folds}) == 2


def test_folds_of_unequal_numbers_of_steps_are_trained_one_by_one(digits: Tensor) -> None:
    cvs = [trial(digits, fused, n=146, params={"batch_size": 96}) for fused in (True, False)]
    reports = [climb(cv) for cv in cvs]
    assert not can_fuse(cvs[0].folds)
    ours, theirs = ([dict(fold.metrics) for fold in each[-1].folds] for each in reports)
    assert ours == theirs


def test_a_fold_that_has_stopped_early_is_left_out_and_the_others_go_on(digits: Tensor) -> None:
    options: dict[str, Any] = {
        # with Adam's usual epsilon the biases before a batch norm walk on the rounding of their
        # gradients
        "params": {"lr": 0.05, "dropout": 0.0, "batch_size": 8, "eps": 1e-5},
        "early_stopping": EarlyStopping(1),
        "epochs": 8,
    }
    ours, theirs = climb(trial(digits, True, **options)), climb(trial(digits, False, **options))
    assert_close(ours, theirs)
    assert len({fold.epoch for fold in ours[-1].folds}) > 1


def test_folds_that_join_later_are_fused_with_those_at_their_epoch(digits: Tensor) -> None:
    ladder = (Rung(1, 1), Rung(1, 3), Rung(3, 3))
    assert_close(
        climb(trial(digits, True, ladder=ladder)), climb(trial(digits, False, ladder=ladder))
    )


@pytest.mark.parametrize("first", [True, False])
def test_a_state_continues_fused_or_not(digits: Tensor, first: bool) -> None:
    params = {"optimizer": "nadam", "schedule": "one-cycle", "dropout": 0.5}
    whole = climb(trial(digits, False, params=params, epochs=4))
    begun = trial(digits, first, params=params, epochs=4)
    reports = [begun.advance(), begun.advance()]
    other = trial(digits, not first, params=params, epochs=4)
    other.load_state_dict(copy.deepcopy(begun.state_dict()))
    assert_close(reports + climb(other), whole)


def test_fused_training_is_the_same_bit_for_bit_when_repeated_and_resumed(digits: Tensor) -> None:
    params = {"dropout": 1.0, "schedule": "cosine"}
    whole = trial(digits, True, params=params)
    climb(whole)
    begun = trial(digits, True, params=params)
    begun.advance()
    resumed = trial(digits, True, params=params)
    resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
    climb(resumed)
    without_clock = [
        [{**fold, "seconds": 0} for fold in cv.state_dict()["folds"]] for cv in (whole, resumed)
    ]
    assert same(*without_clock)


class Peculiar:
    """Torch's own dropout in a function, noise on the images, batch statistics, a frozen weight,
    and what is asked."""

    def __init__(self, reads: bool = False, draws: bool = False) -> None:
        self.reads, self.draws = reads, draws

    def build(self, params: Any, sample_shape: Any) -> nn.Module:
        model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 12),
            nn.BatchNorm1d(12),
            nn.Dropout(0.25),
            nn.Linear(12, 64),
            nn.Sigmoid(),
        )
        model[1].bias.requires_grad_(False)
        return model

    def losses(self, model: nn.Module, images: Tensor, params: Any) -> dict[str, Tensor]:
        pixels = images + 0.1 * torch.randn_like(images) if model.training else images
        pixels = pixels * torch.rand_like(pixels) if model.training else pixels
        if model.training and self.draws:
            pixels = pixels + torch.randn(1)
        output = F.dropout(model(pixels), 0.1, model.training)
        if self.reads and float(output.mean()) > 2:
            output = output + 1
        return {"loss": (output - images.flatten(1)).square().mean(1)}


def test_a_users_own_model_and_torchs_own_dropout(digits: Tensor) -> None:
    task = LoadedTask("peculiar", Peculiar(), {}, None)
    cvs = [trial(digits, fused, task=task) for fused in (True, False)]
    assert_close(climb(cvs[0]), climb(cvs[1]))
    for fold, other in zip(cvs[0].folds, cvs[1].folds, strict=True):
        for name, value in fold.model.state_dict().items():
            torch.testing.assert_close(value, other.model.state_dict()[name], rtol=1e-3, atol=1e-5)
        assert torch.equal(fold.model[1].bias, other.model[1].bias)


@pytest.mark.parametrize("options", [{"reads": True}, {"draws": True}])
def test_a_task_that_cannot_be_batched_is_refused_before_anything_changes(
    digits: Tensor, options: dict[str, bool]
) -> None:
    task = LoadedTask("peculiar", Peculiar(**options), {}, None)
    must = trial(digits, True, task=task)
    with pytest.raises(CannotFuseError):
        must.advance()
    assert all(fold.epoch == 0 for fold in must.folds)
    may = trial(digits, True, task=task)
    may._must_fuse = False  # as under "auto" on a GPU
    reports, alone = climb(may), climb(trial(digits, False, task=task))
    assert [dict(f.metrics) for f in reports[-1].folds] == [
        dict(f.metrics) for f in alone[-1].folds
    ]


def test_bfloat16_gives_nearly_the_same_losses_from_float32_weights(digits: Tensor) -> None:
    exact, rough = (
        climb(trial(digits, False, precision=p)) for p in (Precision.FLOAT32, Precision.BFLOAT16)
    )
    losses = [[fold.val_loss for fold in reports[-1].folds] for reports in (exact, rough)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)
    cv = trial(digits, False, precision=Precision.BFLOAT16)
    cv.advance()
    assert {weight.dtype for fold in cv.folds for weight in fold.model.parameters()} == {
        torch.float32
    }


class Linear:
    """A regression on a mapping of fields."""

    objective = "loss"

    def build(self, params: Mapping[str, Any], sample: Any) -> nn.Module:
        return nn.Linear(3, 1)

    def losses(self, model: Any, batch: Any, params: Any) -> dict[str, Tensor]:
        return {"loss": (model(batch["x"])[:, 0] - batch["y"]) ** 2}


class RandomFeatures(Linear):
    """A network with a tensor that is neither a weight nor a buffer, drawn when it is built."""

    def build(self, params: Mapping[str, Any], sample: Any) -> nn.Module:
        network = nn.Sequential(nn.Linear(3, 1))
        network.features = torch.randn(3)
        return network


class RandomTask(Linear):
    """The same on the task."""

    def build(self, params: Mapping[str, Any], sample: Any) -> nn.Module:
        self.features = torch.randn(3)
        return nn.Linear(3, 1)


def regression(task: Any, fused: bool, **roles: str) -> list[EpochReport]:
    """Three folds in the order of the rows, whose weights are 1 and then 9."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(90, 3)).astype(np.float32)
    fields = {"x": x, "y": x.sum(1), "w": np.where(np.arange(90) < 45, 1.0, 9.0).astype("f4")}
    infos = {name: FieldInfo(name, v.shape[1:], str(v.dtype)) for name, v in fields.items()}
    sample = Sample(infos, Roles(target="y", **roles))
    samples = Samples.of(fields, sample, torch.device("cpu"))
    parts = np.split(np.arange(90), 3)
    splits = [Split(np.setdiff1d(np.arange(90), part), part) for part in parts]
    loaded = LoadedTask("own", task, {}, "loss")
    params = loaded.complete({"optimizer": "sgd", "lr": 0.01, "batch_size": 10})
    return climb(CrossValidation(loaded, params, samples, splits, TrainingOptions(2), fused=fused))


def test_each_fold_counts_by_the_mean_weight_of_its_own_training_part() -> None:
    ours, theirs = (regression(Linear(), fused, weight="w") for fused in (True, False))
    assert_close(ours, theirs)
    unweighted = regression(Linear(), False)
    assert unweighted[-1].metrics["val_loss"] != pytest.approx(theirs[-1].metrics["val_loss"])


@pytest.mark.parametrize("task", [RandomFeatures(), RandomTask()], ids=["network", "task"])
def test_folds_that_differ_in_more_than_weights_are_not_fused(task: Any) -> None:
    with pytest.raises(CannotFuseError, match="differ in more than weights"):
        regression(task, True)
