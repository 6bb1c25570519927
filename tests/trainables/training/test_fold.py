"""A fold's numbers are its own model's, the same in every process, and survive a resume."""

from __future__ import annotations

import copy
import io
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from foldrace.trainables.tasks.loading import LoadedTask, load_task
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.options import EarlyStopping, TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldPlan, Split
from tests.helpers.small_tasks import (
    NUMBERED,
    SMALL,
    TASK,
    Linear,
    N,
    Scripted,
    make,
    same,
    scripted,
    train,
)

RISING = {"lr": 0.05, "dropout": 0.0, "batch_size": 8}
"""With these the validation loss rises in the second epoch, so that the kept weights are not the
latest."""

# --- numbers of the fold's own model


def test_an_untrained_and_a_trained_model_differ(digits):
    fold = make(digits, {"lr": 0.01})
    untrained = fold.evaluate(fold.validation_indices)["loss"]
    report = train(fold, 6)[-1]
    assert report.val_loss < untrained - 0.03
    assert report.val_loss == fold.evaluate(fold.validation_indices)["loss"]


@pytest.mark.parametrize("stopping", [EarlyStopping(), EarlyStopping(patience=4)])
def test_the_recorded_loss_is_that_of_the_kept_weights_on_the_validation_images(digits, stopping):
    fold = make(digits, {"lr": 0.05, "dropout": 0.0, "batch_size": 8}, early_stopping=stopping)
    report = train(fold, 4)[-1]
    model = TASK.implementation.build(fold.params, (1, 8, 8))
    model.load_state_dict(fold.weights())
    model.eval()
    chosen = FoldPlan(N, splits=3).split()[0].validation
    images = digits[:N].numpy()[chosen].astype(np.float32) / 255
    with torch.no_grad():
        output = model(torch.from_numpy(images)).numpy()
    assert report.val_loss == pytest.approx(
        float(((output.astype(float) - images) ** 2).mean()), abs=1e-7
    )


def test_training_sees_each_training_image_once_per_epoch_in_a_new_order():
    split = FoldPlan(30, splits=3).split()[1]
    fold = scripted(1.0, 1.0, params={"batch_size": 8}, n=30, fold=1)
    train(fold, 2)
    seen = fold.task.implementation.seen
    orders = [
        [i for training, batch in part if training for i in batch] for part in (seen[:4], seen[4:])
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == split.train.tolist()
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])
    assert [batch for training, batch in seen if not training] == [split.validation.tolist()] * 2


def test_training_and_validation_losses_are_on_one_scale(digits):
    metrics = train(make(digits, {"dropout": 0.0, "lr": 1e-9}), 1)[0].metrics
    assert metrics["train_loss"] == pytest.approx(metrics["val_loss"], rel=0.15)


@pytest.mark.parametrize("loss", ["bce", "l1"])
def test_the_objective_is_the_mse_whatever_is_minimised(digits, loss):
    metrics = train(make(digits, {"loss": loss}), 1)[0].metrics
    for part in ("train", "val"):
        assert metrics[f"{part}_loss"] == metrics[f"{part}_mse"] != metrics[f"{part}_criterion"]
    asked = train(make(digits, {"loss": loss}, objective="loss"), 1)[0].metrics
    assert asked["val_loss"] == metrics["val_criterion"]
    assert asked["val_mse"] == metrics["val_mse"]


def test_the_tasks_own_objective_is_the_default():
    class Two(Scripted):
        def losses(self, model, images, params):
            terms = super().losses(model, images, params)
            return {**terms, "mse": terms["loss"] * 2, "mine": terms["loss"] * 3}

    task = LoadedTask("two", Two(1.0), {}, objective="mine")
    (report,) = train(make(NUMBERED, {"optimizer": "sgd"}, task=task), 1)
    assert report.val_loss == 3.0


# --- the same everywhere


def test_folds_and_seeds_differ_in_weights_and_numbers(digits):
    folds = [make(digits), make(digits, fold=1), make(digits, fold=2), make(digits, seed=1)]
    first = {tuple(fold.model.state_dict()["encoder.0.bias"].tolist()) for fold in folds}
    assert len(first) == len({train(fold, 1)[0].val_loss for fold in folds}) == 4


def test_trials_share_first_weights_and_order_of_images(digits):
    one, two = make(digits, {"lr": 1e-2}), make(digits, {"lr": 1e-4, "optimizer": "sgd"})
    assert same(one.weights(), two.weights())
    folds = [scripted(1.0, params={"lr": lr, "batch_size": 4}) for lr in (0.1, 0.2)]
    for fold in folds:
        train(fold, 1)
    assert folds[0].task.implementation.seen == folds[1].task.implementation.seen


def test_numbers_do_not_depend_on_the_process_and_the_process_not_on_them(digits):
    torch.manual_seed(1)
    expected = [report.metrics for report in train(make(digits))]
    torch.manual_seed(99)
    train(make(digits, {"optimizer": "sgd", "latent_dim": 3}, fold=1), 2)  # another trial before
    torch.rand(7)
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    fold = make(digits)
    assert [report.metrics for report in train(fold)] == expected
    fold.evaluate(fold.train_indices)
    fold.reconstruct(digits[:3])
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpys)


def test_evaluation_between_epochs_changes_nothing(digits):
    expected = [
        report.metrics for report in train(make(digits, RISING, early_stopping=EarlyStopping(9)))
    ]
    fold, seen = make(digits, RISING, early_stopping=EarlyStopping(9)), []
    for _ in range(4):
        seen.append(fold.train_epoch().metrics)
        fold.evaluate(fold.train_indices)
        fold.reconstruct(digits[:3])
        fold.report()
    assert seen == expected
    assert (
        len({metrics["val_loss"] for metrics in seen}) < 4
    )  # or the kept weights were always the latest


def test_what_a_reconstruction_draws_follows_from_the_seed():
    class Noisy(Scripted):
        def reconstruct(self, model, images, params):
            return torch.rand_like(images)

    def look(seed):
        fold = make(NUMBERED, {}, task=LoadedTask("noisy", Noisy(), {}, None))
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        output = fold.reconstruct(NUMBERED[:5])
        return output, torch.equal(torch.get_rng_state(), before)

    (one, untouched), (two, _) = look(1), look(2)
    assert torch.equal(one, two) and untouched


# --- interruption


def saved(fold):
    buffer = io.BytesIO()
    torch.save(fold.state_dict(), buffer)
    return buffer.getvalue()


def state(fold):
    return {name: value for name, value in fold.state_dict().items() if name != "seconds"}


KINDS = {
    "adam": {"optimizer": "adam", "amsgrad": True},
    "momentum": {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True},
    "one-cycle": {"schedule": "one-cycle", "lr": 0.01},
    "cosine": {"schedule": "cosine", "optimizer": "rmsprop", "momentum": 0.5},
    "rising": RISING,
}


@pytest.mark.parametrize("patience", [None, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_fold_equals_the_uninterrupted_one_bit_for_bit(digits, kind, patience):
    options = {"early_stopping": EarlyStopping(patience)}
    whole = make(digits, KINDS[kind], **options)
    reports, checkpoints, kept = [], [], []
    for _ in range(4):
        reports.append(whole.train_epoch())
        checkpoints.append(saved(whole))
        kept.append({name: value.clone() for name, value in whole.weights().items()})
    if kind == "rising" and patience is not None:
        assert any(
            report.best_epoch < report.epoch for report in reports[:-1]
        )  # or the kept weights are untested
    for done, checkpoint in enumerate(checkpoints, 1):
        resumed = make(digits, KINDS[kind], **options)
        resumed.load_state_dict(torch.load(io.BytesIO(checkpoint), weights_only=True))
        assert resumed.report() == reports[done - 1]
        assert same(resumed.weights(), kept[done - 1])
        assert train(resumed, 4 - done) == reports[done:]
        assert same(state(resumed), state(whole))
        assert same(resumed.weights(), whole.weights())


FRESH = """
import sys, torch
from foldrace.trainables.training.options import EarlyStopping, TrainingOptions
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldPlan
from foldrace.trainables.tasks.loading import load_task
torch.set_num_threads(int(sys.argv[2]))
checkpoint = torch.load(sys.argv[1], weights_only=True)
images = checkpoint["images"]
task = load_task("autoencoder")
params = task.complete(
    {"width": 4, "hidden": 32, "latent_dim": 8, "batch_size": 16, "schedule": "one-cycle"}
)
def make():
    options = TrainingOptions(4, early_stopping=EarlyStopping(2))
    split = FoldPlan(90, splits=3).split()[1]
    return Fold(task, params, Samples.of_images(images), split, options, number=1)
fold = make()
print([repr(fold.train_epoch()) for _ in range(4)])
fold = make()
fold.load_state_dict(checkpoint["fold"])
print([repr(fold.train_epoch()) for _ in range(2)])
"""


def test_a_fresh_process_with_another_hash_seed_gives_the_same_numbers_and_continues_a_checkpoint(
    digits, tmp_path
):
    fold = make(digits, {"schedule": "one-cycle"}, fold=1, early_stopping=EarlyStopping(2))
    first = train(fold, 2)
    torch.save({"fold": fold.state_dict(), "images": digits[:N].clone()}, tmp_path / "fold.pt")
    reports = [repr(report) for report in first + train(fold, 2)]
    fresh = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "fold.pt"), str(torch.get_num_threads())],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
    )
    assert fresh.stdout.splitlines() == [str(reports), str(reports[2:])], fresh.stderr


# --- batches and steps


class Normed(Linear):
    """Batch normalisation of vectors, which cannot take a single sample."""

    def __init__(self):
        self.sizes = []

    def build(self, params, sample_shape):
        n = math.prod(sample_shape)
        return nn.Sequential(
            nn.Flatten(), nn.BatchNorm1d(n), nn.Linear(n, n), nn.Unflatten(1, sample_shape)
        )

    def losses(self, model, images, params):
        self.sizes.append(len(images))
        return super().losses(model, images, params)


@pytest.mark.parametrize(
    ("train_size", "expected"), [(17, [16]), (18, [16, 2]), (33, [16, 16]), (32, [16, 16])]
)
def test_a_last_batch_of_one_is_left_out_and_the_schedule_still_ends_with_the_training(
    digits, train_size, expected
):
    task = LoadedTask("normed", Normed(), {}, None)
    params = task.complete({"batch_size": 16, "schedule": "cosine", "lr": 1e-9})
    split = Split(np.arange(train_size), np.arange(train_size, train_size + 9))
    fold = Fold(task, params, Samples.of_images(digits[:N]), split, TrainingOptions(3))
    reports = train(fold, 3)
    assert fold.task.implementation.sizes == [*expected, 9] * 3 and not task.implementation.sizes
    assert all(math.isfinite(report.val_loss) for report in reports)
    assert fold.stepping.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-20)


def test_the_training_loss_is_the_mean_over_the_images_that_were_trained_on():
    for n in (25, 26, 30):  # 16, 17 (the last is left out) and 20 for training
        (report,) = train(scripted(1.0, params={"batch_size": 8, "lr": 1e-9}, n=n), 1)
        assert report.metrics["train_loss"] == 100.0


# --- the oracle


def test_a_linear_autoencoder_approaches_and_never_beats_pca(digits, tmp_path):
    from sklearn.decomposition import PCA

    (tmp_path / "linear.py").write_text(
        "from torch import nn\nclass LinearAE:\n    parameters = {'latent_dim': 2}\n    def"
        " build(self, params, shape):\n        n = shape[0] * shape[1] * shape[2]\n        k ="
        " params['latent_dim']\n        return nn.Sequential(nn.Flatten(), nn.Linear(n, k),"
        " nn.Linear(k, n), nn.Unflatten(1, shape))\n    def losses(self, model, images, params):\n"
        "        mse = (model(images) - images).square().flatten(1).mean(1)\n        return"
        " {'loss': mse, 'mse': mse}\n"
    )
    task = load_task(f"{tmp_path}/linear.py:LinearAE")
    split = Split(np.arange(200), np.arange(200, 300))
    pixels = digits[:200].flatten(1).numpy() / 255.0
    for rank in (2, 5):
        params = task.complete(
            {"latent_dim": rank, "lr": 0.03, "batch_size": 25, "schedule": "cosine"}
        )
        fold = Fold(task, params, Samples.of_images(digits), split, TrainingOptions(200))
        for _ in range(200):
            fold.train_only_epoch()
        pca = PCA(rank, svd_solver="full").fit(pixels)
        best = float(((pca.inverse_transform(pca.transform(pixels)) - pixels) ** 2).mean())
        error = fold.evaluate(fold.train_indices)["mse"]
        assert best - 1e-7 <= error <= 1.02 * best


class Noting:
    """Notes in build() what losses() needs, as a task of the user's may."""

    noted = 0

    def build(self, params, sample_shape):
        self.noted += 1
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))

    def losses(self, model, images, params):
        assert self.noted == 1
        return {"loss": model(images).square().flatten(1).mean(1)}


def test_a_tasks_notes_from_build_are_seen_in_its_losses_and_nowhere_else():
    task = LoadedTask("noting", Noting(), {}, None)
    for _ in range(2):
        fold = Fold(
            task,
            task.complete({}),
            Samples.of_images(torch.zeros(30, 1, 2, 2, dtype=torch.uint8)),
            Split(np.arange(20), np.arange(20, 30)),
            TrainingOptions(1),
        )
        assert fold.train_epoch().epoch == 1
    assert task.implementation.noted == 0


def test_a_fold_is_the_first_one_unless_it_is_numbered(digits):
    split = FoldPlan(60, splits=3).split()[0]
    params = TASK.complete(SMALL)
    fold = Fold(TASK, params, Samples.of_images(digits[:60]), split, TrainingOptions(1))
    assert fold.report().fold == 0


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_checkpoint_with_one_optimizer_from_an_earlier_version_is_read(digits, schedule):
    fold, other = (make(digits, {"schedule": schedule}) for _ in range(2))
    train(fold, 2)
    state = copy.deepcopy(fold.state_dict())
    stepping = state.pop("stepping")
    state["optimizer"] = stepping["optimizers"][0]
    state["schedule"] = stepping["schedules"][0] if stepping["schedules"] else None
    del state["prepared"]
    other.load_state_dict(state)
    assert [each.metrics for each in train(other, 2)] == [each.metrics for each in train(fold, 2)]
