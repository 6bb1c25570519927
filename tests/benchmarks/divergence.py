"""Which folds are told to have diverged: of healthy ones none should be, of hopeless ones all.

    python -m tests.benchmarks.divergence

It prints a Markdown table: kinds of training, runs, how many were failed, and after how many of
eight epochs. Healthy kinds are slow, uneven or have a loss whose weight grows; hopeless ones
explode, saturate, or lose a weight. A second table has the processor time of a first epoch with
and without the comparison to the untrained network. Two minutes on a core.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foldrace import load_dataset
from foldrace.trainables.tasks.loading import LoadedTask, load_task
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldPlan

EPOCHS = 8
OPTIMIZERS = ("adam", "sgd", "rmsprop")


class LinearAutoencoder:
    """A linear code of four numbers; the PSNR, which is infinite at no error, is recorded."""

    def build(self, params: Mapping[str, Any], sample_shape: tuple[int, ...]) -> nn.Module:
        n = math.prod(sample_shape)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(n, 4), nn.Linear(4, n), nn.Unflatten(1, sample_shape)
        )

    def losses(self, model: nn.Module, images: Tensor, params: Any) -> dict[str, Tensor]:
        error = (model(images) - images).square().flatten(1).mean(1)
        return {"loss": error}


class WithPsnr(LinearAutoencoder):
    """As if each image were reconstructed perfectly at eight bits: the PSNR is infinite."""

    def losses(self, model: nn.Module, images: Tensor, params: Any) -> dict[str, Tensor]:
        terms = super().losses(model, images, params)
        return {**terms, "psnr": -10 * torch.log10(terms["loss"].detach().mul(0))}


class NanGradient(LinearAutoencoder):
    """A root at zero: the loss is finite, its gradient is not."""

    def losses(self, model: nn.Module, images: Tensor, params: Any) -> dict[str, Tensor]:
        terms = super().losses(model, images, params)
        zero = sum((weight - weight.detach()).abs().sum() for weight in model.parameters())
        return {"loss": terms["loss"] + torch.as_tensor(zero).sqrt()}


class Classifier:
    """Says which quarter of an image is the brightest; the rarest answer weighs 50 times."""

    def build(self, params: Mapping[str, Any], sample_shape: tuple[int, ...]) -> nn.Module:
        n = math.prod(sample_shape)
        return nn.Sequential(nn.Flatten(), nn.Linear(n, 32), nn.ReLU(), nn.Linear(32, 4))

    def losses(self, model: nn.Module, images: Tensor, params: Any) -> dict[str, Tensor]:
        labels = F.adaptive_avg_pool2d(images, 2).flatten(1).argmax(1)
        weights = torch.tensor([1.0, 1.0, 50.0, 1.0])
        loss = F.cross_entropy(model(images), labels, weight=weights, reduction="none")
        return {"loss": loss}


def own(implementation: Any) -> LoadedTask:
    """A task of this module."""
    return LoadedTask(type(implementation).__name__, implementation, {}, None)


def uneven_images(seed: int) -> Tensor:
    """(300, 1, 8, 8) uint8: one half flat grey, one half black-and-white patterns."""
    drawn = torch.Generator().manual_seed(seed)
    grey = torch.full((150, 1, 8, 8), 128, dtype=torch.uint8)
    patterns = torch.randint(0, 2, (150, 1, 8, 8), generator=drawn).mul(255).to(torch.uint8)
    return torch.cat([grey, patterns])[torch.randperm(300, generator=drawn)]


@dataclass(frozen=True)
class Run:
    """One fold to train: a kind of training, a task, its images and parameters."""

    kind: str
    task: LoadedTask
    images: Tensor
    params: Mapping[str, Any]
    seed: int = 0

    def fold(self, **options: Any) -> Fold:
        """The first of three folds."""
        split = FoldPlan(len(self.images), splits=3).split()[0]
        params = self.task.complete(self.params)
        settings = TrainingOptions(EPOCHS, self.seed, **options)
        return Fold(self.task, params, Samples.of_images(self.images), split, settings)

    def failed_at(self) -> int | None:
        """The epoch at which the fold is told to have diverged, or None."""
        fold = self.fold()
        for epoch in range(1, EPOCHS + 1):
            if fold.train_epoch().diverged is not None:
                return epoch
        return None


def healthy(fashion: Tensor, digits: Tensor) -> Iterator[Run]:
    """Folds that learn, or may still learn."""
    autoencoder, variational = load_task("autoencoder"), load_task("variational")
    for lr in (1e-6, 1e-5, 1e-4):
        for batch_size in (1, 2, 4, 8):
            params = {"lr": lr, "batch_size": batch_size}
            yield Run("autoencoder, rates of 1e-6 to 1e-4", autoencoder, fashion, params)
    linear, classifier, psnr = own(LinearAutoencoder()), own(Classifier()), own(WithPsnr())
    for seed in (0, 1):
        for batch_size in (2, 3, 4):
            params = {"lr": 1e-4, "batch_size": batch_size}
            yield Run("linear, uneven images", linear, uneven_images(seed), params, seed)
    for seed in range(6):
        params = {"warm_up": 2.0, "free_bits": 2.0, "latent_dim": 32, "lr": 1e-3}
        yield Run("variational, β warms up, free bits", variational, digits, params, seed)
        yield Run(
            "classifier with class weights",
            classifier,
            digits,
            {"lr": 1e-3, "batch_size": 2},
            seed,
        )
        yield Run("linear, an infinite PSNR is recorded", psnr, digits, {"lr": 1e-3}, seed)


def hopeless(digits: Tensor) -> Iterator[Run]:
    """Folds whose training has failed."""
    autoencoder, variational = load_task("autoencoder"), load_task("variational")
    linear, classifier, nan = own(LinearAutoencoder()), own(Classifier()), own(NanGradient())
    for optimizer in OPTIMIZERS:
        params = {"lr": 1e3, "batch_size": 8, "optimizer": optimizer}
        for loss in ("mse", "bce"):
            yield Run("autoencoder, rate of 1000", autoencoder, digits, {**params, "loss": loss})
        yield Run("variational, rate of 1000", variational, digits, params)
        yield Run("linear, rate of 1000", linear, digits, params)
        yield Run("classifier, rate of 1000", classifier, digits, params)
        yield Run("linear, a gradient is NaN", nan, digits, {**params, "lr": 1e-3})


def print_table(title: str, runs: Iterator[Run]) -> None:
    """Trains the runs, and prints a line for each kind."""
    found: dict[str, list[int | None]] = {}
    for run in runs:
        found.setdefault(run.kind, []).append(run.failed_at())
    print(f"| {title} | runs | failed | after epochs |\n|---|---|---|---|")
    for kind, epochs in found.items():
        failed = sorted(epoch for epoch in epochs if epoch is not None)
        when = f"{failed[0]} to {failed[-1]}" if failed else "–"
        print(f"| {kind} | {len(epochs)} | {len(failed)} | {when} |", flush=True)


def print_cost(digits: Tensor, rounds: int = 9) -> None:
    """Prints the processor time of a fold's first epoch: the shortest of some rounds."""
    print("\n| first epoch, ms of processor time | compared | not compared |\n|---|---|---|")
    for name in ("autoencoder", "variational"):
        run = Run(name, load_task(name), digits, {"batch_size": 32})
        shortest = {3: math.inf, None: math.inf}
        for _ in range(rounds):
            for patience in shortest:
                fold = run.fold(divergence_patience=patience)
                started = time.process_time()
                fold.train_epoch()
                shortest[patience] = min(shortest[patience], time.process_time() - started)
        with_it, without = (1e3 * shortest[patience] for patience in (3, None))
        print(f"| {name} | {with_it:.1f} | {without:.1f} |", flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--no-cost", action="store_true", help="leave the second table out")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    fashion, digits = (
        torch.from_numpy(load_dataset(name, limit=limit, data_dir=asked.data_dir).images)
        for name, limit in (("fashion-mnist", 300), ("digits", 300))
    )
    print_table("healthy", healthy(fashion, digits))
    print()
    print_table("hopeless", hopeless(digits))
    if not asked.no_cost:
        print_cost(digits)


if __name__ == "__main__":
    main()
