"""The two panels that the sweep report and the overview have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from foldrace.analysis.reports.axes import fit_losses, in_own_sign, key, whole_ticks
from foldrace.analysis.reports.marks import band, dots, rows
from foldrace.analysis.reports.style import BLUE, GREY, MUTED, ORANGE, PAPER
from foldrace.trainables.tasks.objective import LOSS, Objective

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LOG_FROM", "plot_best_trials", "plot_learning_curves"]

LOG_FROM = 4.0
"""Ratio of the largest loss to the smallest from which a loss axis is logarithmic."""

_MANY_CURVES = 25


def plot_best_trials(
    axes: Axes,
    best: pd.DataFrame,
    folds: Mapping[int, Sequence[float]],
    objective: Objective = LOSS,
) -> None:
    """Completed trials as rows, the best on top: each fold, the mean and its standard error.

    Args:
        best: a row a trial with ``trial``, ``val_loss`` and ``val_loss_se``, at least one.
        folds: by trial: the loss in each fold.
        objective: what the losses are.
    """
    for place, row in enumerate(best.itertuples()):
        colour = BLUE if place else ORANGE
        losses = folds.get(int(row.trial), [])
        dots(axes, losses, [place] * len(losses), colour, alpha=0.6)
        error = row.val_loss_se if math.isfinite(row.val_loss_se) else 0.0
        axes.errorbar(row.val_loss, place, xerr=error, color=colour, linewidth=2, capsize=0)
        axes.plot(row.val_loss, place, "o", color=colour, markersize=7, markeredgecolor=PAPER)
    rows(axes, [f"trial {trial}" for trial in best["trial"]])
    if len(best):
        axes.get_yticklabels()[0].set(color=ORANGE, fontweight="bold")
    axes.set(xlabel=f"validation {objective.name}")
    in_own_sign(axes, "x", objective)


def plot_learning_curves(
    axes: Axes,
    curves: Mapping[int, pd.DataFrame],
    statuses: Mapping[int, str],
    best_trial: int | None,
    objective: Objective = LOSS,
) -> None:
    """Each trial's loss over epochs, its mean over the folds trained by then.

    Args:
        curves: by trial: ``epoch``, ``val_loss``, ``val_loss_se``.
        statuses: by trial.
        best_trial: the best completed trial, drawn with its standard error.
        objective: what the losses are.
    """
    shown = [loss for curve in curves.values() for loss in curve["val_loss"]]
    for trial, curve in curves.items():
        if trial != best_trial:
            _plot_curve(axes, curve, statuses[trial], 0.45 if len(curves) > _MANY_CURVES else 0.8)
    if best_trial is not None:
        best = curves[best_trial]
        error = best["val_loss_se"].fillna(0)
        low, high = best["val_loss"] - error, best["val_loss"] + error
        shown.extend(low)
        band(axes, best["epoch"], low, high, ORANGE, alpha=0.18, zorder=1)
        axes.plot(best["epoch"], best["val_loss"], color=ORANGE, linewidth=2.4, zorder=5)
    fit_losses(axes, shown, LOG_FROM)
    axes.set(xlabel="epoch", ylabel=f"validation {objective.name}, mean over its folds")
    in_own_sign(axes, "y", objective)
    whole_ticks(axes)
    seen = {statuses[trial] for trial in curves if trial != best_trial}
    names = [(f"trial {best_trial}, the best", ORANGE)] if best_trial is not None else []
    names += [("completed", BLUE)] if "completed" in seen else []
    names += [("pruned (dot)", MUTED)] if "pruned" in seen else []
    names += [("failed (×)", MUTED)] if "failed" in seen else []
    names += [("unfinished", MUTED)] if seen & {"running", "interrupted"} else []
    key(axes, names)


def _plot_curve(axes: Axes, curve: pd.DataFrame, status: str, alpha: float) -> None:
    completed, failed = status == "completed", status == "failed"
    colour = BLUE if completed else MUTED if failed else GREY
    order = 3 if completed else 2
    alpha = alpha if completed else 0.9
    finite = curve[np.isfinite(curve["val_loss"])]
    x, y = finite["epoch"], finite["val_loss"]
    axes.plot(x, y, color=colour, linewidth=1, alpha=alpha, zorder=order)
    if not completed:
        mark = "x" if failed else "o"
        axes.plot(x.iloc[-1:], y.iloc[-1:], mark, color=colour, markersize=3.5, zorder=order)
