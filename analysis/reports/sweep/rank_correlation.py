"""How well the ranks of the trials at an early epoch agree with their final ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from foldrace.analysis.reports.axes import in_own_sign, log_if_decade, whole_ticks
from foldrace.analysis.reports.marks import band, dots, label
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import BLUE, MUTED, ORANGE, PAPER
from foldrace.analysis.reports.sweep.panels import LOG_FROM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from foldrace.analysis.records.sweep import SweepRecord

__all__ = ["FEWEST_TRIALS", "RungCorrelation", "rank_correlation", "rung_correlations"]

FEWEST_TRIALS = 6
"""Completed trials below which no rank correlation is computed."""


@dataclass(frozen=True)
class RungCorrelation:
    """Spearman's ρ between the losses at an epoch and the final ones, with its 95 % interval.

    Attributes:
        n: the number of trials.
    """

    epoch: int
    rho: float
    low: float
    high: float
    n: int


def rung_correlations(record: SweepRecord) -> list[RungCorrelation]:
    """The rank correlation with the final mean loss for every epoch but the last.

    The trials are those that completed. The interval is by Fisher's z with variance 1.06/(n − 3)
    (Fieller, Hartley and Pearson, 1957); for it, a perfect ρ is taken as half a step less.

    Returns:
        One for each epoch at which the losses differ; none below `FEWEST_TRIALS` trials.
    """
    losses = _losses_by_epoch(record)
    n = losses.shape[1]
    if n < FEWEST_TRIALS:
        return []
    final, found = losses.iloc[-1], []
    most = 1 - 6 / (n**3 - n)
    width = 1.96 * math.sqrt(1.06 / (n - 3))
    for epoch, row in losses.iloc[:-1].iterrows():
        if row.nunique() < 2 or final.nunique() < 2 or row.isna().any():
            continue
        rho = float(row.rank().corr(final.rank()))  # Pearson's of the ranks is Spearman's
        z = math.atanh(min(max(rho, -most), most))
        found.append(
            RungCorrelation(int(epoch), rho, math.tanh(z - width), math.tanh(z + width), n)
        )
    return found


def _losses_by_epoch(record: SweepRecord) -> pd.DataFrame:
    """A row an epoch, a column a completed trial, the best first.

    A trial whose folds all stopped early keeps its last loss.
    """
    curves = [
        curve.set_index("epoch")["val_loss"].rename(trial)
        for trial, curve in record.curves.items()
    ]
    if not curves:
        return pd.DataFrame()
    losses = pd.concat(curves, axis=1).sort_index().ffill()
    return losses[[int(trial) for trial in record.ranking["trial"] if trial in losses]]


def rank_correlation(
    record: SweepRecord, found: Sequence[RungCorrelation], pruned_at: Sequence[int]
) -> Figure:
    """ρ over epochs, and the losses at the first pruning epoch against the final ones.

    Args:
        found: at least one, by `rung_correlations`.
        pruned_at: the epochs at which trials were pruned, in order.
    """
    known, name = {one.epoch for one in found}, record.objective.name
    epoch = pruned_at[0] if pruned_at and pruned_at[0] in known else found[0].epoch

    def plot(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2)
        _plot_rho(left, found, pruned_at)
        losses = record.ranking["trial"].map(
            lambda trial: _loss_at(record.curves[int(trial)], epoch)
        )
        _plot_early_and_late(right, losses.tolist(), record.ranking["val_loss"].tolist())
        right.set(xlabel=f"validation {name} at epoch {epoch}", ylabel=f"final validation {name}")
        in_own_sign(right, "x", record.objective)
        in_own_sign(right, "y", record.objective)

    return draw(
        "rank-correlation",
        "Do early epochs predict the final ranks?",
        f"Left: Spearman's ρ between the losses of {found[0].n} trials at an epoch and at the end,"
        f" with its 95\u00a0% interval. Right: the same trials at epoch {epoch} and at the end,"
        " the best one in orange. Only completed trials are counted; over all trials the"
        " correlation would be higher, because pruning removes the weak ones.",
        f"Rank correlation with the final {name}: {found[0].rho:.2f} at epoch {found[0].epoch},"
        f" {found[-1].rho:.2f} at epoch {found[-1].epoch}.",
        plot,
        size=(7.2, 3.1),
    )


def _plot_rho(axes: Axes, found: Sequence[RungCorrelation], pruned_at: Sequence[int]) -> None:
    epochs, low = [one.epoch for one in found], [one.low for one in found]
    band(axes, epochs, low, [one.high for one in found], BLUE, alpha=0.14)
    rho = [one.rho for one in found]
    axes.plot(epochs, rho, "-o", color=BLUE, markersize=5, markeredgecolor=PAPER)
    for epoch in pruned_at:
        axes.axvline(epoch, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
    if pruned_at:
        options = {"color": MUTED, "fontsize": 8.5, "xycoords": ("data", "axes fraction")}
        label(axes, "trials pruned", (pruned_at[0], 0.02), (4, 0), va="bottom", **options)
    axes.set(xlabel="epoch", ylabel="rank correlation with the end (ρ)")
    axes.set_ylim(min(0.0, *low) - 0.03, 1.03)
    whole_ticks(axes)


def _loss_at(curve: pd.DataFrame, epoch: int) -> float:
    losses = curve.set_index("epoch")["val_loss"]
    return float(losses.reindex(range(1, epoch + 1)).ffill().iloc[-1])


def _plot_early_and_late(axes: Axes, early: Sequence[float], late: Sequence[float]) -> None:
    dots(axes, early[1:], late[1:], BLUE, markersize=5, alpha=0.7)
    axes.plot(early[0], late[0], "o", color=ORANGE, markersize=7, markeredgecolor=PAPER)
    log_if_decade(axes, early, "x", LOG_FROM)
    log_if_decade(axes, late, "y", LOG_FROM)
