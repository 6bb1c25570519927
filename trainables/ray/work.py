"""What all trials of a sweep share: task, data, folds, and how to train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from foldrace.trainables.data.arrays import Fields, taken
from foldrace.trainables.data.sample import Sample
from foldrace.trainables.ray.gpus import local_device
from foldrace.trainables.ray.limits import Limits
from foldrace.trainables.ray.process import prepared_process
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.cross_validation import CrossValidation, Fused
from foldrace.trainables.training.ladder import Rung
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.seeds import derive_seed
from foldrace.trainables.training.splits import Split

__all__ = ["Work"]


@dataclass(frozen=True)
class Work:
    """What all trials of a sweep share.

    It is put into Ray's object store once; all workers of a node then share its arrays.

    Attributes:
        task: the task to train.
        fields: of the training part of the data set, N entries each.
        sample: what one sample holds.
        splits: one per fold.
        options: how to train each fold.
        threads: CPU threads per trial.
        gpu: GPUs that a trial reserves; 0: it trains on the CPU. See `training_device`.
        positions: (N,) index of each image in the data set's source; None: the same order.
        picture_epochs: epochs after which the reconstructions of fold 0 are reported.
        pictures: images in a strip of reconstructions.
        repeat_splits: for each repeat, from 1, its own splits.
        ladder: the rungs that a trial climbs; empty: all folds in lock-step.
        fused: whether folds at the same epoch are trained as one program: see `CrossValidation`.
        limits: what a trial may use.
        seen: a file that every machine has to see, as its folder takes the checkpoints; or empty.
        report_seconds: a trial reports at every rung, and in between at the first aligned point
            after this many seconds.
    """

    task: LoadedTask
    fields: Fields
    sample: Sample
    splits: tuple[Split, ...]
    options: TrainingOptions
    threads: int = 1
    gpu: float = 0.0
    positions: NDArray[np.int64] | None = None
    picture_epochs: frozenset[int] = frozenset()
    pictures: int = 16
    repeat_splits: tuple[tuple[Split, ...], ...] = ()
    ladder: tuple[Rung, ...] = ()
    fused: Fused = "auto"
    limits: Limits = field(default_factory=Limits)
    report_seconds: float = 1.0
    seen: str = ""

    @contextmanager
    def process(self) -> Iterator[torch.device]:
        """A block in which this process, the driver's say, computes as a trial's worker does.

        Its value is the device to compute on: see `local_device`.
        """
        device = local_device(self.gpu)
        with prepared_process(self.threads, device.type == "cuda"):
            yield device

    def __len__(self) -> int:
        """The number of training samples."""
        return len(next(iter(self.fields.values())))

    def samples_on(self, device: torch.device | None = None) -> Samples:
        """The samples on a device; on the CPU, the default, they share the arrays' memory."""
        return Samples.of(self.fields, self.sample, device or torch.device("cpu"))

    def first_samples(self, count: int) -> Samples:
        """The first samples, on the CPU."""
        chosen = np.arange(min(count, len(self)))
        fields = {name: taken(array, chosen) for name, array in self.fields.items()}
        return Samples.of(fields, self.sample, torch.device("cpu"))

    def cross_validation(
        self, params: Mapping[str, Value], samples: Samples, repeat: int = 0
    ) -> CrossValidation:
        """A trial's cross-validation, before its first epoch.

        Args:
            params: the trial's parameters; missing ones take their defaults.
            samples: see `samples_on`.
            repeat: 0, or the number of a repeat, from 1. A repeat has its own splits and seed, the
                same for every trial, so that the losses of two trials are paired.
        """
        splits, options = self.splits, self.options
        if repeat:
            splits = self.repeat_splits[repeat - 1]
            options = replace(options, seed=derive_seed(options.seed, "repeat", repeat))
        return CrossValidation(
            self.task,
            self.task.complete(params),
            samples,
            splits,
            options,
            ladder=self.ladder,
            fused=self.fused,
        )
