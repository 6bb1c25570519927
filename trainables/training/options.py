"""Settings of training that all trials of a sweep share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["EarlyStopping", "Precision", "TrainingOptions"]


class Precision(StrEnum):
    """The number format of the matrix products of training.

    Weights are always float32, and evaluation computes in float32.
    """

    FLOAT32 = "float32"
    TF32 = "tf32"
    BFLOAT16 = "bfloat16"

    @contextmanager
    def of_products(self) -> Iterator[None]:
        """Within this block a GPU computes float32 products in tf32, if this is tf32.

        bfloat16 is a matter of `torch.autocast`, around the losses alone.
        """
        import torch  # here, since most users of this module need no torch

        backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
        before = [backend.allow_tf32 for backend in backends]
        for backend in backends:
            backend.allow_tf32 = self is Precision.TF32
        try:
            yield
        finally:
            for backend, allowed in zip(backends, before, strict=True):
                backend.allow_tf32 = allowed


@dataclass(frozen=True)
class EarlyStopping:
    """When a fold stops before its last epoch.

    Attributes:
        patience: stop after more than this many consecutive epochs without an improvement. 0
            stops at the first epoch whose validation loss does not fall; None trains all epochs.
        min_delta: the validation loss must fall by more than this to count as an improvement.
    """

    patience: int | None = None
    min_delta: float = 0.0


@dataclass(frozen=True)
class TrainingOptions:
    """How each fold of each trial is trained.

    Attributes:
        epochs: total epochs per fold, at least 1; the learning-rate schedule spans them.
        seed: a fold's randomness follows from (seed, fold, epoch) alone.
        objective: the task's term that trials are compared by; None: the task's own.
        direction: ``minimize`` or ``maximize``; None: see `LoadedTask.compared_by`.
        metrics: of a whole part, by name, that are measured in validation
            (`foldrace.trainables.tasks.metrics`).
        probabilities: whether classes are predicted by probabilities, not logits; None: judged by
            the values of each part.
        early_stopping: when a fold stops before its last epoch.
        divergence_patience: after how many successive epochs in which training makes a network
            worse it has diverged (see `foldrace.trainables.training.divergence`); None: not as
            long as its numbers are finite.
        precision: of training; evaluation is in float32.
    """

    epochs: int
    seed: int = 0
    objective: str | None = None
    direction: str | None = None
    metrics: tuple[str, ...] = ()
    probabilities: bool | None = None
    early_stopping: EarlyStopping = EarlyStopping()
    divergence_patience: int | None = 3
    precision: Precision = Precision.FLOAT32
