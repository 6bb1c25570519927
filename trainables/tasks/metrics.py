"""Metrics of a whole part, from its predictions and targets: scikit-learn's, by name.

A term of a task is a mean over samples; these are not, or are usually written otherwise. They are
computed once an epoch, over a fold's validation part. scikit-learn is imported when one is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["METRICS", "Metric", "measure"]

Array = NDArray[Any]

_BINS = 15


@dataclass(frozen=True)
class Metric:
    """A metric of a whole part.

    Attributes:
        function: (targets, predictions, weights or None) → the value.
        takes: what the predictions are made into: ``classes`` (N,), ``probabilities`` (N, C), or
            ``values``, as they are.
        maximize: whether more is better.
    """

    function: Callable[[Array, Array, Array | None], float]
    takes: str
    maximize: bool


def _sklearn(name: str, **options: Any) -> Callable[[Array, Array, Array | None], float]:
    def function(targets: Array, predictions: Array, weights: Array | None) -> float:
        from sklearn import metrics

        chosen = dict(options)
        if chosen.get("average") == "binary" and predictions.max(initial=1) > 1:
            chosen["average"] = "macro"
        value = getattr(metrics, name)(targets, predictions, sample_weight=weights, **chosen)
        return float(value)

    return function


def _per_class(name: str) -> Callable[[Array, Array, Array | None], float]:
    """The mean over classes of a score of each against the rest; of two classes, of the second."""

    def function(targets: Array, predictions: Array, weights: Array | None) -> float:
        from sklearn import metrics

        score = getattr(metrics, name)
        count = predictions.shape[1]
        classes = [1] if count == 2 else range(count)
        if len(np.unique(targets)) < count:
            return float("nan")  # a class that does not occur has no score
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
        "accuracy": Metric(_sklearn("accuracy_score"), "classes", True),
        "balanced_accuracy": Metric(_sklearn("balanced_accuracy_score"), "classes", True),
        "f1": Metric(_sklearn("f1_score", average="binary"), "classes", True),
        "precision": Metric(
            _sklearn("precision_score", average="binary", zero_division=0.0), "classes", True
        ),
        "recall": Metric(
            _sklearn("recall_score", average="binary", zero_division=0.0), "classes", True
        ),
        "auroc": Metric(_per_class("roc_auc_score"), "probabilities", True),
        "average_precision": Metric(_per_class("average_precision_score"), "probabilities", True),
        "log_loss": Metric(_log_loss, "probabilities", False),
        "calibration_error": Metric(_calibration_error, "probabilities", False),
        "mse": Metric(_sklearn("mean_squared_error"), "values", False),
        "rmse": Metric(_sklearn("root_mean_squared_error"), "values", False),
        "mae": Metric(_sklearn("mean_absolute_error"), "values", False),
        "r2": Metric(_sklearn("r2_score"), "values", True),
    }
)
"""The built-in metrics by name. F1, precision and recall are of the second of two classes, and the
mean over more than two."""


def measure(
    names: tuple[str, ...], targets: Array, predictions: Array, weights: Array | None = None
) -> dict[str, float]:
    """The metrics of these names; NaN where one is not defined.

    Args:
        targets: (N,) class numbers, or (N, …) values.
        predictions: of classes, (N, C) scores, logits or probabilities, or (N,) or (N, 1) of the
            second of two; else (N, …) values. Scores that are in [0, 1] and sum to 1 are taken
            for probabilities.
        weights: (N,) how much each sample counts.

    Raises:
        ValueError: the predictions do not have the shape that a metric needs.

    >>> measure(("accuracy", "mae"), np.array([0, 1]), np.array([0.2, 0.9]))["accuracy"]
    1.0
    """
    if targets.dtype.kind == "f":
        targets = targets.astype(np.float64)
    made: dict[str, Array] = {}
    found: dict[str, float] = {}
    for name in names:
        metric = METRICS[name]
        if metric.takes not in made:
            made[metric.takes] = _prepared(name, metric.takes, targets, predictions)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name] = metric.function(targets, made[metric.takes], weights)
    return found


def _prepared(name: str, takes: str, targets: Array, predictions: Array) -> Array:
    if takes == "values":
        if predictions.size != targets.size:
            raise ValueError(
                f"{name} needs a prediction for each target: predict() gave"
                f" {predictions.shape}, the targets are {targets.shape}"
            )
        values: Array = predictions.reshape(targets.shape).astype(np.float64)
        return values
    if predictions.ndim == 2 and predictions.shape[1] == 1:
        predictions = predictions[:, 0]
    if predictions.ndim not in (1, 2) or targets.ndim != 1:
        raise ValueError(
            f"{name} needs scores (N, classes) and class numbers (N,): predict() gave"
            f" {predictions.shape}, the targets are {targets.shape}"
        )
    probabilities = _probabilities(predictions.astype(np.float64))
    classes: Array = probabilities.argmax(1)
    return classes if takes == "classes" else probabilities


def _probabilities(scores: Array) -> Array:
    """(N,) or (N, C) logits or probabilities → (N, C) probabilities."""
    if scores.ndim == 1:
        inside = bool(((scores >= 0) & (scores <= 1)).all())
        second = scores if inside else 1 / (1 + np.exp(-scores))
        return np.stack([1 - second, second], 1)
    if bool((scores >= 0).all()) and np.allclose(scores.sum(1), 1, atol=1e-4):
        return scores
    shifted = np.exp(scores - scores.max(1, keepdims=True))
    made: Array = shifted / shifted.sum(1, keepdims=True)
    return made
