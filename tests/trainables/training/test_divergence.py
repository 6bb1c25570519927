"""A fold diverges when its numbers are not finite, or when training keeps making it worse than its
untrained network; slow and uneven training is left to the scheduler."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foldrace.trainables.tasks.loading import LoadedTask, load_task
from foldrace.trainables.training.cross_validation import CrossValidation
from foldrace.trainables.training.divergence import DivergenceCheck, Untrained
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldPlan
from tests.benchmarks.divergence import (
    Classifier,
    LinearAutoencoder,
    NanGradient,
    Run,
    WithPsnr,
    own,
    uneven_images,
)
from tests.helpers.small_tasks import LINEAR, SMALL, TASK, make, same, scripted, train

# --- what is healthy


@pytest.mark.parametrize(("lr", "batch_size", "seed"), [(1e-8, 2, 0), (1e-6, 4, 0), (1e-5, 4, 0)])
def test_a_network_that_hardly_learns_yet_has_not_diverged(
    digits: Tensor, lr: float, batch_size: int, seed: int
) -> None:
    params = {**SMALL, "lr": lr, "batch_size": batch_size}
    assert Run("", TASK, digits[:45], params, seed).failed_at() is None


@pytest.mark.parametrize(("batch_size", "seed"), [(2, 2), (3, 0), (4, 3)])
def test_images_that_differ_much_make_no_divergence(batch_size: int, seed: int) -> None:
    images, params = uneven_images(seed)[:120], {"lr": 1e-4, "batch_size": batch_size}
    assert Run("", own(LinearAutoencoder()), images, params, seed).failed_at() is None


def test_a_criterion_whose_weight_grows_is_compared_in_evaluation(digits: Tensor) -> None:
    params = {"warm_up": 2.0, "free_bits": 2.0, "latent_dim": 32, "lr": 1e-3}
    assert Run("", load_task("variational"), digits[:60], params).failed_at() is None


@pytest.mark.parametrize("seed", range(3))
def test_weighted_classes_make_no_divergence(digits: Tensor, seed: int) -> None:
    params = {"lr": 1e-3, "batch_size": 2}
    assert Run("", own(Classifier()), digits[:120], params, seed).failed_at() is None


class Linear:
    """A task of small images that learns their mean brightness."""

    objective = "loss"

    def build(self, params: Any, sample: Any) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

    def losses(self, model: Any, images: Tensor, params: Any) -> dict[str, Tensor]:
        return {"loss": (model(images)[:, 0] - images.flatten(1).mean(1)) ** 2}


class NotedInPrepare(Linear):
    def prepare(self, train: Any, params: Any) -> dict[str, int]:
        self.shift = 0.5
        return {"count": train.count}

    def losses(self, model: Any, images: Tensor, params: Any) -> dict[str, Tensor]:
        return super().losses(model, images - self.shift, params)


class NotedInTraining(Linear):
    def augment(self, batch: Any, generator: Any) -> Any:
        self.shift = 0.5
        return batch

    def losses(self, model: Any, images: Tensor, params: Any) -> dict[str, Tensor]:
        return super().losses(model, images - self.shift, params)


class ForgetsItsGradients(Linear):
    """Whose weights have no gradient when an epoch has ended, as after many loops."""

    def optimizers(self, model: Any, params: Any) -> Any:
        return torch.optim.SGD(model.parameters(), lr=1.0)

    def losses(self, model: Any, images: Tensor, params: Any) -> dict[str, Tensor]:
        return {"loss": super().losses(model, images, params)["loss"].sqrt()}

    def step(self, model: Any, batch: Any, params: Any, optimizers: Any) -> Any:
        terms = self.losses(model, batch["images"], params)
        terms["loss"].mean().backward()
        optimizers[0].step()
        optimizers[0].zero_grad(set_to_none=False)
        return terms


class Adversaries(Linear):
    """A generator whose loss rises while the discriminator learns."""

    def build(self, params: Any, sample: Any) -> nn.Module:
        return nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])

    def optimizers(self, model: Any, params: Any) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.5) for part in model]

    def losses(self, model: Any, images: Tensor, params: Any) -> dict[str, Tensor]:
        seen = images.flatten(1).mean(1, keepdim=True)
        return {"loss": -(model[0](seen) + model[1](seen))[:, 0]}

    def step(self, model: Any, batch: Any, params: Any, optimizers: Any) -> Any:
        terms = self.losses(model, batch["images"], params)
        for optimizer in optimizers:
            optimizer.zero_grad()
        (-terms["loss"].mean()).backward()  # the other side's
        for optimizer in optimizers:
            optimizer.step()
        return terms


@pytest.mark.parametrize("task", [NotedInPrepare(), NotedInTraining()])
def test_what_a_task_has_noted_is_there_when_its_untrained_network_is_evaluated(
    digits: Tensor, task: Any
) -> None:
    fold = make(digits, task=own(task), params={"batch_size": 16, "lr": 1e-3})
    assert all(report.diverged is None for report in train(fold, 3))
    assert fold._divergence.untrained is not None


def test_without_an_untrained_network_to_compare_with_training_goes_on(
    digits: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    class Once(Linear):
        """Whose network can be built once in a process."""

        built = 0

        def build(self, params: Any, sample: Any) -> nn.Module:
            type(self).built += 1
            if self.built > 1:
                raise RuntimeError("built already")
            return super().build(params, sample)

    reports = train(make(digits, task=own(Once()), params={"batch_size": 16}), 2)
    assert [report.diverged for report in reports] == [None, None]
    assert "the untrained network cannot be evaluated: built already" in caplog.text


def test_a_validation_part_of_one_sample_is_no_yardstick_alone() -> None:
    """Of 24 samples, one is predicted by chance before any training."""
    draw = np.random.default_rng(4)
    images = torch.from_numpy(draw.integers(0, 256, (24, 1, 8, 8), dtype=np.uint8))
    params = {"batch_size": 8, "lr": 1e-3, "optimizer": "sgd"}
    for number, split in enumerate(FoldPlan(24, splits=24).split()):
        task = own(Linear())
        samples, options = Samples.of_images(images), TrainingOptions(8)
        fold = Fold(task, task.complete(params), samples, split, options, number=number)
        assert {report.diverged for report in train(fold, 8)} == {None}, number


class BeyondForecast(Linear):
    """The squared error beyond that of the forecast 0, which is what the network starts with."""

    def build(self, params: Any, sample: Any) -> nn.Module:
        network: Any = super().build(params, sample)
        nn.init.zeros_(network[1].weight)
        nn.init.zeros_(network[1].bias)
        return network

    def losses(self, model: Any, images: Tensor, params: Any) -> dict[str, Tensor]:
        aim = images.flatten(1)[:, 20]
        return {"loss": (model(images)[:, 0] - aim) ** 2 - aim**2}


def test_a_loss_that_starts_at_zero_has_no_scale(digits: Tensor) -> None:
    params = {"batch_size": 16, "lr": 0.5, "optimizer": "sgd"}
    fold = make(digits, task=own(BeyondForecast()), params=params)
    reports = train(fold, 4)
    untrained = fold._divergence.untrained
    assert untrained is not None and untrained.scale == 0
    assert reports[-1].metrics["val_loss"] > 0 and {one.diverged for one in reports} == {None}


@pytest.mark.parametrize("task", [ForgetsItsGradients(), Adversaries()])
def test_a_step_of_ones_own_fails_by_what_is_not_finite_alone(digits: Tensor, task: Any) -> None:
    reports = train(make(digits, task=own(task), params={"batch_size": 16}), 8)
    assert {report.diverged for report in reports} == {None}


def test_a_classifier_that_overfits_has_not_diverged() -> None:
    """Its validation loss rises without bound, while its training loss falls."""
    check = known(mean=2.3, deviation=0.1)
    for epoch in range(1, 20):
        metrics = {"train_loss": 1 / epoch, "val_loss": 2.0 * epoch}
        assert check.verdict(metrics, nn.Linear(1, 1)) is None


def test_a_term_that_is_only_recorded_may_be_infinite(digits: Tensor) -> None:
    last = train(make(digits, task=own(WithPsnr())), 2)[-1]
    assert last.diverged is None and math.isinf(last.metrics["val_psnr"])


# --- what is not finite


def test_a_weight_that_is_not_finite_fails_at_once(digits: Tensor) -> None:
    last = train(make(digits, {"optimizer": "sgd"}, task=own(NanGradient())), 1)[-1]
    assert last.diverged is not None and last.diverged.startswith("fold 0, epoch 1: ")


@pytest.mark.parametrize("objective", ["loss", "mse"])
@pytest.mark.parametrize("broken", ["train_criterion", "val_criterion", "val_loss", "weight"])
def test_what_is_minimised_compared_or_trained_must_be_finite(broken: str, objective: str) -> None:
    names = {"loss": {"train_criterion": "train_loss", "val_criterion": "val_loss"}}
    metrics = dict.fromkeys(("train_loss", "val_loss"), 1.0)
    if objective != "loss":
        metrics |= dict.fromkeys(("train_criterion", "val_criterion"), 1.0)
    model = nn.Linear(1, 1)
    check = DivergenceCheck(None)
    assert check.verdict({**metrics, "train_psnr": math.inf}, model) is None
    name = names.get(objective, {}).get(broken, broken)
    if broken == "weight":
        nn.init.constant_(model.weight, math.inf)
    else:
        metrics[name] = math.nan
    assert check.verdict(metrics, model) == (
        "a weight is not finite" if broken == "weight" else f"{name} is nan"
    )


# --- patience


def known(*, mean: float, deviation: float, patience: int | None = 3) -> DivergenceCheck:
    check = DivergenceCheck(patience)
    check.untrained = Untrained(mean, deviation, 100)
    return check


def verdicts(check: DivergenceCheck, *losses: tuple[float, float]) -> list[bool]:
    model = nn.Linear(1, 1)
    model(torch.ones(1, 1)).sum().backward()
    return [
        check.verdict({"train_loss": training, "val_loss": validation}, model) is not None
        for training, validation in losses
    ]


def test_an_explosion_is_told_after_as_many_epochs_in_succession_as_patience() -> None:
    far, better = (9.0, 9.0), (0.5, 0.5)
    assert verdicts(known(mean=1, deviation=0.1), far, far, far) == [False, False, True]
    assert verdicts(known(mean=1, deviation=0.1), far, far, better, far, far) == [False] * 5
    assert verdicts(known(mean=1, deviation=0.1, patience=1), far) == [True]
    assert verdicts(known(mean=1, deviation=0.1, patience=None), *[far] * 9) == [False] * 9


def test_both_training_and_validation_must_have_become_worse() -> None:
    check = known(mean=1, deviation=0.1, patience=1)
    assert verdicts(check, (9.0, 0.9), (0.9, 9.0), (2.9, 2.9), (3.1, 3.1)) == [
        False,
        False,
        False,
        True,
    ]


def test_without_a_gradient_being_worse_beyond_the_standard_error_is_enough() -> None:
    check = known(mean=1, deviation=0.1, patience=1)  # standard error 0.01
    model = nn.Linear(1, 1)
    worse = {"train_loss": 1.04, "val_loss": 1.04}
    assert check.verdict(worse, model) is None  # no step has been taken
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    assert check.verdict({**worse, "val_loss": 1.02}, model) is None
    assert "gradient has vanished" in str(check.verdict(worse, model))


@pytest.mark.parametrize(("patience", "epoch"), [(1, 1), (2, 2), (None, None)])
def test_the_patience_of_the_options_is_kept(
    digits: Tensor, patience: int | None, epoch: int | None
) -> None:
    fold = make(digits, {"lr": 1e3, "batch_size": 8}, task=LINEAR, divergence_patience=patience)
    reports = train(fold, 4)
    assert next((report.epoch for report in reports if report.diverged), None) == epoch


# --- the untrained network


class Noting(LinearAutoencoder):
    """Counts its calls, draws in every one, and normalises batches."""

    def __init__(self) -> None:
        self.calls = 0

    def build(self, params: Mapping[str, Any], sample_shape: tuple[int, ...]) -> nn.Module:
        network = super().build(params, sample_shape)
        return nn.Sequential(nn.BatchNorm2d(sample_shape[0]), nn.Dropout(0.3), network)

    def losses(self, model: nn.Module, images: Tensor, params: Any) -> dict[str, Tensor]:
        self.calls += 1
        noisy = images + 0.01 * torch.randn_like(images)
        calls = torch.full((len(images),), float(self.calls))
        return {**super().losses(model, noisy, params), "calls": calls}


@pytest.mark.parametrize("task", [TASK, own(Noting())])
def test_looking_at_the_untrained_network_changes_nothing(digits: Tensor, task: Any) -> None:
    before = torch.get_rng_state()
    with_it, without = (
        make(digits, task=task, divergence_patience=patience) for patience in (3, None)
    )
    assert train(with_it, 3) == train(without, 3)
    states = [fold.state_dict() for fold in (with_it, without)]
    for state in states:
        del state["divergence"], state["seconds"]
    assert same(*states)
    assert torch.equal(before, torch.get_rng_state())


def test_the_untrained_network_is_evaluated_on_validation_and_training_samples(
    digits: Tensor,
) -> None:
    fold = make(digits, {"loss": "bce"})
    fold.model.eval()
    with torch.inference_mode():
        every = torch.cat([fold.validation_indices, fold.train_indices])
        ((terms, _),) = fold._evaluated(every)
    train(fold, 1)
    found = Untrained(**fold.state_dict()["divergence"]["untrained"])
    loss = terms["loss"].double()
    assert found.count == 90
    assert found.mean == pytest.approx(float(loss.mean()))
    assert found.standard_error == pytest.approx(float(loss.std(correction=0)) / math.sqrt(90))


@pytest.mark.parametrize("fused", [False, True])
def test_fused_folds_are_compared_with_their_own_untrained_networks(
    digits: Tensor, fused: bool
) -> None:
    splits = FoldPlan(60, splits=3).split()
    cv = CrossValidation(
        TASK,
        TASK.complete(SMALL),
        Samples.of_images(digits[:60]),
        splits,
        TrainingOptions(1),
        fused=fused,
    )
    cv.advance()
    for fold in cv.folds:
        alone = make(digits, n=60, fold=fold.number, epochs=1)
        train(alone, 1)
        assert fold.state_dict()["divergence"] == alone.state_dict()["divergence"]


def test_a_verdict_is_the_same_after_a_resumption(digits: Tensor) -> None:
    def new() -> Fold:
        return make(digits, {"lr": 1e3, "batch_size": 8}, task=LINEAR)

    whole = train(new(), 4)
    for done in (1, 2):
        first, second = new(), new()
        train(first, done)
        second.load_state_dict(first.state_dict())
        assert train(second, 4 - done) == whole[done:]
    assert whole[-1].diverged is not None


def test_a_checkpoint_from_before_the_comparison_is_read(digits: Tensor) -> None:
    fold, other = make(digits), make(digits)
    train(fold, 1)
    state = copy.deepcopy(fold.state_dict())
    del state["divergence"]
    other.load_state_dict({**state, "untrained_loss": 0.1})
    assert train(other, 1) == train(fold, 1)
    assert same(other.state_dict()["divergence"], fold.state_dict()["divergence"])


def test_an_untrained_network_whose_loss_is_not_finite_says_nothing() -> None:
    assert not any(verdicts(known(mean=math.nan, deviation=math.nan), *[(9.0, 9.0)] * 5))
    assert not any(verdicts(known(mean=math.inf, deviation=math.nan), *[(9.0, 9.0)] * 5))


def test_a_scripted_fold_keeps_its_script() -> None:
    """The comparison has a task of its own: what a task notes on itself belongs to the fold."""
    fold = scripted(3.0, 2.0, 1.0)
    assert [report.val_loss for report in train(fold, 3)] == [3.0, 2.0, 1.0]
    assert isinstance(fold.task, LoadedTask) and fold.task.implementation.script == []


def test_sparse_gradients_and_layers_that_are_never_used_are_judged_too() -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.unused = nn.Embedding(5, 3, sparse=True), nn.LazyLinear(2)

    model = Sparse()
    model.embedding(torch.tensor([1, 1])).mul(0).sum().backward()
    check = DivergenceCheck(patience=1)
    check.untrained = Untrained(1.0, 0.1, 100)
    worse = {"train_loss": 1.2, "val_loss": 1.2}
    assert "the gradient has vanished" in (check.verdict(worse, model) or "")
