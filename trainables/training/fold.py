"""One fold of one trial: a model, its optimizer, and the training loop."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from foldrace.errors import first_line
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.tasks.metrics import measure
from foldrace.trainables.tasks.protocol import Params
from foldrace.trainables.training.divergence import DivergenceCheck, Untrained, criterion
from foldrace.trainables.training.options import Precision, TrainingOptions
from foldrace.trainables.training.reports import FoldReport
from foldrace.trainables.training.samples import (
    Batch,
    Samples,
    TrainingPart,
    as_bytes,
    as_pixels,
)
from foldrace.trainables.training.seeds import derive_seed, seeded
from foldrace.trainables.training.splits import Split
from foldrace.trainables.training.stepping import Stepping

__all__ = ["WEIGHT", "Fold", "add_totals", "moved", "sum_terms"]

log = logging.getLogger(__name__)

_VALIDATION_BATCH, _VALIDATION_ELEMENTS = 1024, 50_000 * 1024
_UNTRAINED = 256
"""Training samples on which the untrained network is evaluated, or as many as validate."""

NOTHING: Mapping[str, float] = MappingProxyType({})
_NOT_FUSED = ("prepare", "augment", "optimizers", "step")

WEIGHT = " weight"
"""Among sums of terms: the sum of the samples' weights. No term can be called so."""


class Fold:
    """Trains one fold, one epoch at a time.

    All its randomness follows from (seed, fold, epoch). A fold that was interrupted after any
    epoch and loaded from its `state_dict` therefore continues bit for bit as if it had not been.

    Args:
        task: the task to train.
        params: the trial's complete parameters.
        samples: the whole training part of the data set, on the device to train on.
        split: which of them train and which validate.
        options: how to train.
        number: the fold's number, from 0.
        prepared: what the task's ``prepare`` returned for this fold; None: it is called.

    Attributes:
        epoch: epochs trained so far.
        seconds: time spent in training and validation so far.
        diverged: why the fold diverged, or None.
        mean_weight: of the training part's samples; a batch of lighter ones counts less.
    """

    def __init__(
        self,
        task: LoadedTask,
        params: Params,
        samples: Samples,
        split: Split,
        options: TrainingOptions,
        *,
        number: int = 0,
        prepared: Any = None,
    ) -> None:
        self._given, self._split = task, split
        # A task may keep notes on itself. They belong to this fold: a worker trains many trials.
        self.task = replace(task, implementation=copy.deepcopy(task.implementation))
        self.params, self.samples, self.options, self.number = params, samples, options, number
        self.objective = task.compared_by(options.objective, options.direction)
        self.device = samples.device
        self.train_indices = torch.from_numpy(split.train).to(self.device)
        self.validation_indices = torch.from_numpy(split.validation).to(self.device)
        weight = samples.sample.roles.weight
        self.mean_weight = 1.0
        if weight is not None:
            weights = samples.column(weight, self.train_indices)[weight]
            self.mean_weight = float(weights.double().mean())
        self.prepared = self._prepared() if prepared is None else prepared
        with seeded(derive_seed(options.seed, number, "weights"), self.device):
            model = self.task.build(params, samples.sample, self.prepared)
            self.model: torch.nn.Module = model.to(self.device)
        own = self._offered("optimizers") if self.task.can("optimizers") else None
        batches = len(self.batches(self.train_indices))
        trained_by = {name: value for name, value in params.items() if name not in task.parameters}
        self.stepping = Stepping(trained_by, self.model, batches, options.epochs, own)
        self.epoch = 0
        self.seconds = 0.0
        self.diverged: str | None = None
        # Where a task has its own step, or several optimizers, its networks may work against each
        # other, and a loss that rises is no sign of anything.
        judged = len(self.stepping.optimizers) == 1 and not self.task.can("step")
        self._divergence = DivergenceCheck(options.divergence_patience if judged else None)
        self._unpredictable = False  # a prediction of the last evaluation was not finite
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
        """The training loop: one pass over the training samples in a new random order."""
        self.model.train()
        sums: dict[str, Tensor] = {}
        count = 0
        with self.options.precision.of_products(), seeded(self._epoch_seed, self.device):
            parts = self.batches(self._shuffled())
            for part, batch in zip(parts, self._training_batches(parts), strict=True):
                totals = self._train_batch(batch, self.moment(count), len(part))
                sums = add_totals(sums, totals)
                count += len(part)
            self.stepping.end_epoch()
            means = self.means(sums, count)
        return {f"train_{name}": value for name, value in means.items()}

    def _train_batch(self, batch: Batch, moment: float, count: int) -> dict[str, Tensor]:
        """Trains on one batch of ``count`` samples; returns its sums."""
        if not self.task.can("step"):
            loss, totals = self.loss_and_sums(batch, moment, count)
            self.stepping.minimise(loss)
            return totals
        optimizers = self.stepping.optimizers
        with self._autocast(moment):
            terms = self.call("step", batch, optimizers=optimizers, epoch=moment)
        self.stepping.after_step()
        return sum_terms(terms, self._weights(batch))

    def _training_batches(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        """The samples at each of several positions, as the task augments them."""
        batches = self.samples.batches(parts)
        if not self.task.can("augment"):
            yield from batches
            return
        seed = derive_seed(self.options.seed, self.number, self.epoch + 1, "augment")
        generator = torch.Generator(self.device).manual_seed(seed)
        for batch in batches:
            with torch.no_grad():
                changed = self.task.augment(batch, generator, self.params, self.prepared)
            yield changed

    def end_epoch(self, metrics: dict[str, float], seconds: float) -> FoldReport:
        """Validates after an epoch of training, and keeps the weights if they are the best so far.

        Args:
            metrics: the epoch's ``train_…`` metrics.
            seconds: the time that the epoch took.
        """
        started = time.perf_counter()
        self.epoch += 1
        self._unpredictable = False
        validation = self.evaluate(self.validation_indices)
        metrics = {**metrics, **{f"val_{name}": value for name, value in validation.items()}}
        if self._divergence.needs_untrained:
            self._compare_with_untrained()
        reason = self._divergence.verdict(metrics, self.model)
        compared = self.objective.metric
        if self._unpredictable:
            reason = "its predictions are not finite"
        elif compared in self.options.metrics and math.isnan(validation["loss"]):
            reason = f"{compared} is not defined for its validation part, of one class perhaps"
        if reason is not None:
            self.diverged = f"fold {self.number}, epoch {self.epoch}: {reason}"
        self._keep(metrics)
        self.seconds += seconds + time.perf_counter() - started
        return self.report()

    def made_worse(self) -> str | None:
        """How a fold without a validation part shows that training has made it worse, or None."""
        if self._divergence.needs_untrained:
            self._compare_with_untrained()
        found = self.evaluate(self.train_indices[:_UNTRAINED])
        metrics = {f"{side}_{name}": v for side in ("train", "val") for name, v in found.items()}
        return self._divergence.judgement(metrics, self.model)

    def evaluate(self, indices: Tensor, samples: Samples | None = None) -> dict[str, float]:
        """The means of the task's terms over some samples, in evaluation mode.

        Args:
            indices: (n,) positions on the fold's device.
            samples: on the fold's device; None: the fold's own.

        Returns:
            The objective is named ``loss``. See `means`.
        """
        sums: dict[str, Tensor] = {}
        seen: list[tuple[Tensor, ...]] = []
        for terms, batch in self._evaluated(indices, samples):
            weights = self._weights(batch)
            sums = add_totals(sums, sum_terms(terms, weights))
            if self.options.metrics:
                seen.append(self._compared(batch, weights))
        return self.means(sums, len(indices), self._measured(seen))

    def _compared(self, batch: Batch, weights: Tensor | None) -> tuple[Tensor, ...]:
        """Targets, predictions and, if there are any, weights of a batch in evaluation."""
        target = self.samples.sample.roles.target
        assert target is not None
        predicted = self._call(self.judged, "predict", batch).float()
        return (batch[target], predicted, *(() if weights is None else (weights,)))

    def _measured(self, seen: Sequence[tuple[Tensor, ...]]) -> dict[str, float]:
        """The metrics of a whole part, from its batches."""
        if not seen:
            return {}
        if not all(predicted.isfinite().all() for _, predicted, *_ in seen):
            self._unpredictable = True
        target = self.samples.sample.target
        arrays = (torch.cat(parts).cpu().numpy() for parts in zip(*seen, strict=True))
        metrics = {name: self.task.metrics[name] for name in self.options.metrics}
        classes = (target.classes if target else None) or 0
        known = self.options.probabilities
        return measure(metrics, *arrays, classes=classes, probabilities=known)

    def _evaluated(
        self, indices: Tensor, samples: Samples | None = None
    ) -> Iterator[tuple[Mapping[str, Tensor], Batch]]:
        """The terms of each batch in evaluation mode; the caller takes them all."""
        model, source = self.judged, samples or self.samples
        model.eval()
        seed = derive_seed(self.options.seed, self.number, "validate")
        with torch.inference_mode(), seeded(seed, self.device):
            parts = torch.split(indices, self._validation_batch)
            for part, batch in zip(parts, source.batches(parts), strict=True):
                yield self._terms(model, batch, None, len(part)), batch

    @property
    def _validation_batch(self) -> int:
        """As many samples as are evaluated at once: fewer, the larger they are."""
        size = sum(math.prod(n or 1 for n in info.shape) for info in self.samples.sample.inputs)
        return max(1, min(_VALIDATION_BATCH, _VALIDATION_ELEMENTS // max(1, size)))

    def _compare_with_untrained(self) -> None:
        """Gives later epochs what they are compared with, if it can be had.

        A task may need what it noted in ``prepare`` or in training; or hold what cannot be copied.
        """
        for task in (self.task, self._given):
            try:
                self._divergence.untrained = self._untrained(task)
                return
            except (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
                raise
            except Exception as error:  # the task's, which training does not meet
                reason = error
        log.warning("the untrained network cannot be evaluated: %s", first_line(reason))
        self._divergence.patience = None

    def _untrained(self, task: LoadedTask) -> Untrained:
        """What training has to improve on: this fold as it was before its first step.

        It is evaluated on the validation part and, as that may be a single sample, on some of the
        training part.

        Its network is made anew from the same seed, with a copy of the task. So training draws the
        same random numbers with and without it, and neither batch norm's statistics nor a task's
        notes change.
        """
        fresh = Fold(
            task,
            self.params,
            self.samples,
            self._split,
            self.options,
            number=self.number,
            prepared=self.prepared,
        )
        sums: dict[str, Tensor] = {}
        losses: list[Tensor] = []
        more = max(_UNTRAINED, len(self.validation_indices))
        judged = torch.cat([self.validation_indices, self.train_indices[:more]])
        for terms, batch in fresh._evaluated(judged):
            sums = add_totals(sums, sum_terms(terms, self._weights(batch)))
            losses.append(terms["loss"].double())
        count = len(judged)
        means = {f"val_{name}": value for name, value in fresh.means(sums, count).items()}
        deviation = float(torch.cat(losses).std(correction=0))
        return Untrained(criterion(means, "val"), deviation, count)

    def loss_and_sums(
        self,
        batch: Batch,
        moment: float,
        count: int | None = None,
        mean_weight: float | Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What is minimised on a batch, and the sums of the terms.

        Args:
            moment: epochs trained so far, with their fraction.
            count: samples in the batch; None: as the first field has.
            mean_weight: None: the fold's own.
        """
        terms, weights = self._terms(self.model, batch, moment, count), self._weights(batch)
        loss, unit = terms["loss"], self.mean_weight if mean_weight is None else mean_weight
        mean = loss.mean() if weights is None else (loss * weights).mean() / unit
        return mean, sum_terms(terms, weights)

    def _terms(
        self,
        model: torch.nn.Module,
        batch: Batch,
        moment: float | None,
        count: int | None = None,
    ) -> Mapping[str, Tensor]:
        """The task's terms of a batch.

        Args:
            moment: epochs trained so far, with their fraction; None in evaluation, which is in
                float32, as the kept weights are for whoever loads them.
            count: see `loss_and_sums`.

        Returns:
            Tensors of shape (B, …) by the name of the term.
        """
        with self._autocast(moment):
            return self.task.losses(
                model,
                batch,
                self.params,
                sample=self.samples.sample,
                prepared=self.prepared,
                epoch=moment,
                count=count,
            )

    def _autocast(self, moment: float | None) -> torch.autocast:
        return torch.autocast(
            self.device.type,
            dtype=torch.bfloat16,
            enabled=moment is not None and self.options.precision is Precision.BFLOAT16,
            cache_enabled=False,
        )

    def call(self, method: str, batch: Batch, **offered: Any) -> Any:
        """Calls a method of the task on a batch with the model that is trained."""
        return self._call(self.model, method, batch, **offered)

    def _call(self, model: torch.nn.Module, method: str, batch: Batch, **offered: Any) -> Any:
        return self.task.call(
            method,
            model,
            batch,
            self.params,
            sample=self.samples.sample,
            prepared=self.prepared,
            **offered,
        )

    def _offered(self, method: str) -> Any:
        return self.task.call_without_batch(
            method, self.model, self.params, prepared=self.prepared
        )

    def _weights(self, batch: Batch) -> Tensor | None:
        """(B,) how much each sample of a batch counts; None: all the same."""
        name = self.samples.sample.roles.weight
        return None if name is None else batch[name].to(torch.float64)

    def _prepared(self) -> Any:
        """What the task learns from the training part alone, before anything else."""
        if not self.task.can("prepare"):
            return None
        part = TrainingPart(self.samples, self.train_indices)
        with seeded(derive_seed(self.options.seed, self.number, "prepare"), self.device):
            return moved(self.task.implementation.prepare(part, self.params), self.device)

    @property
    def cannot_fuse(self) -> str | None:
        """Why its epochs cannot be trained as one program with those of other folds, or None."""
        own = [name for name in _NOT_FUSED if self.task.can(name)]
        if own:
            return f"the task has its own {own[0]}()"
        if self.samples.reads_items:
            return "items are read when a batch needs them"
        if not self.stepping.is_plain:
            return "gradients are clipped or accumulated, or weights averaged"
        if any(info.ragged for info in self.samples.sample.fields.values()):
            return "samples are sequences of unequal length"
        return None

    @property
    def judged(self) -> torch.nn.Module:
        """The model that is evaluated and kept: with averaged weights, if they are averaged."""
        return self.stepping.judged

    def means(
        self, sums: Mapping[str, Tensor], count: int, measured: Mapping[str, float] = NOTHING
    ) -> dict[str, float]:
        """The metrics from sums over ``count`` samples, each counting as its weight says.

        The objective, as what is minimised when trials are compared, is named ``loss``. If it is
        not what training minimises, that is ``criterion``.
        """
        # One transfer, so one synchronisation with the device.
        sums = dict(sums)
        total_weight = sums.pop(WEIGHT, count)
        flat = torch.cat([total.reshape(-1) for total in sums.values()])
        values = flat.div(total_weight).tolist()
        terms: dict[str, float | list[float]] = {}
        for name, total in sums.items():
            terms[name] = values[: total.numel()] if total.ndim else values[0]
            del values[: total.numel()]
        means = {**measured, **self.task.summarise(terms, self.params)}
        compared = self.objective.named(means)
        if compared not in means:  # a metric of a whole part, in training
            return means
        if compared == "loss" and not self.objective.maximize:
            return means
        return {**means, "criterion": means["loss"], "loss": self.objective.loss(means[compared])}

    def moment(self, count: int) -> float:
        """The epochs trained so far, after ``count`` samples of the next one."""
        return self.epoch + count / len(self.train_indices)

    def batches(self, indices: Tensor) -> Sequence[Tensor]:
        """``indices`` (n,) in batches.

        A last batch of one sample is left out, since batch normalisation cannot work on it.
        """
        batches: tuple[Tensor, ...] = torch.split(indices, int(self.params["batch_size"] or 1))
        lone = len(batches) > 1 and len(batches[-1]) == 1 < len(batches[0])
        return batches[:-1] if lone else batches

    def random_epoch(self) -> tuple[Tensor, torch.Generator]:
        """The next epoch's randomness, for a caller that trains it in another way.

        Returns:
            The order of the training samples, and a generator on the fold's device in the state
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
            state = self.judged.state_dict()
            self._kept_weights = {name: value.clone() for name, value in state.items()}

    def report(self) -> FoldReport:
        """The fold's present state."""
        metrics = {**self._kept_metrics, **self._last_metrics}
        return FoldReport(
            self.number, self.epoch, self._kept_epoch, self.stopped, self.diverged, metrics
        )

    def weights(self) -> dict[str, Tensor]:
        """The kept weights: the best epoch's under early stopping, else the last epoch's."""
        if self._kept_weights is not None:
            return self._kept_weights
        return self.judged.state_dict()

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
            batch = {self.samples.sample.input.name: as_pixels(images)}
            output: Tensor = self.call("reconstruct", batch)
        self.model.load_state_dict(current)
        return as_bytes(output)

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
            "stepping": self.stepping.state_dict(),
            "prepared": self.prepared,
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
        self.stepping.load_state_dict(state.get("stepping") or _earlier_stepping(state))
        if state.get("prepared") is not None:
            self.prepared = moved(state["prepared"], self.device)
        self._kept_epoch, self._kept_metrics = state["kept_epoch"], dict(state["kept_metrics"])
        self._kept_weights, self._last_metrics = state["kept_weights"], dict(state["last_metrics"])


def sum_terms(terms: Mapping[str, Tensor], weights: Tensor | None = None) -> dict[str, Tensor]:
    """The sums of a batch's terms, each (B, …), over its samples.

    Args:
        weights: (B,) float64; their sum is then among the sums, as ``WEIGHT``.
    """
    if weights is None:
        return {
            name: values.detach().sum(0, dtype=torch.float64) for name, values in terms.items()
        }
    sums = {
        name: torch.tensordot(weights, values.detach().double(), dims=1)
        for name, values in terms.items()
    }
    return {**sums, WEIGHT: weights.sum()}


def add_totals(sums: Mapping[str, Tensor], totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds a batch's sums to those of all batches so far."""
    return {name: sums[name] + total if name in sums else total for name, total in totals.items()}


def moved(prepared: Any, device: torch.device) -> Any:
    """What a task has prepared, with its tensors on a device, however deep they are."""
    if isinstance(prepared, Tensor):
        return prepared.detach().to(device)
    if isinstance(prepared, dict):
        return {name: moved(value, device) for name, value in prepared.items()}
    if isinstance(prepared, list | tuple):
        return type(prepared)(moved(value, device) for value in prepared)
    return prepared


def _earlier_stepping(state: Mapping[str, Any]) -> dict[str, Any]:
    """`Stepping.state_dict` from a checkpoint of an earlier version."""
    schedule = state["schedule"]
    return {
        "optimizers": [state["optimizer"]],
        "schedules": [] if schedule is None else [schedule],
        "averaged": None,
        "taken": 0,
    }
