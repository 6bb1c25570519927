"""What a task may do by itself in a fold: prepare, augment, optimizers, step; and techniques."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foldrace.trainables.data.arrays import Ragged, describe
from foldrace.trainables.data.sample import Roles
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.training.cross_validation import CrossValidation
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.fused.epoch import CannotFuseError
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.samples import Samples, TrainingPart
from foldrace.trainables.training.splits import FoldPlan
from tests.helpers.small_tasks import same

N = 30
RNG = np.random.default_rng(0)
FIELDS: dict[str, Any] = {
    "x": RNG.normal(5, 2, (N, 3)).astype(np.float32),
    "y": RNG.normal(size=N).astype(np.float32),
    "w": np.r_[np.zeros(N - 6), np.ones(6)].astype(np.float32),
    "words": Ragged.of([np.arange(1, 2 + i % 4) for i in range(N)]),
}


def samples(*names: str, **roles: str) -> Samples:
    fields = {name: FIELDS[name] for name in names}
    return Samples.of(fields, describe(fields, {}, Roles(**roles), {}), torch.device("cpu"))


class Linear:
    """Least squares in x; its calls are noted."""

    def build(self, params: Any, sample: Any) -> nn.Module:
        return nn.Linear(sample["x"].shape[0], 1)

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor], params: Any) -> Any:
        return {"loss": (model(batch["x"])[:, 0] - batch["y"]).square()}


def fold(task: Any, *names: str, params: Any = None, number: int = 0, **roles: str) -> Fold:
    loaded = LoadedTask("own", task, {}, None)
    return Fold(
        loaded,
        loaded.complete({"batch_size": 5, "optimizer": "sgd", "lr": 0.01, **(params or {})}),
        samples(*(names or ("x", "y")), **{"target": "y", **roles}),
        FoldPlan(N, splits=3).split()[number],
        TrainingOptions(4),
        number=number,
    )


class Standardised(Linear):
    def prepare(self, train: Any, params: Any) -> Any:
        every = torch.cat([batch["x"] for batch in train.batches(7)])
        assert torch.equal(every, train["x"]) and set(train) == {"x", "y"}
        return {"mean": train["x"].mean(0), "sd": [train["x"].std(0)], "note": "z"}

    def losses(self, model: Any, batch: Any, params: Any, prepared: Any = None) -> Any:
        x = (batch["x"] - prepared["mean"]) / prepared["sd"][0]
        return super().losses(model, {**batch, "x": x}, params)


def test_what_is_prepared_comes_from_the_training_part_alone_and_is_kept() -> None:
    one = fold(Standardised(), number=1)
    train = torch.from_numpy(FIELDS["x"][one.train_indices.numpy()])
    assert torch.equal(one.prepared["mean"], train.mean(0))
    one.train_epoch()
    state = copy.deepcopy(one.state_dict())
    other = fold(Standardised(), number=1)
    other.load_state_dict(state)
    assert same(other.prepared, one.prepared)
    expected, found = one.train_epoch(), other.train_epoch()
    assert found.metrics == expected.metrics


def test_a_batch_is_changed_in_training_only_and_alike_every_time() -> None:
    class Noisy(Linear):
        def augment(self, batch: Any, generator: torch.Generator) -> Any:
            noise = torch.randn(batch["x"].shape, generator=generator)
            return {**batch, "x": batch["x"] + noise}

    plain, one, two = fold(Linear()), fold(Noisy()), fold(Noisy())
    assert plain.evaluate(plain.train_indices) == one.evaluate(one.train_indices)
    reports = [run.train_epoch().metrics for run in (plain, one, two)]
    assert reports[1] == reports[2] != reports[0]
    two.load_state_dict(one.state_dict())
    assert one.train_epoch().metrics == two.train_epoch().metrics


class TwoRates(Linear):
    """Two parameter groups, and a schedule of its own."""

    def build(self, params: Any, sample: Any) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))

    def optimizers(self, model: Any, params: Any) -> Any:
        groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[1].parameters()}]
        optimizer = torch.optim.SGD(groups, lr=params["lr"])
        return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)


def test_optimizers_and_schedules_of_a_tasks_own_are_stepped_and_kept() -> None:
    one = fold(TwoRates())
    frozen = one.model[0].weight.clone()
    moving = one.model[1].weight.clone()
    one.train_epoch()
    assert torch.equal(one.model[0].weight, frozen)
    assert not torch.equal(one.model[1].weight, moving)
    assert one.stepping.optimizers[0].param_groups[1]["lr"] == 0.005  # 4 batches
    other = fold(TwoRates())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert one.train_epoch().metrics == other.train_epoch().metrics
    assert other.stepping.optimizers[0].param_groups[1]["lr"] == 0.0025


def test_what_optimizers_returns_is_one_of_the_forms() -> None:
    class Wrong(Linear):
        def optimizers(self, model: Any, params: Any) -> Any:
            return {"sgd": 1}

    with pytest.raises(TypeError, match="must return an optimizer, a list of them"):
        fold(Wrong())


def test_a_whole_step_of_a_tasks_own() -> None:
    class ByHand(Linear):
        def step(self, model: Any, batch: Any, params: Any, optimizers: Any) -> Any:
            optimizers[0].zero_grad()
            terms = self.losses(model, batch, params)
            torch.autograd.backward(terms["loss"].mean())
            optimizers[0].step()
            return {"loss": terms["loss"].detach()}

    schedule = {"schedule": "cosine"}
    one, other = fold(Linear(), params=schedule), fold(ByHand(), params=schedule)
    for _ in range(2):
        assert one.train_epoch().metrics == other.train_epoch().metrics


def test_weighted_samples_count_as_their_weights_say() -> None:
    """Weights of 0 and 1 are as if the samples of weight 0 were not there."""
    run = fold(Linear(), "x", "y", "w", weight="w")
    counted = run.validation_indices[FIELDS["w"][run.validation_indices.numpy()] > 0]
    every = torch.arange(N)
    few = every[torch.from_numpy(FIELDS["w"] > 0)]
    plain = fold(Linear())
    plain.model.load_state_dict(run.model.state_dict())
    assert run.evaluate(every)["loss"] == pytest.approx(plain.evaluate(few)["loss"], rel=1e-6)
    assert 0 <= len(counted) < len(run.validation_indices)
    train = run.train_indices
    few = train[torch.from_numpy(FIELDS["w"][train.numpy()] > 0)]
    loss, _ = run.loss_and_sums(run.samples.take(train), 0.0)
    other, _ = plain.loss_and_sums(plain.samples.take(few), 0.0)
    assert float(loss.detach()) == pytest.approx(float(other.detach()), rel=1e-6)


def test_predictions_that_are_not_finite_are_said_to_be_that() -> None:
    """And not by what a metric raises at them."""

    class Exploding(Linear):
        def predict(self, model: nn.Module, batch: Any, params: Any) -> Tensor:
            return model(batch["x"])[:, 0] * torch.inf

    loaded = LoadedTask("own", Exploding(), {}, None)
    params = loaded.complete({"batch_size": 5, "optimizer": "sgd", "lr": 0.01})
    options = TrainingOptions(4, objective="rmse", metrics=("rmse", "r2"))
    split = FoldPlan(N, splits=3).split()[0]
    report = Fold(loaded, params, samples("x", "y", target="y"), split, options).train_epoch()
    assert report.diverged == "fold 0, epoch 1: its predictions are not finite"


@pytest.mark.parametrize("size", [1, 3])
def test_weights_count_between_batches_as_within_them(size: int) -> None:
    """The batches' losses have the weighted mean of all samples as their mean."""
    run = fold(Linear(), "x", "y", "w", weight="w")
    batches = [run.samples.take(part) for part in torch.split(run.train_indices[:18], size)]
    each = [float(run.loss_and_sums(batch, 0.0)[0].detach()) for batch in batches]
    assert 0.0 in each, "a batch that does not count is no NaN"
    whole = run.loss_and_sums(run.samples.take(run.train_indices[:18]), 0.0)[0]
    assert float(np.mean(each)) == pytest.approx(float(whole.detach()), rel=1e-6)


def test_accumulated_gradients_are_those_of_one_large_batch() -> None:
    runs = [
        fold(Linear(), params={"batch_size": 20}),
        fold(Linear(), params={"batch_size": 5, "accumulate": 4}),
    ]
    for run in runs:
        run.train_epoch()
    torch.testing.assert_close(runs[0].model.weight, runs[1].model.weight)
    left = fold(Linear(), params={"batch_size": 5, "accumulate": 3, "schedule": "cosine"})
    for _ in range(4):
        left.train_epoch()  # a step of the one batch that is left, in each epoch
    assert left.stepping.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-18)


@pytest.mark.parametrize(("name", "bound"), [("clip_norm", 1e-3), ("clip_value", 1e-3)])
def test_gradients_are_clipped(name: str, bound: float) -> None:
    params = {name: bound, "lr": 1.0, "batch_size": 20}
    run = fold(Linear(), params=params)
    before = run.model.weight.clone()
    run.train_epoch()
    moved = (run.model.weight - before).abs()
    assert 0 < float(moved.max()) <= bound * 1.001


def test_the_exponential_average_is_what_is_evaluated_and_kept() -> None:
    decay = 0.9
    run, plain = fold(Linear(), params={"ema_decay": decay}), fold(Linear())
    start = plain.model.weight.detach().clone()
    seen: list[Tensor] = []
    plain.stepping.optimizers[0].register_step_post_hook(
        lambda *_: seen.append(plain.model.weight.detach().clone())
    )
    for one in (run, plain):
        one.train_epoch()
    average = seen[0]  # torch's average starts with the first weights
    for weights in seen[1:]:
        average = decay * average + (1 - decay) * weights
    assert not torch.equal(start, run.weights()["weight"])
    torch.testing.assert_close(run.weights()["weight"], average)
    torch.testing.assert_close(run.model.weight, plain.model.weight)  # training goes on with it
    assert run.report().val_loss != plain.report().val_loss
    other = fold(Linear(), params={"ema_decay": decay})
    other.load_state_dict(copy.deepcopy(run.state_dict()))
    assert run.train_epoch().metrics == other.train_epoch().metrics


def test_the_weights_of_the_last_part_of_the_training_are_averaged() -> None:
    run, plain = fold(Linear(), params={"swa_start": 0.5}), fold(Linear())
    seen: list[Tensor] = []
    plain.stepping.optimizers[0].register_step_post_hook(
        lambda *_: seen.append(plain.model.weight.detach().clone())
    )
    for _ in range(4):
        run.train_epoch(), plain.train_epoch()
        if run.epoch <= 2:
            assert run.report().metrics == plain.report().metrics
    torch.testing.assert_close(run.weights()["weight"], torch.stack(seen[8:]).mean(0))


def test_sequences_are_padded_to_their_batch_and_come_with_their_lengths() -> None:
    taken = samples("words", "y").take(torch.tensor([0, 3, 1]))
    assert taken["words"].tolist() == [[1, 0, 0, 0], [1, 2, 3, 4], [1, 2, 0, 0]]
    assert taken["words_length"].tolist() == [1, 4, 2]


def test_what_prepare_sees_has_the_fields_of_the_training_part_and_lengths() -> None:
    part = TrainingPart(samples("words", "y"), torch.tensor([3, 0]))
    assert list(part) == ["words", "y"] and part.count == len(part) == 2
    assert part["words"].tolist() == [[1, 2, 3, 4], [1, 0, 0, 0]]
    assert part["words_length"].tolist() == [4, 1]
    with pytest.raises(KeyError):
        part["unknown"]


@pytest.mark.parametrize(
    ("task", "params", "names", "reason"),
    [
        (Standardised(), {}, ("x", "y"), "its own prepare()"),
        (TwoRates(), {}, ("x", "y"), "its own optimizers()"),
        (Linear(), {"clip_norm": 1.0}, ("x", "y"), "clipped or accumulated"),
        (Linear(), {}, ("x", "y", "words"), "sequences of unequal length"),
    ],
)
def test_what_cannot_be_fused_is_trained_fold_by_fold_or_refused(
    task: Any, params: Any, names: tuple[str, ...], reason: str
) -> None:
    loaded = LoadedTask("own", task, {}, None)

    def trial(fused: Any) -> CrossValidation:
        return CrossValidation(
            loaded,
            loaded.complete({"batch_size": 5, **params}),
            samples(*names, target="y"),
            FoldPlan(N, splits=3).split(),
            TrainingOptions(1),
            fused=fused,
        )

    with pytest.raises(CannotFuseError, match=reason.replace("(", r"\(").replace(")", r"\)")):
        trial(True).advance()
    automatic, plain = trial("auto"), trial(False)
    automatic._fused = True  # as on a GPU
    assert automatic.advance().metrics == plain.advance().metrics


def test_a_field_of_one_input_goes_to_a_method_that_does_not_say_batch() -> None:
    class OldWay:
        def build(self, params: Any, sample_shape: Any) -> nn.Module:
            assert sample_shape == (3,)
            return nn.Linear(3, 1)

        def losses(self, model: Any, anything: Tensor, params: Any) -> Any:
            return {"loss": model(anything)[:, 0].square()}

    assert fold(OldWay()).train_epoch().val_loss > 0
