"""How sensitive each optimizer is to its learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from foldrace.analysis.records.comparison import Comparison
from foldrace.analysis.reports.axes import fit_losses, in_own_sign, log_ticks
from foldrace.analysis.reports.comparison.arms import arm_colours
from foldrace.analysis.reports.marks import dots, ring
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import INK, MUTED
from foldrace.analysis.text import digits, listed, percent, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["learning_rates"]

_WITHIN = 0.2
_FEWEST_TRIALS = 3


def learning_rates(comparison: Comparison) -> Figure | None:
    """The loss against the learning rate of the search trials, a panel an arm.

    None without a completed trial that has a learning rate.
    """
    colour = arm_colours(comparison)
    trials = comparison.trials[comparison.trials["phase"].isin(["default", "search"])]
    trials = trials.assign(lr=pd.to_numeric(trials.get("params.lr"), errors="coerce"))
    trials = trials[trials["lr"] > 0]
    completed = _completed(trials)
    if not len(completed):
        return None
    arms = [arm for arm in comparison.arms if (trials["arm"] == arm).any()]
    columns = min(2, len(arms))
    lines = math.ceil(len(arms) / columns)

    def plot(canvas: Canvas) -> None:
        grid = canvas.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        first = grid[0][0]
        first.set(xscale="log", xlim=(trials["lr"].min() / 1.6, trials["lr"].max() * 1.6))
        log_ticks(first, "x")
        fit_losses(first, completed["val_loss"])
        for axes, arm in zip(grid.flat, arms, strict=False):
            _plot_arm(axes, trials[trials["arm"] == arm], colour[arm])
            axes.set_title(arm, color=colour[arm])
        for axes in grid.flat[len(arms) :]:
            axes.set_axis_off()
            grid[-2][-1].tick_params(labelbottom=True)  # the panel above has none below it
        canvas.supxlabel("learning rate", fontsize=9.5, color=MUTED)
        in_own_sign(first, "y", comparison.objective)
        name = comparison.objective.name
        canvas.supylabel(f"validation {name} (mean over folds)", fontsize=9.5, color=MUTED)

    return draw(
        "learning-rates",
        "How much the learning rate matters",
        _caption(comparison, trials, arms),
        f"Loss against learning rate for {listed(arms)}",
        plot,
        size=(7.2, 0.6 + 2.1 * lines),
    )


def _completed(trials: pd.DataFrame) -> pd.DataFrame:
    return trials[(trials["status"] == "completed") & trials["val_loss"].notna()]


def _plot_arm(axes: Axes, trials: pd.DataFrame, colour: str) -> None:
    completed = _completed(trials)
    search, default = (completed[completed["phase"] == phase] for phase in ("search", "default"))
    dots(axes, search["lr"], search["val_loss"], colour, alpha=0.75, markersize=5)
    ring(axes, default["lr"], default["val_loss"], colour)
    best = completed.sort_values("val_loss").head(1)
    ring(axes, best["lr"], best["val_loss"], INK, "o")
    failed = trials[trials["status"] == "failed"]["lr"]
    if len(failed):
        top = axes.get_xaxis_transform()
        [crosses] = axes.plot(failed, [0.97] * len(failed), "x", color=colour, transform=top)
        crosses.set(clip_on=False)
        crosses.set_in_layout(False)


def _caption(comparison: Comparison, trials: pd.DataFrame, arms: Sequence[str]) -> str:
    text = "A dot is a search trial, the hollow diamond the default, the ring the best trial."
    search = trials[(trials["phase"] == "search") & (trials["status"] == "completed")]
    ranges = [_range(arm, search[search["arm"] == arm]) for arm in arms]
    if known := [found for found in ranges if found]:
        best = f"its own best {comparison.objective.name}"
        text += f" Within {percent(_WITHIN)} of {best}: {'; '.join(known)}."
    edges = [
        f"{arm}'s best, {rate:.3g}, is at the {edge} end"
        for arm, (rate, edge) in comparison.at_edge.items()
    ]
    if edges:
        text += f" {'; '.join(edges)} of its range: a wider range might do better."
    failed = int((trials["status"] == "failed").sum())
    return text + (
        f" Crosses at the top edge: {plural(failed, 'failed trial')}." if failed else ""
    )


def _range(arm: str, search: pd.DataFrame) -> str:
    """The learning rates with a loss near the arm's best one; empty with too few trials."""
    best = search["val_loss"].min()
    near = search[search["val_loss"] <= best + _WITHIN * abs(best)]["lr"]
    if len(search) < _FEWEST_TRIALS or not len(near):
        return ""
    low, high = near.min(), near.max()
    if len(near) == 1:
        return f"{arm} only at {low:.2g}"
    return f"{arm} from {low:.2g} to {high:.2g} (a factor of {digits(high / low, 2)})"
