"""Figures of a sweep's course: the best trials, the incumbent, learning curves and the cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from foldrace.analysis.reports.axes import fit_losses, in_own_sign, key
from foldrace.analysis.reports.marks import band, label
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import GREY, MUTED, ORANGE, PAPER
from foldrace.analysis.reports.sweep.panels import plot_best_trials, plot_learning_curves
from foldrace.analysis.text import percent, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from foldrace.analysis.records.sweep import SweepRecord

__all__ = ["best_trials", "cost", "incumbent", "learning_curves"]

_SHOWN_TRIALS = 10


def best_trials(record: SweepRecord) -> Figure:
    """The best completed trials: every fold, the mean and its standard error."""
    best = record.ranking.head(_SHOWN_TRIALS)
    first = best.iloc[0]
    error = float(first["val_loss_se"]) if math.isfinite(first["val_loss_se"]) else 0.0
    folds = {trial: losses.tolist() for trial, losses in record.folds.groupby("trial")["val_loss"]}

    def plot(canvas: Canvas) -> None:
        axes = canvas.subplots()
        low, high = first["val_loss"] - error, first["val_loss"] + error
        axes.axvspan(low, high, color=ORANGE, alpha=0.1, linewidth=0)
        axes.locator_params(axis="x", nbins=7)
        plot_best_trials(axes, best, folds, record.objective)

    return draw(
        "best-trials",
        "The best trials",
        "Large dots: the mean over the folds, with its standard error as a line. Small dots: the"
        " folds. The band is one standard error around the best mean: a trial whose large dot lies"
        " in it may be just as good. Some folds are harder than others for every trial, so the"
        " table also compares the trials fold by fold.",
        f"Mean and standard error of the {plural(len(best), 'best trial')}; trial {first['trial']}"
        " is best.",
        plot,
        size=(7.2, 0.9 + 0.3 * max(len(best), 2)),
    )


def incumbent(record: SweepRecord) -> Figure:
    """The incumbent's loss against the fold-epochs spent and against time."""
    steps, name = record.incumbents, record.objective.name
    minutes = record.seconds / 60
    unit, scale = ("minutes", 1.0) if minutes >= 3 else ("seconds", 60.0)
    error = steps["val_loss_se"].fillna(0)

    def plot_steps(axes: Axes, x: Sequence[float], end: float) -> None:
        at = [*x, max(end, x[-1])]
        mean, spread = ([*values, values.iloc[-1]] for values in (steps["val_loss"], error))
        low, high = np.subtract(mean, spread), np.add(mean, spread)
        band(axes, at, low, high, ORANGE, step="post")
        axes.plot(at, mean, drawstyle="steps-post", color=ORANGE, linewidth=2)
        axes.plot(x, steps["val_loss"], "o", color=ORANGE, markersize=4.5, markeredgecolor=PAPER)
        axes.set_xlim(left=0)

    def plot(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2, sharey=True)
        plot_steps(left, steps["fold_epochs"].tolist(), record.fold_epochs)
        plot_steps(right, (steps["minutes"] * scale).tolist(), minutes * scale)
        last = steps.iloc[-1]
        at = (max(record.fold_epochs, last["fold_epochs"]), last["val_loss"])
        options = {"color": ORANGE, "fontweight": "bold", "fontsize": 9}
        label(
            left, f"trial {last['best_trial']:.0f}", at, (0, -5), ha="right", va="top", **options
        )
        fit_losses(left, [*(steps["val_loss"] - error), *(steps["val_loss"] + error)])
        left.set(xlabel="fold-epochs spent", ylabel=f"validation {name} of the incumbent")
        in_own_sign(left, "y", record.objective)
        right.set(xlabel=f"{unit} since the start")

    return draw(
        "incumbent",
        "The incumbent",
        "The best completed trial so far, with its standard error as a band. After a long flat"
        " end, more trials from the same space would gain little.",
        f"The incumbent's {name} against cost and time; it changed {plural(len(steps), 'time')}.",
        plot,
        size=(7.2, 3.0),
    )


def learning_curves(record: SweepRecord) -> Figure:
    """Every trial's loss over epochs, ended where the trial was pruned."""
    statuses = dict(zip(record.trials["trial"], record.trials["status"], strict=True))
    ended = "; a dot marks where a trial was pruned" if record.count("pruned") else ""

    def plot(canvas: Canvas) -> None:
        plot_learning_curves(
            canvas.subplots(), record.curves, statuses, record.best_trial, record.objective
        )

    return draw(
        "learning-curves",
        "Every trial's learning curve",
        f"Means over the folds that a trial was trained on{ended}. The band is the standard error"
        " of the best trial. Where curves cross late, early pruning can lose a good trial.",
        f"Learning curves of {plural(len(record.curves), 'trial')}.",
        plot,
        size=(7.2, 4.0),
    )


def cost(record: SweepRecord, spent: Sequence[tuple[str, str, int]], full: int) -> Figure:
    """The fold-epochs spent by the status of their trials, against training every trial in full.

    Args:
        spent: status, colour and fold-epochs of each part of the bar.
        full: the fold-epochs of training every trial in full.
    """
    total = sum(amount for _, _, amount in spent)

    def plot(canvas: Canvas) -> None:
        axes = canvas.subplots()
        start, names = 0, []
        for text, colour, amount in (*spent, ("not spent", "none", full - total)):
            if amount <= 0:
                continue
            bars = axes.barh(0, amount, left=start, color=colour, height=0.6)
            if colour == "none":
                bars[0].set(edgecolor=MUTED, linestyle=(0, (3, 3)), linewidth=0.8)
            share = f"{text} {amount:,} ({percent(amount / full)})"
            names.append((share, MUTED if colour in ("none", GREY) else colour))
            start += amount
        key(axes, names)
        axes.set_xlim(0, full * 1.001)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False)
        axes.set(xlabel="fold-epochs")

    return draw(
        "cost",
        "Where the fold-epochs went",
        "The full width stands for training every trial on all folds to the last epoch:"
        f" {full:,} fold-epochs, of which {total:,} were spent.",
        f"{total:,} of {full:,} fold-epochs were spent.",
        plot,
        size=(7.2, 1.3),
    )
