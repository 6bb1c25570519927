"""One fold of one trial: a model, its optimizer, and the training loop."""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.tasks.protocol import Params
from foldrace.trainables.training.optimizers import build_optimizer, build_schedule
from foldrace.trainables.training.process import Precision
from foldrace.trainables.training.seeds import derive_seed
from foldrace.trainables.training.splits import Split

__all__ = ["EarlyStopping", "Fold", "FoldReport", "add_terms", "seeded", "timed"]

_VALIDATION_BATCH = 1024
_WORSE = 0.05
_VANISHED = 1e-12


@dataclass(frozen=True)
class EarlyStopping:
    """Stop a fold after more than ``patience`` epochs in a row without an improvement by more than
    ``min_delta``.

    Patience 0 stops at the first epoch whose validation loss does not fall. None: train all
    epochs.
    """

    patience: int | None = None
    min_delta: float = 0.0


@dataclass(frozen=True)
class FoldReport:
    """What one fold has to say after an epoch.

    Attributes:
        fold: number of the fold, from 0.
        epoch: epochs trained so far (a stopped fold's stays where it stopped).
        best_epoch: the epoch of the weights that are kept, from 1 (0: none yet is finite).
        stopped: no more epochs will be trained, by early stopping or divergence.
        diverged: why the fold cannot go on, or None.
        metrics: ``val_…`` of the weights that are kept; ``train_…`` and ``epoch_val_loss`` of the
            last trained epoch.
    """

    fold: int
    epoch: int
    best_epoch: int
    stopped: bool
    diverged: str | None
    metrics: Mapping[str, float]

    @property
    def val_loss(self) -> float:
        """The objective on the validation part, for the weights that are kept; infinite if there
        are none."""
        return self.metrics["val_loss"]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within this block the random numbers of torch, NumPy and Python follow from ``seed``;
    outside they are as they were."""
    before, numpy_before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)


class Fold:
    """Trains one fold, an epoch at a time.

    Everything random in it follows from (seed, fold, epoch), so a run that was interrupted after
    any epoch and loaded from its `state_dict` goes on bit for bit as if it had not been.

    Args:
        images: (N, C, H, W) uint8, all of the training part, on ``device``.
        split: which of them train and which validate.
        params: the trial's complete parameters.
        objective: the name of the task's term that trials are compared by.
        epochs: how many epochs the learning-rate schedule spans.
        precision: bfloat16 computes the losses under torch.autocast; tf32 is the process's
            (`prepare_process`).
    """

    def __init__(
        self,
        task: LoadedTask,
        params: Params,
        images: Tensor,
        split: Split,
        *,
        epochs: int,
        seed: int = 0,
        fold: int = 0,
        objective: str | None = None,
        early_stopping: EarlyStopping = EarlyStopping(),
        precision: Precision = Precision.FLOAT32,
    ) -> None:
        # what a task notes on itself stays with this fold: workers are reused from trial to trial
        self.task = replace(task, implementation=copy.deepcopy(task.implementation))
        self.params, self.images = params, images
        self.seed, self.fold, self.early_stopping = seed, fold, early_stopping
        self._autocast = precision is Precision.BFLOAT16
        self.objective = objective or task.objective
        self.device = images.device
        self.train_indices = torch.from_numpy(split.train).to(self.device)
        self.validation_indices = torch.from_numpy(split.validation).to(self.device)
        with seeded(derive_seed(seed, fold, "weights"), self.device):
            _, channels, height, width = images.shape
            self.model = self.task.implementation.build(params, (channels, height, width)).to(
                self.device
            )
        self.optimizer = build_optimizer(params, self.model.parameters())
        steps = epochs * len(self.batches(self.train_indices))
        self.schedule = build_schedule(
            str(params["schedule"]), self.optimizer, float(params["lr"] or 0.0), steps
        )
        self.epoch = 0
        self.seconds = 0.0
        self.diverged: str | None = None
        self._untrained_loss = math.inf
        self._kept_epoch = 0
        self._kept_metrics: dict[str, float] = {"val_loss": math.inf}
        self._kept_weights: dict[str, Tensor] | None = None
        self._last_metrics: dict[str, float] = {"epoch_val_loss": math.inf}

    @property
    def stopped(self) -> bool:
        """Whether early stopping or divergence has ended this fold."""
        patience = self.early_stopping.patience
        return self.diverged is not None or (
            patience is not None and self.epoch - self._kept_epoch > patience
        )

    def train_epoch(self) -> FoldReport:
        """Trains one epoch, validates, keeps the weights if they are the best so far. A stopped
        fold only reports."""
        if self.stopped:
            return self.report()
        with timed() as elapsed:
            metrics = self._train()
        return self.end_epoch(metrics, elapsed())

    def train_only_epoch(self) -> dict[str, float]:
        """Trains one epoch without validating: the means of the task's terms, named
        ``train_…``."""
        metrics = self._train()
        self.epoch += 1
        return metrics

    def end_epoch(self, metrics: dict[str, float], seconds: float) -> FoldReport:
        """Validates after an epoch of training, and keeps the weights if they are the best so far.

        Args:
            metrics: the epoch's, named ``train_…``.
            seconds: that it took.
        """
        self.epoch += 1
        with timed() as elapsed:
            metrics = {
                **metrics,
                **{
                    f"val_{name}": value
                    for name, value in self.evaluate(self.validation_indices).items()
                },
            }
            self.diverged = self._divergence(metrics)
            self._keep(metrics)
        self.seconds += seconds + elapsed()
        return self.report()

    def _train(self) -> dict[str, float]:
        with seeded(self._epoch_seed, self.device):
            order = self._shuffled()
            return {f"train_{name}": value for name, value in self._train_on(order).items()}

    @property
    def _epoch_seed(self) -> int:
        return derive_seed(self.seed, self.fold, self.epoch + 1, "train")

    def _shuffled(self, generator: torch.Generator | None = None) -> Tensor:
        return self.train_indices[
            torch.randperm(len(self.train_indices), generator=generator).to(self.device)
        ]

    def random_epoch(self) -> tuple[Tensor, torch.Generator]:
        """The next epoch's order of the images, and a generator on the fold's device that stands
        where torch's global one does when the first batch is drawn."""
        generator = torch.Generator().manual_seed(self._epoch_seed)
        order = self._shuffled(generator)
        if self.device.type != "cpu":
            generator = torch.Generator(self.device).manual_seed(self._epoch_seed)
        return order, generator

    def _train_on(self, order: Tensor) -> dict[str, float]:
        self.model.train()
        sums: dict[str, Tensor] = {}
        count = 0
        for batch in self.batches(order):
            moment = self.epoch + count / len(order)
            terms = self.losses(self.pixels(batch), moment)
            sums = add_terms(sums, terms)
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(terms["loss"].mean())
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()
            count += len(batch)
            if self.epoch == 0 and count == len(batch):
                self.note_untrained(self.means(sums, count))
        return self.means(sums, count)

    def losses(self, pixels: Tensor, moment: float | None = None) -> Mapping[str, Tensor]:
        """The task's terms of a batch (B, C, H, W), each (B, …); ``moment`` is the epochs trained
        so far."""
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self._autocast, cache_enabled=False
        ):
            return self.task.losses(self.model, pixels, self.params, moment)

    def note_untrained(self, means: Mapping[str, float]) -> None:
        """Notes the means of the very first batch: what training has to improve on."""
        self._untrained_loss = means.get("criterion", means["loss"])

    def evaluate(self, indices: Tensor, images: Tensor | None = None) -> dict[str, float]:
        """Means of the task's terms over ``images[indices]``, in evaluation mode; the objective is
        named ``loss``."""
        self.model.eval()
        sums: dict[str, Tensor] = {}
        with (
            torch.inference_mode(),
            seeded(derive_seed(self.seed, self.fold, "validate"), self.device),
        ):
            for batch in torch.split(indices, _VALIDATION_BATCH):
                sums = add_terms(sums, self.losses(self.pixels(batch, images)))
        return self.means(sums, len(indices))

    def means(self, sums: Mapping[str, Tensor], count: int) -> dict[str, float]:
        """The figures of a part; the objective is named ``loss``, and what is minimised
        ``criterion`` if it is another."""
        values = (
            torch.cat([total.reshape(-1) for total in sums.values()]).div(count).tolist()
        )  # one synchronisation
        parts: dict[str, float | list[float]] = {}
        for name, total in sums.items():
            parts[name] = values[: total.numel()] if total.ndim else values[0]
            del values[: total.numel()]
        means = self.task.summarise(parts, self.params)
        objective = self.objective or ("mse" if "mse" in means else "loss")
        if objective == "loss":
            return means
        return {**means, "criterion": means["loss"], "loss": means[objective]}

    def _divergence(self, metrics: Mapping[str, float]) -> str | None:
        """Why this fold has no future, if it has none.

        A sigmoid hides an explosion: at a learning rate of 1000 the losses stay finite while every
        unit is saturated. Such a network is known by its gradient, which has vanished everywhere
        although the loss is as high as ever.
        """
        where = f"fold {self.fold}, epoch {self.epoch}: "
        for name, value in metrics.items():
            if not math.isfinite(value):
                return f"{where}{name} is {value}"
        # what is minimised tells; a VAE whose KL term is still warming up may well get worse by
        # its objective
        losses = {
            part: metrics.get(f"{part}_criterion", metrics[f"{part}_loss"])
            for part in ("train", "val")
        }
        loss, untrained = min(losses.values()), self._untrained_loss
        gradients = [
            p.grad.abs().max()
            for p in self.model.parameters()
            if p.grad is not None and p.grad.numel()
        ]
        if gradients and loss > untrained / 2 and float(torch.stack(gradients).max()) < _VANISHED:
            return (
                f"{where}the gradient has vanished: the network is saturated and cannot learn any"
                " more"
            )
        if loss > untrained + _WORSE * abs(untrained):
            return (
                f"{where}training has made it worse: validation {losses['val']:.3g}, untrained"
                f" {untrained:.3g}"
            )
        return None

    def _keep(self, metrics: dict[str, float]) -> None:
        self._last_metrics = {
            name: value for name, value in metrics.items() if name.startswith("train_")
        }
        self._last_metrics["epoch_val_loss"] = loss = metrics["val_loss"]
        kept = {name: value for name, value in metrics.items() if name.startswith("val_")}
        patience = self.early_stopping.patience
        if self.diverged is not None:
            if (
                patience is None
            ):  # without early stopping the last epoch's weights count, and these are worthless
                self._kept_epoch, self._kept_metrics = 0, {"val_loss": math.inf}
        elif patience is None:
            self._kept_epoch, self._kept_metrics = self.epoch, kept
        elif loss < self._kept_metrics["val_loss"] - self.early_stopping.min_delta:
            self._kept_epoch, self._kept_metrics = self.epoch, kept
            self._kept_weights = {
                name: value.clone() for name, value in self.model.state_dict().items()
            }

    def report(self) -> FoldReport:
        """The fold's present state in numbers."""
        metrics = {**self._kept_metrics, **self._last_metrics}
        return FoldReport(
            self.fold, self.epoch, self._kept_epoch, self.stopped, self.diverged, metrics
        )

    def weights(self) -> dict[str, Tensor]:
        """The weights that are kept: the best epoch's under early stopping, else the last
        epoch's."""
        return self._kept_weights if self._kept_weights is not None else self.model.state_dict()

    def reconstruct(self, images: Tensor) -> Tensor:
        """``images`` (B, C, H, W) uint8 as the kept weights reproduce them. For a task that
        reconstructs."""
        current = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.weights())
        self.model.eval()
        with (
            torch.inference_mode(),
            seeded(derive_seed(self.seed, self.fold, "reconstruct"), self.device),
        ):
            pixels = images.to(torch.float32).div_(255.0)
            output: Tensor = self.task.implementation.reconstruct(self.model, pixels, self.params)
        self.model.load_state_dict(current)
        return output.clamp(0, 1).mul(255).round().to(torch.uint8)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on bit for bit; plain containers and tensors
        only."""
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "diverged": self.diverged,
            "untrained_loss": self._untrained_loss,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "kept_epoch": self._kept_epoch,
            "kept_metrics": self._kept_metrics,
            "kept_weights": self._kept_weights,
            "last_metrics": self._last_metrics,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up where `state_dict` was called on a run with the same arguments."""
        self.epoch, self.seconds, self.diverged = (
            state["epoch"],
            state["seconds"],
            state["diverged"],
        )
        self._untrained_loss = state["untrained_loss"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self._kept_epoch, self._kept_metrics = state["kept_epoch"], dict(state["kept_metrics"])
        self._kept_weights, self._last_metrics = state["kept_weights"], dict(state["last_metrics"])

    def batches(self, indices: Tensor) -> Sequence[Tensor]:
        """``indices`` in batches. Batch normalisation cannot work on one sample: a last batch of
        one is left out."""
        batches: tuple[Tensor, ...] = torch.split(indices, int(self.params["batch_size"] or 1))
        return (
            batches[:-1]
            if len(batches) > 1 and len(batches[-1]) == 1 < len(batches[0])
            else batches
        )

    def pixels(self, batch: Tensor, images: Tensor | None = None) -> Tensor:
        """(B,) indices → these images, (B, C, H, W) in [0, 1]."""
        source = self.images if images is None else images
        return source.index_select(0, batch).to(torch.float32).div_(255.0)


def add_terms(sums: Mapping[str, Tensor], terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``sums`` with a batch's terms, each (B, …), added up over the batch."""
    totals = {name: values.detach().sum(0, dtype=torch.float64) for name, values in terms.items()}
    return {name: sums[name] + total if name in sums else total for name, total in totals.items()}


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Gives a function that returns the seconds spent within this block so far, and all of them
    after it."""
    started, ended = time.perf_counter(), math.nan
    try:
        yield lambda: (time.perf_counter() if math.isnan(ended) else ended) - started
    finally:
        ended = time.perf_counter()
