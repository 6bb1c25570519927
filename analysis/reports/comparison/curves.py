"""Curves of a comparison: the expected best of a search, and the tuned models' training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from foldrace.analysis.records.comparison import Comparison
from foldrace.analysis.reports.axes import fit_losses, in_own_sign, label_ends, whole_ticks
from foldrace.analysis.reports.comparison.arms import arm_colours, in_view
from foldrace.analysis.reports.marks import band, label, mean_curve, ring
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import MUTED
from foldrace.analysis.statistics.intervals import expected_best
from foldrace.analysis.text import digits, listed, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["best_of_n", "learning_curves"]

Curve = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""The expected best loss of 1, 2, … trials, and the bounds of its interval."""


def best_of_n(comparison: Comparison) -> Figure | None:
    """The expected best loss of k search trials of each arm, beside the untuned defaults.

    None without a completed search trial.
    """
    tried = {arm: comparison.search_losses(arm) for arm in comparison.arms}
    losses = {arm: found for arm, found in tried.items() if np.isfinite(found).any()}
    if not losses:
        return None
    colour = arm_colours(comparison)
    curves = {arm: expected_best(found) for arm, found in losses.items()}
    expected = np.concatenate([curve[np.isfinite(curve)] for curve, _, _ in curves.values()])
    known = {arm: comparison.default_loss(arm) for arm in curves}
    defaults = {arm: loss for arm, loss in known.items() if loss is not None}

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for arm, (curve, low, high) in curves.items():
            k, seen = np.arange(1, len(curve) + 1), np.isfinite(curve)
            top = np.where(np.isfinite(high), high, 1e12)
            band(axes, k[seen], low[seen], top[seen], colour[arm], alpha=0.13)
            mean_curve(axes, k[seen], curve[seen], colour[arm])
        near = _plot_defaults(axes, defaults, expected, colour)
        fit_losses(axes, [*expected, *near])
        in_own_sign(axes, "y", comparison.objective)
        label_ends(axes, [(curve[-1], arm, colour[arm]) for arm, (curve, _, _) in curves.items()])
        whole_ticks(axes)
        axes.set(
            xlabel="search trials, drawn at random (0: the default, untuned)",
            ylabel=f"expected best validation {comparison.objective.name}",
        )

    score = comparison.objective.score
    ends = [
        f"{arm}: {digits(score(curve[-1]))} after {plural(len(curve), 'trial')}"
        for arm, (curve, _, _) in curves.items()
    ]
    return draw(
        "best-of-n",
        "The expected best of k search trials",
        _best_of_n_caption(curves, defaults, losses, comparison),
        "; ".join(ends),
        plot,
    )


def _plot_defaults(
    axes: Axes,
    defaults: Mapping[str, float],
    expected: NDArray[np.float64],
    colour: Mapping[str, str],
) -> list[float]:
    """Draws the defaults at zero trials, far ones as text; returns the losses of the near ones."""
    near = [arm for arm, loss in defaults.items() if in_view(loss, expected)]
    for arm in near:
        ring(axes, 0, defaults[arm], colour[arm])
    for line, arm in enumerate([arm for arm in defaults if arm not in near]):
        text = f"{digits(defaults[arm], 3)} {'↑' if defaults[arm] > expected.max() else '↓'}"
        at = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "baseline"}
        place = (0, 0.95 - 0.07 * line)
        label(axes, text, place, (0, 0), color=colour[arm], fontsize=9, **at)
    return [defaults[arm] for arm in near]


def _best_of_n_caption(
    curves: Mapping[str, Curve],
    defaults: Mapping[str, float],
    losses: Mapping[str, NDArray[np.float64]],
    comparison: Comparison,
) -> str:
    objective = comparison.objective
    sentences = [
        f"A curve is the unbiased estimate of the expected {objective.best_word} {objective.name}"
        " of k trials, the band its 95\u00a0% bootstrap interval (too narrow near the right end,"
        " where few trials decide)."
    ]
    when = []
    for arm, default in defaults.items():
        below = np.flatnonzero(curves[arm][0] < default)  # NaN is not below
        first = f"from {plural(int(below[0]) + 1, 'trial')} on" if len(below) else "never"
        when.append(f"{arm} {first}")
    if when:
        text = "A search can be expected to beat the default (diamond)"
        sentences.append(f"{text}: {listed(when)}.")
    failed = {arm: int(np.isinf(found).sum()) for arm, found in losses.items()}
    counts = [f"{count} of {arm}'s" for arm, count in failed.items() if count]
    if counts:
        sentences.append(
            f"Failed trials ({listed(counts)}) count as draws that never win; a curve begins where"
            " not all draws can have failed."
        )
    if comparison.sampler == "qmc":
        sentences.append(
            "The trials fill the space more evenly than independent draws would, so the curve is"
            " approximate."
        )
    return " ".join(sentences)


def learning_curves(comparison: Comparison, target: float | None) -> Figure | None:
    """The tuned models' loss over epochs: mean and standard error over repeats and folds.

    None before the first completed repeat.

    Args:
        target: a loss to mark.
    """
    groups = comparison.curves.groupby("arm", sort=False)
    means = {arm: _means(rows) for arm, rows in groups}
    if not means:
        return None
    colour = arm_colours(comparison)
    ends = [(found["mean"].iloc[-1], arm, colour[arm]) for arm, found in means.items()]

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for arm, found in means.items():
            low, high = found["mean"] - found["error"], found["mean"] + found["error"]
            band(axes, found.index, low, high, colour[arm], alpha=0.18)
            mean_curve(axes, found.index, found["mean"], colour[arm])
        fit_losses(axes, np.concatenate([found["mean"].to_numpy() for found in means.values()]))
        if target is not None:
            axes.axhline(target, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            at = {"xycoords": ("axes fraction", "data"), "va": "top"}
            label(axes, "target", (0.005, target), (0, -3), color=MUTED, fontsize=8.5, **at)
        in_own_sign(axes, "y", comparison.objective)
        label_ends(axes, ends)
        whole_ticks(axes)
        axes.set(xlabel="epoch", ylabel=f"validation {comparison.objective.name}, mean over folds")

    return draw(
        "learning-curves",
        "Learning curves of the tuned optimizers",
        _learning_curves_caption(means),
        "; ".join(
            f"{arm} ends at {digits(comparison.objective.score(loss))}" for loss, arm, _ in ends
        ),
        plot,
    )


def _learning_curves_caption(means: Mapping[str, pd.DataFrame]) -> str:
    first = min(means, key=lambda arm: means[arm]["mean"].iloc[0])
    last = min(means, key=lambda arm: means[arm]["mean"].iloc[-1])
    counts = {int(found["count"].max()) for found in means.values()}
    count = f"{'up to ' if len(counts) > 1 else ''}{plural(max(counts), 'fold')}"
    caption = f"Mean over {count} (every fold of every repeat), the band one standard error."
    end = max(int(found.index.max()) for found in means.values())
    if first != last:
        return f"{caption} {first} is lowest after the first epoch, {last} after epoch {end}."
    if len(means) > 1:
        return f"{caption} {first} is lowest after the first epoch and after the last."
    return caption


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """``mean``, ``error`` and ``count`` by epoch; an ended fold keeps its last loss."""
    columns = ["repeat", "fold"]
    wide = rows.pivot_table(index="epoch", columns=columns, values="val_loss").sort_index().ffill()
    count = wide.count(axis=1)
    error = (wide.std(axis=1, ddof=1) / np.sqrt(count)).fillna(0.0)
    return pd.DataFrame({"mean": wide.mean(axis=1), "error": error, "count": count})
