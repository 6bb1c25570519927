"""Metrics of a whole part, from its predictions and targets: scikit-learn's, by name.

A term of a task is a mean over samples; these are not, or are usually written otherwise. They are
computed once an epoch, over a fold's validation part. scikit-learn is imported when one is used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["METRICS", "Array", "Metric", "Taken", "are_probabilities", "measure"]

Array = NDArray[Any]

_BINS = 15


class Taken(Enum):
    """What a metric is computed from."""

    CLASSES = "classes"
    """(N,) the class of the highest score."""
    PROBABILITIES = "probabilities"
    """(N, C) of each class."""
    SCORES = "scores"
    """(N,) the probability of the second of two classes; (N, C) of more."""
    VALUES = "values"
    """(N,) or (N, D) float64, as the targets are."""
    CHOSEN = "chosen"
    """``CLASSES`` where the target is a class, else ``VALUES``."""
    TRUE = "true"
    """(N,) or (N, D) the targets."""
    WEIGHTS = "weights"
    """(N,) how much each sample counts, or None."""
    WEIGHT_TENSOR = "weight_tensor"
    """The weights as a tensor, or None."""
    TARGETS = "targets"
    """The targets as a tensor."""
    PREDICTIONS = "predictions"
    """(N, …) a tensor of what ``predict`` gave."""


@dataclass(frozen=True)
class Metric:
    """A metric of a whole part.

    Attributes:
        function: gets what it takes by name, and returns the value.
        takes: see `Taken`.
        maximize: whether more is better; None: it does not say.
    """

    function: Callable[..., float]
    takes: tuple[Taken, ...]
    maximize: bool | None

    @property
    def needs_classes(self) -> bool:
        """Whether the target must be a class."""
        return bool({Taken.CLASSES, Taken.PROBABILITIES, Taken.SCORES} & {*self.takes})


Function = Callable[[Array, Array, Array | None], float]
"""Of targets, predictions and weights."""


def _built_in(function: Function, takes: Taken, maximize: bool) -> Metric:
    def called(**arrays: Array) -> float:
        return function(arrays["true"], arrays[takes.value], arrays["weights"])

    return Metric(called, (Taken.TRUE, takes, Taken.WEIGHTS), maximize)


def _sklearn(name: str, **options: Any) -> Function:
    def function(targets: Array, predictions: Array, weights: Array | None) -> float:
        from sklearn import metrics

        value = getattr(metrics, name)(targets, predictions, sample_weight=weights, **options)
        return float(value)

    return function


def _averaged(name: str) -> Function:
    """A score of the second of two classes; the mean over those that occur, of more."""

    def function(targets: Array, predictions: Array, weights: Array | None) -> float:
        average = "binary" if predictions.shape[1] == 2 else "macro"
        score = _sklearn(name, average=average, zero_division=0.0)
        return score(targets, predictions.argmax(1), weights)

    return function


def _per_class(name: str) -> Function:
    """The mean over the classes that occur of a score of each against the rest; of two classes,
    that of the second."""

    def function(targets: Array, predictions: Array, weights: Array | None) -> float:
        from sklearn import metrics

        score = getattr(metrics, name)
        present = np.unique(targets)
        if len(present) < 2:
            return float("nan")
        classes = [1] if predictions.shape[1] == 2 else present
        each = [score(targets == c, predictions[:, c], sample_weight=weights) for c in classes]
        return float(np.mean(each))

    return function


def _log_loss(targets: Array, predictions: Array, weights: Array | None) -> float:
    from sklearn.metrics import log_loss

    labels = np.arange(predictions.shape[1])
    return float(log_loss(targets, predictions, sample_weight=weights, labels=labels))


def _calibration_error(targets: Array, predictions: Array, weights: Array | None) -> float:
    """Expected calibration error: over 15 bins of the largest probability, the mean distance of
    the accuracy from it (Guo et al., 2017)."""
    weights = np.ones(len(targets)) if weights is None else weights
    confidence, right = predictions.max(1), predictions.argmax(1) == targets
    bins = np.clip((confidence * _BINS).astype(int), 0, _BINS - 1)
    gaps = np.bincount(bins, weights * (right - confidence), _BINS)
    return float(np.abs(gaps).sum() / weights.sum())


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "accuracy": _built_in(_sklearn("accuracy_score"), Taken.CLASSES, True),
        "balanced_accuracy": _built_in(_sklearn("balanced_accuracy_score"), Taken.CLASSES, True),
        "f1": _built_in(_averaged("f1_score"), Taken.PROBABILITIES, True),
        "precision": _built_in(_averaged("precision_score"), Taken.PROBABILITIES, True),
        "recall": _built_in(_averaged("recall_score"), Taken.PROBABILITIES, True),
        "auroc": _built_in(_per_class("roc_auc_score"), Taken.PROBABILITIES, True),
        "average_precision": _built_in(
            _per_class("average_precision_score"), Taken.PROBABILITIES, True
        ),
        "log_loss": _built_in(_log_loss, Taken.PROBABILITIES, False),
        "calibration_error": _built_in(_calibration_error, Taken.PROBABILITIES, False),
        "mse": _built_in(_sklearn("mean_squared_error"), Taken.VALUES, False),
        "rmse": _built_in(_sklearn("root_mean_squared_error"), Taken.VALUES, False),
        "mae": _built_in(_sklearn("mean_absolute_error"), Taken.VALUES, False),
        "r2": _built_in(_sklearn("r2_score"), Taken.VALUES, True),
    }
)
"""The built-in metrics by name. F1, precision and recall are of the second of two classes, and the
mean over more than two."""


def measure(
    metrics: Mapping[str, Metric],
    targets: Array,
    predictions: Array,
    weights: Array | None = None,
    *,
    classes: int | None = None,
    probabilities: bool | None = None,
) -> dict[str, float]:
    """The values of metrics by name; NaN where one is not defined, or a prediction not finite.

    Args:
        targets: (N,) class numbers, or (N, …) values.
        predictions: of classes, (N, C) scores, logits or probabilities, or (N,) or (N, 1) of the
            second of two; else (N, …) values.
        weights: (N,) how much each sample counts.
        classes: the number of classes, or 0 if the targets are values; None: as the predictions
            have them, if the targets are whole numbers.
        probabilities: whether scores are probabilities; None: if they are in [0, 1] and sum to 1.

    Raises:
        ValueError: the predictions do not have the shape that a metric needs, or are no
            probabilities.

    >>> targets, predictions = np.array([0, 1]), np.array([0.2, 0.9])
    >>> measure({"accuracy": METRICS["accuracy"]}, targets, predictions)
    {'accuracy': 1.0}
    """
    if not np.isfinite(predictions).all():  # of a diverged network; metrics raise what they like
        return dict.fromkeys(metrics, math.nan)
    given = _Given(targets, predictions, weights, classes, probabilities)
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        arrays = {kind.value: given.of(kind, name) for kind in metric.takes}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name] = float(metric.function(**arrays))
    return found


class _Given:
    """Targets and predictions in each form that metrics take, made once."""

    def __init__(
        self,
        targets: Array,
        predictions: Array,
        weights: Array | None,
        classes: int | None,
        probabilities: bool | None,
    ) -> None:
        self._targets, self._predictions, self._weights = targets, predictions, weights
        self._classes, self._are_probabilities = classes, probabilities
        self._made: dict[Taken, Any] = {}

    def of(self, kind: Taken, name: str) -> Any:
        """Raises: ValueError: the predictions do not have the shape that this metric needs."""
        if kind is Taken.CHOSEN:
            kind = Taken.CLASSES if self._choose_classes() else Taken.VALUES
        if kind not in self._made:
            self._made[kind] = self._make(kind, name)
        return self._made[kind]

    def _choose_classes(self) -> bool:
        """Whether the predictions choose among classes: not one value for a count, say."""
        if self._classes is None:
            return self._targets.dtype.kind in "iub" and self._targets.ndim == 1
        return self._classes == 2 or (
            self._classes > 0 and self._predictions.size != self._targets.size
        )

    def _make(self, kind: Taken, name: str) -> Any:
        match kind:
            case Taken.WEIGHTS:
                return self._weights
            case Taken.TRUE:
                targets = self._targets
                targets = targets.astype(np.float64) if targets.dtype.kind == "f" else targets
                return targets.reshape(len(targets), -1) if targets.ndim > 2 else targets
            case Taken.VALUES:
                return self._values(name)
            case Taken.PROBABILITIES:
                return self._probabilities(name)
            case Taken.CLASSES:
                return self.of(Taken.PROBABILITIES, name).argmax(1)
            case Taken.SCORES:
                each = self.of(Taken.PROBABILITIES, name)
                return each[:, 1] if each.shape[1] == 2 else each
            case _:
                import torch

                arrays = {
                    Taken.TARGETS: self._targets,
                    Taken.PREDICTIONS: self._predictions,
                    Taken.WEIGHT_TENSOR: self._weights,
                }
                array = arrays[kind]
                return None if array is None else torch.from_numpy(array)

    def _values(self, name: str) -> Array:
        targets, predictions = self._targets, self._predictions
        if predictions.size != targets.size:
            raise ValueError(
                f"{name} needs a prediction for each target: predict() gave"
                f" {predictions.shape}, the targets are {targets.shape}"
            )
        values: Array = predictions.reshape(self.of(Taken.TRUE, name).shape).astype(np.float64)
        return values

    def _probabilities(self, name: str) -> Array:
        targets, predictions = self._targets, self._predictions
        if predictions.ndim == 2 and predictions.shape[1] == 1:
            predictions = predictions[:, 0]
        count = predictions.shape[1] if predictions.ndim == 2 else 2
        right = predictions.ndim in (1, 2) and targets.ndim == 1
        if not right or (self._classes and count != max(2, self._classes)):
            wanted = f"(N, {self._classes})" if self._classes else "(N, classes)"
            raise ValueError(
                f"{name} needs scores {wanted} and class numbers (N,): predict() gave"
                f" {self._predictions.shape}, the targets are {targets.shape}"
            )
        scores = predictions.astype(np.float64)
        known = are_probabilities(scores)
        if self._are_probabilities and not known:
            raise ValueError(
                f"{name} needs probabilities, as predict() gave them before the sweep began; now"
                f" they are from {scores.min():g} to {scores.max():g}"
            )
        if known if self._are_probabilities is None else self._are_probabilities:
            return np.stack([1 - scores, scores], 1) if scores.ndim == 1 else scores
        return _from_logits(scores)


def are_probabilities(scores: Array) -> bool:
    """Whether (N,) or (N, C) scores are in [0, 1], and sum to 1 if there are several."""
    inside = bool(((scores >= 0) & (scores <= 1)).all())
    return inside and (scores.ndim == 1 or np.allclose(scores.sum(1), 1, atol=1e-4))


def _from_logits(scores: Array) -> Array:
    """(N,) or (N, C) logits → (N, C) probabilities."""
    if scores.ndim == 1:
        scores = np.stack([np.zeros_like(scores), scores], 1)
    shifted = np.exp(scores - scores.max(1, keepdims=True))
    made: Array = shifted / shifted.sum(1, keepdims=True)
    return made
