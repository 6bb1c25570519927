"""One fold of one trial: a model, its optimizer, and the training loop."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.tasks.protocol import Params
from foldrace.trainables.training.divergence import DivergenceCheck, Untrained, criterion
from foldrace.trainables.training.optimizers import build_optimizer, build_schedule
from foldrace.trainables.training.options import Precision, TrainingOptions
from foldrace.trainables.training.reports import FoldReport
from foldrace.trainables.training.seeds import derive_seed, seeded
from foldrace.trainables.training.splits import Split

__all__ = ["Fold", "add_terms"]

_VALIDATION_BATCH = 1024


class Fold:
    """Trains one fold, one epoch at a time.

    All its randomness follows from (seed, fold, epoch). A fold that was interrupted after any
    epoch and loaded from its `state_dict` therefore continues bit for bit as if it had not been.

    Args:
        task: the task to train.
        params: the trial's complete parameters.
        images: (N, C, H, W) uint8, the whole training part, on the device to train on.
        split: which of the images train and which validate.
        options: how to train.
        number: the fold's number, from 0.

    Attributes:
        epoch: epochs trained so far.
        seconds: time spent in training and validation so far.
        diverged: why the fold diverged, or None.
    """

    def __init__(
        self,
        task: LoadedTask,
        params: Params,
        images: Tensor,
        split: Split,
        options: TrainingOptions,
        *,
        number: int = 0,
    ) -> None:
        self._given = task, split
        # A task may keep notes on itself. They belong to this fold: a worker trains many trials.
        self.task = replace(task, implementation=copy.deepcopy(task.implementation))
        self.params, self.images, self.options, self.number = params, images, options, number
        self.objective = options.objective or task.objective
        self.device = images.device
        self.train_indices = torch.from_numpy(split.train).to(self.device)
        self.validation_indices = torch.from_numpy(split.validation).to(self.device)
        _, channels, height, width = images.shape
        with seeded(derive_seed(options.seed, number, "weights"), self.device):
            model = self.task.implementation.build(params, (channels, height, width))
            self.model: torch.nn.Module = model.to(self.device)
        self.optimizer = build_optimizer(params, self.model.parameters())
        self.schedule = self.new_schedule(self.optimizer)
        self.epoch = 0
        self.seconds = 0.0
        self.diverged: str | None = None
        self._divergence = DivergenceCheck(options.divergence_patience)
        self._kept_epoch = 0
        self._kept_metrics: dict[str, float] = {"val_loss": math.inf}
        self._kept_weights: dict[str, Tensor] | None = None
        self._last_metrics: dict[str, float] = {"epoch_val_loss": math.inf}

    def train_epoch(self) -> FoldReport:
        """Trains one epoch, validates, and keeps the weights if they are the best so far.

        A fold that has stopped is only reported.
        """
        if self.stopped:
            return self.report()
        started = time.perf_counter()
        metrics = self._train()
        return self.end_epoch(metrics, time.perf_counter() - started)

    def train_only_epoch(self) -> dict[str, float]:
        """Trains one epoch without validation; returns its ``train_…`` metrics."""
        metrics = self._train()
        self.epoch += 1
        return metrics

    def _train(self) -> dict[str, float]:
        """The training loop: one pass over the training images in a new random order."""
        self.model.train()
        sums: dict[str, Tensor] = {}
        count = 0
        with self.options.precision.of_products(), seeded(self._epoch_seed, self.device):
            order = self._shuffled()
            for batch in self.batches(order):
                terms = self.losses(self.pixels(batch), self.moment(count))
                sums = add_terms(sums, terms)
                self.optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(terms["loss"].mean())
                self.optimizer.step()
                if self.schedule is not None:
                    self.schedule.step()
                count += len(batch)
            means = self.means(sums, count)
        return {f"train_{name}": value for name, value in means.items()}

    def end_epoch(self, metrics: dict[str, float], seconds: float) -> FoldReport:
        """Validates after an epoch of training, and keeps the weights if they are the best so far.

        Args:
            metrics: the epoch's ``train_…`` metrics.
            seconds: the time that the epoch took.
        """
        started = time.perf_counter()
        self.epoch += 1
        validation = self.evaluate(self.validation_indices)
        metrics = {**metrics, **{f"val_{name}": value for name, value in validation.items()}}
        if self._divergence.needs_untrained:
            self._divergence.untrained = self._untrained()
        reason = self._divergence.verdict(metrics, self.model)
        if reason is not None:
            self.diverged = f"fold {self.number}, epoch {self.epoch}: {reason}"
        self._keep(metrics)
        self.seconds += seconds + time.perf_counter() - started
        return self.report()

    def evaluate(self, indices: Tensor, images: Tensor | None = None) -> dict[str, float]:
        """The means of the task's terms over ``images[indices]``, in evaluation mode.

        Args:
            indices: (n,) positions on the fold's device.
            images: (N, C, H, W) uint8 on the fold's device; None: the fold's own.

        Returns:
            The objective is named ``loss``. See `means`.
        """
        sums: dict[str, Tensor] = {}
        for terms in self._evaluated(indices, images):
            sums = add_terms(sums, terms)
        return self.means(sums, len(indices))

    def _evaluated(
        self, indices: Tensor, images: Tensor | None = None
    ) -> Iterator[Mapping[str, Tensor]]:
        """The terms of each batch in evaluation mode; the caller takes them all."""
        self.model.eval()
        seed = derive_seed(self.options.seed, self.number, "validate")
        with torch.inference_mode(), seeded(seed, self.device):
            for batch in torch.split(indices, _VALIDATION_BATCH):
                yield self.losses(self.pixels(batch, images))

    def _untrained(self) -> Untrained:
        """What training has to improve on: this fold as it was before its first step.

        It is made anew from the same seed, with a copy of the task of its own. So training draws
        the same random numbers with and without it, and neither batch norm's statistics nor a
        task's notes change.
        """
        task, split = self._given
        fresh = Fold(task, self.params, self.images, split, self.options, number=self.number)
        sums: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        for terms in fresh._evaluated(fresh.validation_indices):
            sums = add_terms(sums, terms)
            losses.append(terms["loss"].double())
        count = len(fresh.validation_indices)
        means = {f"val_{name}": value for name, value in fresh.means(sums, count).items()}
        deviation = float(torch.cat(losses).std(correction=0))
        return Untrained(criterion(means, "val"), deviation, count)

    def losses(self, pixels: Tensor, moment: float | None = None) -> Mapping[str, Tensor]:
        """The task's terms of a batch.

        Args:
            pixels: (B, C, H, W) in [0, 1].
            moment: epochs trained so far, with their fraction; None in evaluation, which is in
                float32, as the kept weights are for whoever loads them.

        Returns:
            Tensors of shape (B, …) by the name of the term.
        """
        with torch.autocast(
            self.device.type,
            dtype=torch.bfloat16,
            enabled=moment is not None and self.options.precision is Precision.BFLOAT16,
            cache_enabled=False,
        ):
            return self.task.losses(self.model, pixels, self.params, moment)

    def means(self, sums: Mapping[str, Tensor], count: int) -> dict[str, float]:
        """The metrics from sums over ``count`` samples.

        The objective is named ``loss``. If another term is minimised, that is ``criterion``.
        """
        # One transfer, so one synchronisation with the device.
        values = torch.cat([total.reshape(-1) for total in sums.values()]).div(count).tolist()
        terms: dict[str, float | list[float]] = {}
        for name, total in sums.items():
            terms[name] = values[: total.numel()] if total.ndim else values[0]
            del values[: total.numel()]
        means = self.task.summarise(terms, self.params)
        objective = self.objective or ("mse" if "mse" in means else "loss")
        if objective == "loss":
            return means
        return {**means, "criterion": means["loss"], "loss": means[objective]}

    def moment(self, count: int) -> float:
        """The epochs trained so far, after ``count`` images of the next one."""
        return self.epoch + count / len(self.train_indices)

    def new_schedule(self, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
        """The trial's learning-rate schedule from its first step on, for ``optimizer``."""
        steps = self.options.epochs * len(self.batches(self.train_indices))
        lr = float(self.params["lr"] or 0.0)
        return build_schedule(str(self.params["schedule"]), optimizer, lr, steps)

    def batches(self, indices: Tensor) -> Sequence[Tensor]:
        """``indices`` (n,) in batches.

        A last batch of one sample is left out, since batch normalisation cannot work on it.
        """
        batches: tuple[Tensor, ...] = torch.split(indices, int(self.params["batch_size"] or 1))
        lone = len(batches) > 1 and len(batches[-1]) == 1 < len(batches[0])
        return batches[:-1] if lone else batches

    def pixels(self, batch: Tensor, images: Tensor | None = None) -> Tensor:
        """The images at the (B,) indices, as (B, C, H, W) float32 in [0, 1]."""
        source = self.images if images is None else images
        return source.index_select(0, batch).to(torch.float32).div_(255.0)

    def random_epoch(self) -> tuple[Tensor, torch.Generator]:
        """The next epoch's randomness, for a caller that trains it in another way.

        Returns:
            The order of the training images, and a generator on the fold's device in the state
            that torch's global one has when `train_epoch` draws the first batch.
        """
        generator = torch.Generator().manual_seed(self._epoch_seed)
        order = self._shuffled(generator)
        if self.device.type != "cpu":
            generator = torch.Generator(self.device).manual_seed(self._epoch_seed)
        return order, generator

    @property
    def _epoch_seed(self) -> int:
        return derive_seed(self.options.seed, self.number, self.epoch + 1, "train")

    def _shuffled(self, generator: torch.Generator | None = None) -> Tensor:
        order = torch.randperm(len(self.train_indices), generator=generator)
        return self.train_indices[order.to(self.device)]

    @property
    def stopped(self) -> bool:
        """Whether early stopping or divergence has ended this fold."""
        patience = self.options.early_stopping.patience
        return self.diverged is not None or (
            patience is not None and self.epoch - self._kept_epoch > patience
        )

    def _keep(self, metrics: dict[str, float]) -> None:
        """Keeps this epoch's weights: under early stopping if they are the best, else always."""
        loss = metrics["val_loss"]
        training = {name: value for name, value in metrics.items() if name.startswith("train_")}
        self._last_metrics = {**training, "epoch_val_loss": loss}
        kept = {name: value for name, value in metrics.items() if name.startswith("val_")}
        stopping = self.options.early_stopping
        if stopping.patience is None:
            if self.diverged is None:
                self._kept_epoch, self._kept_metrics = self.epoch, kept
            else:  # the last epoch's weights count, and these are unusable
                self._kept_epoch, self._kept_metrics = 0, {"val_loss": math.inf}
        elif self.diverged is None and loss < self._kept_metrics["val_loss"] - stopping.min_delta:
            self._kept_epoch, self._kept_metrics = self.epoch, kept
            state = self.model.state_dict()
            self._kept_weights = {name: value.clone() for name, value in state.items()}

    def report(self) -> FoldReport:
        """The fold's present state."""
        metrics = {**self._kept_metrics, **self._last_metrics}
        return FoldReport(
            self.number, self.epoch, self._kept_epoch, self.stopped, self.diverged, metrics
        )

    def weights(self) -> dict[str, Tensor]:
        """The kept weights: the best epoch's under early stopping, else the last epoch's."""
        return self._kept_weights if self._kept_weights is not None else self.model.state_dict()

    def reconstruct(self, images: Tensor) -> Tensor:
        """The kept weights' reconstructions, for a task that reconstructs.

        Args:
            images: (B, C, H, W) uint8 on the fold's device.

        Returns:
            The same shape and type.
        """
        current = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.weights())
        self.model.eval()
        seed = derive_seed(self.options.seed, self.number, "reconstruct")
        with torch.inference_mode(), seeded(seed, self.device):
            pixels = images.to(torch.float32).div_(255.0)
            output: Tensor = self.task.implementation.reconstruct(self.model, pixels, self.params)
        self.model.load_state_dict(current)
        return output.clamp(0, 1).mul(255).round().to(torch.uint8)

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to continue bit for bit.

        It holds only tensors and plain containers.
        """
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "diverged": self.diverged,
            "divergence": self._divergence.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "kept_epoch": self._kept_epoch,
            "kept_metrics": self._kept_metrics,
            "kept_weights": self._kept_weights,
            "last_metrics": self._last_metrics,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from the `state_dict` of a fold with the same arguments."""
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self.diverged = state["diverged"]
        if "divergence" in state:  # not in a checkpoint of an earlier version
            self._divergence.load_state_dict(state["divergence"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self._kept_epoch, self._kept_metrics = state["kept_epoch"], dict(state["kept_metrics"])
        self._kept_weights, self._last_metrics = state["kept_weights"], dict(state["last_metrics"])


def add_terms(sums: Mapping[str, Tensor], terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds a batch's terms, each (B, …), to the sums over all batches so far."""
    totals = {name: values.detach().sum(0, dtype=torch.float64) for name, values in terms.items()}
    return {name: sums[name] + total if name in sums else total for name, total in totals.items()}
