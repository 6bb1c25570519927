"""Scores, parameters and times as text, the same on a terminal, in MLflow and in reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from foldrace.trainables.tasks.parameters import Value

__all__ = ["clock", "params_text", "reached", "score_text"]


def clock(seconds: float | None) -> str:
    """A duration as minutes and seconds, with hours from one hour on.

    >>> clock(42), clock(725), clock(3723), clock(None)
    ('0:42', '12:05', '1:02:03', '–')
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def score_text(mean: float, standard_error: float) -> str:
    """The mean of a score and its standard error over folds; without the error where it is NaN.

    >>> score_text(0.016234, 0.000119), score_text(0.016234, math.nan), score_text(math.inf, 0)
    ('0.01623 ± 0.00012', '0.01623', 'no loss')
    """
    if not math.isfinite(mean):
        return "no loss"
    return f"{mean:.5f} ± {standard_error:.5f}" if math.isfinite(standard_error) else f"{mean:.5f}"


def params_text(params: Mapping[str, Value], varying: Sequence[str] = ()) -> str:
    """Parameters on one line, in the order of the search space.

    Args:
        varying: the names to show; empty: all.

    >>> params_text({"optimizer": "adam", "lr": 0.0021345}, ["lr", "optimizer"])
    'optimizer=adam lr=0.00213'
    """
    names = [name for name in params if not varying or name in varying]
    return " ".join(f"{name}={_short(params[name])}" for name in names)


def _short(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def reached(folds: int, epoch: int, of_folds: int, of_epochs: int) -> str:
    """How far a trial has been evaluated.

    >>> reached(1, 3, 3, 9), reached(3, 3, 3, 9)
    ('1/3 folds, 3/9 epochs', '3/9 epochs')
    """
    part = f"{epoch}/{of_epochs} epochs"
    return part if folds == of_folds else f"{folds}/{of_folds} folds, {part}"
