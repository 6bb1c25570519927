"""Fused folds against plain ones in double precision, where rounding cannot hide a difference."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.training import cross_validation
from foldrace.trainables.training.cross_validation import CrossValidation
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.fused.epoch import CannotFuseError
from foldrace.trainables.training.fused.random import PerFoldRandom, _drawing_from
from foldrace.trainables.training.ladder import Rung, default_ladder
from foldrace.trainables.training.options import EarlyStopping, TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldPlan
from tests.helpers.small_tasks import same

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"lr": 0.01, "amsgrad": True},
    "adamw": {"lr": 0.01, "weight_decay": 0.1},
    "nadam": {"lr": 0.01},
    "radam": {"lr": 0.01, "weight_decay": 0.01},
    "sgd": {"lr": 0.2, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "rmsprop": {"lr": 0.01, "momentum": 0.5, "centered": True},
    "adagrad": {"lr": 0.02, "lr_decay": 0.1},
    "adadelta": {"lr": 1.0},
}
SCHEDULES = ("constant", "cosine", "one-cycle")
DROPOUTS = (0.0, 0.3)
PATIENCES = (None, 0)
FALLS = (None, 1, 4)
EVERY = list(itertools.product(OPTIMIZERS, SCHEDULES, DROPOUTS, PATIENCES, FALLS))


class Net(nn.Module):
    """Its running mean of the inputs is a new tensor at each batch; one layer is never used."""

    seen: Tensor

    def __init__(self, pixels: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(pixels, 6, bias=False),  # batch norm cancels one, but for rounding
            nn.BatchNorm1d(6),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(6, pixels),
        )
        self.unused = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(()))
        self.double()

    def forward(self, pixels: Tensor) -> Tensor:
        if self.training:
            self.seen = 0.9 * self.seen + 0.1 * pixels.mean()
        found: Tensor = self.layers(pixels)
        return found


class Exact:
    """A task in double precision whose loss depends on the moment.

    Args:
        act: is called at each training batch with the task, the pixels and the number of the batch
            in this epoch, and returns the pixels.
    """

    def __init__(
        self,
        dropout: float = 0.0,
        act: Callable[[Exact, Tensor, int], Tensor] = lambda task, pixels, number: pixels,
    ) -> None:
        self.dropout, self.act = dropout, act
        self.notes: list[int] = []

    def build(self, params: Any, sample_shape: Any) -> nn.Module:
        return Net(int(np.prod(sample_shape)), self.dropout)

    def losses(
        self, model: nn.Module, images: Tensor, params: Any, epoch: float | None = None
    ) -> dict[str, Tensor]:
        pixels = images.double().flatten(1)
        inputs = pixels
        if epoch is not None:
            inputs = self.act(self, pixels, round(epoch % 1 * 20 / len(images)))
            inputs = inputs + 0.1 * torch.randn_like(inputs)
        errors = (model(inputs) - pixels).square().mean(1)
        moment = torch.full((len(images),), epoch or 0.0, dtype=torch.float64)
        return {"loss": errors * (1 + 0.1 * (epoch or 0.0)), "moment": moment}


def reading(after: int | None) -> Callable[[Exact, Tensor, int], Tensor]:
    """Reads a value from the ``after``-th batch of an epoch on, which cannot be batched."""

    def act(task: Exact, pixels: Tensor, number: int) -> Tensor:
        if after is not None and number >= after - 1 and float(pixels.sum()) > 1e9:
            raise AssertionError
        return pixels

    return act


def trial(
    images: Tensor,
    fused: bool | str,
    task: Exact,
    params: dict[str, Any],
    *,
    n: int = 30,
    epochs: int = 3,
    ladder: Sequence[Rung] = (),
    **options: Any,
) -> CrossValidation:
    loaded = LoadedTask("exact", task, {}, None)
    cv = CrossValidation(
        loaded,
        loaded.complete({"batch_size": 5, **params}),
        Samples.of_images(images[:n]),
        FoldPlan(n, splits=3).split(),
        TrainingOptions(epochs, **options),
        ladder=ladder,
        fused=fused is not False,
    )
    cv._must_fuse = fused is True  # "auto": as on a GPU
    return cv


def climb(cv: CrossValidation) -> None:
    while not cv.finished:
        cv.advance()


def assert_alike(fused: CrossValidation, plain: CrossValidation, *, exactly: bool = False) -> None:
    """Asserts equal metrics, weights, buffers and states of the optimizers and schedules."""
    climb(fused)
    climb(plain)
    for one, other in zip(fused.folds, plain.folds, strict=True):
        states = [{**fold.state_dict(), "seconds": 0} for fold in (one, other)]
        if exactly:
            assert same(*states)
            continue
        flat = [dict(flattened(state)) for state in states]
        assert flat[0].keys() == flat[1].keys()
        for name, value in flat[0].items():
            torch.testing.assert_close(
                torch.as_tensor(value, dtype=torch.float64),
                torch.as_tensor(flat[1][name], dtype=torch.float64),
                rtol=1e-7,
                atol=1e-9,
                msg=lambda text, name=name: f"{name}: {text}",
            )


def flattened(value: Any, name: str = "") -> Any:
    """(path, number or tensor) of all that a state holds."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from flattened(each, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from flattened(each, f"{name}.{number}")
    elif isinstance(value, int | float | Tensor):
        yield name, value


def check(digits: Tensor, setting: tuple[str, str, float, int | None, int | None]) -> None:
    optimizer, schedule, dropout, patience, fall = setting
    params = {"optimizer": optimizer, "schedule": schedule, **OPTIMIZERS[optimizer]}
    options = {"early_stopping": EarlyStopping(patience), "n": 31 if dropout else 30}
    cvs = [
        trial(digits, fused, Exact(dropout, reading(fall)), params, **options)
        for fused in ("auto", False)
    ]
    assert_alike(*cvs, exactly=fall is not None)
    assert cvs[0]._fused is (fall is None)


@pytest.mark.parametrize("setting", EVERY[::23], ids=str)
def test_every_optimizer_schedule_dropout_ending_and_fall_back(
    digits: Tensor, setting: Any
) -> None:
    check(digits, setting)


@pytest.mark.long
@pytest.mark.parametrize("setting", EVERY, ids=str)
def test_all_of_them(digits: Tensor, setting: Any) -> None:
    check(digits, setting)


@pytest.mark.parametrize("n", [31, 32, 49, 50])
def test_each_fold_gets_its_own_moment(digits: Tensor, n: int) -> None:
    """Folds that differ by a sample, and a last batch of one sample that is left out."""
    cvs = [trial(digits, fused, Exact(), {}, n=n, epochs=2) for fused in (True, False)]
    assert_alike(*cvs)
    moments = [[fold.report().metrics["train_moment"] for fold in cv.folds] for cv in cvs]
    assert moments[0] == moments[1]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_weight_without_a_gradient_is_left_alone(digits: Tensor, optimizer: str) -> None:
    params = {"optimizer": optimizer, **OPTIMIZERS[optimizer], "weight_decay": 0.1}
    cv = trial(digits, True, Exact(), params, epochs=1)
    untrained: list[Any] = [cv._start(number).model for number in range(3)]
    climb(cv)
    for fold, before in zip(cv.folds, untrained, strict=True):
        model: Any = fold.model
        assert torch.equal(model.unused.weight, before.unused.weight)
        assert model.unused.weight.grad is None
    assert_alike(cv, trial(digits, False, Exact(), params, epochs=1))


def mixup(task: Exact, pixels: Tensor, number: int) -> Tensor:
    return float(np.random.beta(2, 2)) * pixels


def shift(task: Exact, pixels: Tensor, number: int) -> Tensor:
    return pixels.roll(random.randrange(5), 1)


def late(task: Exact, pixels: Tensor, number: int) -> Tensor:
    return pixels if number < 3 else mixup(task, pixels, number)


def count(task: Exact, pixels: Tensor, number: int) -> Tensor:
    task.notes.append(len(task.notes))
    return pixels * (1 + 0.01 * len(task.notes))


def keep(task: Exact, pixels: Tensor, number: int) -> Tensor:
    mixed = pixels + 0.1 * task.notes[0] if task.notes else pixels
    task.notes[:] = [pixels.mean().detach()]
    return mixed


def own_generator(task: Exact, pixels: Tensor, number: int) -> Tensor:
    task.__dict__.setdefault("generator", np.random.default_rng(0))
    return float(task.generator.random()) * pixels  # type: ignore[attr-defined]


def in_numpy(task: Exact, pixels: Tensor, number: int) -> Tensor:
    return pixels * float(pixels.detach().numpy().mean())


def odd_error(task: Exact, pixels: Tensor, number: int) -> Tensor:
    if torch._C._functorch.is_batchedtensor(pixels):
        raise TypeError("as a library may raise it")
    return pixels


KINDS = [mixup, shift, late, count, keep, own_generator, in_numpy, odd_error]


@pytest.mark.parametrize(("act", "schedule"), zip(KINDS, itertools.cycle(SCHEDULES), strict=False))
def test_a_failed_fused_epoch_leaves_all_as_it_was(
    digits: Tensor, act: Any, schedule: str
) -> None:
    params = {"schedule": schedule}
    cv = trial(digits, True, Exact(0.2, act), params)
    cv._folds = [cv._start(number) for number in range(3)]
    for fold in cv.folds:
        fold.train_epoch()
    before = [
        copy.deepcopy((fold.state_dict(), vars(fold.task.implementation))) for fold in cv.folds
    ]
    states = [np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()]
    with pytest.raises(CannotFuseError):
        cv._train_to(Rung(3, 2))
    for fold, (state, notes) in zip(cv.folds, before, strict=True):
        assert same(fold.state_dict(), state)
        assert same(fold.task.implementation.notes, notes["notes"])
    assert states == [
        np.random.get_state()[1].tolist(),
        random.getstate(),
        torch.get_rng_state().tolist(),
    ]
    may = trial(digits, "auto", Exact(0.2, act), params)
    assert_alike(may, trial(digits, False, Exact(0.2, act), params), exactly=True)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . can't allocate memory"),
        MemoryError(),
    ],
    ids=str,
)
def test_what_a_device_or_memory_refuses_is_not_taken_for_a_task_that_cannot_be_fused(
    digits: Tensor, error: Exception
) -> None:
    def fail(task: Exact, pixels: Tensor, number: int) -> Tensor:
        raise error

    cv = trial(digits, "auto", Exact(act=fail), {})
    with pytest.raises(type(error)) as raised:
        cv.advance()
    assert not isinstance(raised.value, CannotFuseError) and cv._fused


def test_the_tasks_own_error_is_raised_as_it_is(digits: Tensor) -> None:
    def fail(task: Exact, pixels: Tensor, number: int) -> Tensor:
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        trial(digits, "auto", Exact(act=fail), {}).advance()


def test_folds_that_join_at_once_are_fused(
    digits: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the default ladder all but the first fold, which trains alone up to the others."""
    fused: list[int] = []
    train = cross_validation.train_epoch_fused

    def counting(folds: Sequence[Fold]) -> Any:
        fused.append(len(folds))
        return train(folds)

    monkeypatch.setattr(cross_validation, "train_epoch_fused", counting)
    ladder = default_ladder(9, 3)
    cv = trial(digits, True, Exact(), {}, epochs=9, ladder=ladder)
    reports = []
    while not cv.finished:
        reports.append(cv.advance())
    assert fused == [2] * 9 and reports[-1].fold_epochs == 27
    assert [len(report.folds) for report in reports] == [1] * 9 + [3]
    assert [len(losses) for losses in reports[-1].rungs] == [1, 1, 1, 3]
    assert_alike(cv, trial(digits, False, Exact(), {}, epochs=9, ladder=ladder))
    # a rung between them is a point at which they report
    stairs = [Rung(1, 2), Rung(2, 2), Rung(4, 2)]
    joined = CrossValidation(
        cv._task,
        cv._params,
        Samples.of_images(digits[:30]),
        FoldPlan(30, splits=4).split(),
        TrainingOptions(2),
        ladder=stairs,
        fused=True,
    )
    seen = []
    while not joined.finished:
        seen.append(len(joined.advance().folds))
    assert seen == [1, 1, 2, 4]


def test_when_a_fold_that_joins_has_diverged_the_others_stop_too(digits: Tensor) -> None:
    class Breaking(Exact):
        def losses(
            self, model: Any, images: Tensor, params: Any, epoch: float | None = None
        ) -> Any:
            terms = super().losses(model, images, params, epoch)
            if epoch is None and len(self.notes) == 0 and not torch.equal(images, first):
                terms["loss"] = terms["loss"] * torch.nan
            return terms

    splits = FoldPlan(30, splits=3).split()
    first = digits[splits[0].validation].float() / 255
    cv = trial(digits, True, Breaking(), {}, epochs=5, ladder=[Rung(1, 5), Rung(3, 5)])
    climb(cv)
    assert [fold.epoch for fold in cv.folds] == [5, 1, 1]


@pytest.mark.parametrize("draw", [F.dropout, torch.randn_like, torch.rand_like])
def test_numbers_are_drawn_by_the_same_function_for_the_same_layout(draw: Any) -> None:
    """A GPU's dropout draws in an order that depends on the kernel, the type and the layout."""
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    like = torch.ones(2, 5, 4, 6).permute(0, 1, 3, 2)
    pair = PerFoldRandom(generators)

    def one(images: Tensor, fold: Tensor) -> Tensor:
        with pair.of(fold):
            found: Tensor = draw(images)
        return found

    torch.manual_seed(9)
    fused = torch.vmap(one, randomness="error")(like, torch.arange(2))
    after = torch.rand(3)
    torch.manual_seed(9)
    assert torch.equal(after, torch.rand(3))  # the global state was only lent
    for index, seed in enumerate((3, 4)):
        torch.manual_seed(seed)
        torch.testing.assert_close(fused[index], draw(like[index]))
        torch.manual_seed(seed)
        draw(like[index])
        assert torch.equal(generators[index].get_state(), torch.get_rng_state())


def test_on_a_gpu_the_state_of_its_own_global_generator_is_lent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OnGpu:
        """A generator of a GPU that this test does not need to have."""

        device = torch.device("cuda", 1)

        def __init__(self, seed: int) -> None:
            self.actual = torch.Generator().manual_seed(seed)
            self.get_state, self.set_state = self.actual.get_state, self.actual.set_state

    other, shared, own, alike = (OnGpu(seed) for seed in (1, 2, 3, 3))
    monkeypatch.setattr(torch.cuda, "default_generators", (other, shared))
    before = [one.get_state() for one in (other, shared)]
    on_cpu = torch.get_rng_state()
    generator: Any = own
    for _ in range(2):
        with _drawing_from(generator):
            drawn = torch.rand(4, generator=shared.actual)
        assert torch.equal(drawn, torch.rand(4, generator=alike.actual))
    for one, state in zip((other, shared), before, strict=True):
        assert torch.equal(one.get_state(), state)
    assert torch.equal(torch.get_rng_state(), on_cpu)
