"""The tuned optimizers with their intervals, the best on top."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from foldrace.analysis.records.comparison import Comparison
from foldrace.analysis.reports.axes import in_own_sign, log_if_decade
from foldrace.analysis.reports.comparison.arms import arm_colours, in_view
from foldrace.analysis.reports.marks import dots, label, ring, rows
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import MUTED
from foldrace.analysis.statistics.intervals import Interval, plus_minus
from foldrace.analysis.statistics.verdict import Verdict
from foldrace.analysis.text import digits, listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["standings"]


def standings(comparison: Comparison, verdict: Verdict) -> Figure | None:
    """Each arm's folds, mean and interval; None before the first completed repeat."""
    if not verdict.standings:
        return None
    colour, arms = arm_colours(comparison), list(verdict.standings)
    every = np.concatenate([losses.to_numpy() for losses in comparison.losses.values()])
    defaults = {arm: comparison.default_loss(arm) for arm in arms}
    near = {
        arm: loss for arm, loss in defaults.items() if loss is not None and in_view(loss, every)
    }

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for place, arm in enumerate(arms):
            _plot_arm(axes, place, comparison.losses[arm], verdict.standings[arm], colour[arm])
            if arm in near:
                ring(axes, near[arm], place, colour[arm])
            elif (default := defaults[arm]) is not None:
                text = f"default {digits(default, 3)} {'→' if default > every.max() else '←'}"
                at = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "baseline"}
                label(axes, text, (1, place - 0.2), (0, 0), color=colour[arm], fontsize=8.5, **at)
        log_if_decade(axes, [*every, *near.values()], "x")
        rows(axes, arms, low=0.45, high=0.45)
        for name in axes.get_yticklabels():
            name.set(color=colour[name.get_text()], fontweight="bold")
        better = "higher" if comparison.objective.maximize else "lower"
        axes.set(xlabel=f"validation {comparison.objective.name}, {better} is better")
        in_own_sign(axes, "x", comparison.objective)

    means = [f"{arm}: {plus_minus(interval)}" for arm, interval in verdict.standings.items()]
    caption = (
        "The best on top. A bar is the mean with its corrected 95\u00a0% interval, a dot one fold"
        " of one repeat, and the hollow diamond the untuned default."
    )
    return draw(
        "standings",
        "Tuned optimizers with their intervals",
        f"{caption} {_overlaps(verdict)}".strip(),
        "; ".join(means),
        plot,
        size=(7.2, 0.8 + 0.55 * len(arms)),
    )


def _plot_arm(axes: Axes, place: int, losses: pd.Series, interval: Interval, colour: str) -> None:
    """An arm's row: its interval, its folds below it, and its mean as a number on the right."""
    half = interval.high - interval.mean
    look: dict[str, Any] = {"markersize": 15, "capsize": 4, "linewidth": 2, "markeredgewidth": 2}
    error = [half] if math.isfinite(half) else None
    axes.errorbar([interval.mean], [place], xerr=error, fmt="|", color=colour, zorder=4, **look)
    below = place + 0.18 + 0.07 * (np.arange(len(losses)) % 3)  # three rows: few dots overlap
    dots(axes, losses, below, colour, alpha=0.55)
    look = {"color": MUTED, "fontsize": 9, "annotation_clip": False}
    at = ("axes fraction", "data")
    label(axes, plus_minus(interval), (1, place), (6, 0), xycoords=at, **look)


def _overlaps(verdict: Verdict) -> str:
    """Which intervals overlap with the best one's, in a sentence."""
    best, *others = verdict.standings
    near = [arm for arm in others if verdict.standings[arm].overlaps(verdict.standings[best])]
    apart = [arm for arm in others if arm not in near]
    if not others:
        return ""
    if not near:
        return f"{best}'s interval overlaps with no other."
    text = f"{best}'s interval overlaps with {'that' if len(near) == 1 else 'those'} of"
    return f"{text} {listed(near)}{f', not with {listed(apart)}' if apart else ''}."
