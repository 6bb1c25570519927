"""The sides of the step benchmark: one network, data set and optimizer, trained in three ways."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from foldrace.trainables.data.datasets import load_dataset
from foldrace.trainables.tasks.loading import LoadedTask, load_task
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.cross_validation import CrossValidation
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import Split
from tests.benchmarks.notebook import (
    NotebookAutoencoder,
    fashion_mnist,
    loader,
    train_epoch,
    validate,
)

__all__ = [
    "FOLDS",
    "Setting",
    "Side",
    "Trainer",
    "flop_per_image",
    "make_folds",
    "make_trainer",
    "matrix_flops",
]

FOLDS = 3
_MANY = 1000  # epochs; more than any measurement needs
_MATRIX = 1024
_LR = 1e-3


class Side(StrEnum):
    """Whose training step is measured.

    ``MEMORY`` is a loop over a tensor in memory as a careful user writes it: torch's own layers,
    fused Adam, and one synchronisation per epoch.
    """

    OURS = "foldrace"
    MEMORY = "in memory"
    NOTEBOOK = "notebook"


@dataclass(frozen=True)
class Setting:
    """What all sides have in common.

    Attributes:
        raw: the folder that `write_raw` filled from the same data set.
        images: the number of training images per epoch, chosen at random from the data set;
            half as many others validate.
    """

    dataset: str
    data_dir: Path
    raw: Path
    images: int
    threads: int = 1
    device: str = "cpu"

    def split(self, count: int, fold: int = 0) -> Split:
        """The images of an epoch among ``count``, and those of a validation pass."""
        order = np.random.default_rng(fold).permutation(count)
        return Split(
            np.sort(order[: self.images]),
            np.sort(order[self.images : self.images + self.images // 2]),
        )


class Trainer(NamedTuple):
    """One side's epoch and validation pass; both end when the device has."""

    train: Callable[[], object]
    validate: Callable[[], object]


def make_trainer(side: Side, setting: Setting, batch_size: int) -> Trainer:
    """A freshly initialised network with the study's dropout, and how this side trains it."""
    torch.manual_seed(0)
    device = torch.device(setting.device)
    if side is Side.NOTEBOOK:
        return _notebook(setting, batch_size, device)
    images = _images(setting)
    split = setting.split(len(images))
    return (_ours if side is Side.OURS else _in_memory)(images, split, batch_size)


def _images(setting: Setting) -> Tensor:
    images = load_dataset(setting.dataset, data_dir=setting.data_dir).images
    return torch.from_numpy(images).to(setting.device)


def _notebook(setting: Setting, batch_size: int, device: torch.device) -> Trainer:
    dataset = fashion_mnist(setting.raw, train=True)
    split = setting.split(len(dataset))
    model = NotebookAutoencoder().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=_LR)
    batches, others = (
        loader(dataset, part, batch_size) for part in (split.train, split.validation)
    )
    return Trainer(
        lambda: train_epoch(model, batches, optimizer, device),
        lambda: validate(model, others, device),
    )


def _parameters(task: LoadedTask, batch_size: int) -> dict[str, Value]:
    return task.complete(
        {
            "optimizer": "adam",
            "lr": _LR,
            "batch_size": batch_size,
            "dropout": 1.0,
            "latent_dim": 16,
        }
    )


def _ours(images: Tensor, split: Split, batch_size: int) -> Trainer:
    task = load_task("autoencoder")
    run = Fold(
        task, _parameters(task, batch_size), Samples.of_images(images), split, TrainingOptions(1)
    )
    return Trainer(run.train_only_epoch, lambda: run.evaluate(run.validation_indices))


def make_folds(setting: Setting, batch_size: int, *, fused: bool) -> CrossValidation:
    """A trial of three folds of ``setting.images`` images each, of which `CrossValidation.advance`
    trains an epoch."""
    task, images = load_task("autoencoder"), _images(setting)
    splits = [setting.split(len(images), fold) for fold in range(FOLDS)]
    params, options = _parameters(task, batch_size), TrainingOptions(_MANY)
    samples = Samples.of_images(images)
    return CrossValidation(task, params, samples, splits, options, fused=fused)


def _in_memory(images: Tensor, split: Split, batch_size: int) -> Trainer:
    model = NotebookAutoencoder().to(images.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=_LR, fused=True)
    train, others = (
        torch.from_numpy(part).to(images.device) for part in (split.train, split.validation)
    )

    def pixels(indices: Tensor) -> Iterator[Tensor]:
        for batch in torch.split(indices, batch_size):
            yield images[batch].float() / 255

    def train_once() -> float:
        model.train()
        total = torch.zeros((), device=images.device)
        for batch in pixels(train[torch.randperm(len(train), device=images.device)]):
            loss = torch.nn.functional.mse_loss(model(batch), batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach() * len(batch)
        return float(total) / len(train)

    @torch.inference_mode()
    def validate_once() -> float:
        model.eval()
        sums = [
            torch.nn.functional.mse_loss(model(batch), batch) * len(batch)
            for batch in pixels(others)
        ]
        return float(torch.stack(sums).sum()) / len(others)

    return Trainer(train_once, validate_once)


def matrix_flops(device: torch.device) -> float:
    """FLOP a second of a float32 matrix product: what this machine can at best, with the threads
    that torch has."""
    size = _MATRIX if device.type == "cpu" else 8 * _MATRIX
    left, right = torch.rand(2, size, size, device=device)
    out, repeats = left @ right, 20
    best = float("inf")
    for _ in range(5):
        _synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            torch.mm(left, right, out=out)
        _synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 * repeats / best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flop_per_image(batch_size: int = 64) -> float:
    """FLOP of the study's network for an image, forward and backward: its matrix products and
    convolutions alone."""
    from torch.utils.flop_counter import FlopCounterMode

    model, images = NotebookAutoencoder(), torch.rand(batch_size, 1, 28, 28)
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.mse_loss(model(images), images).backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops()) / batch_size
