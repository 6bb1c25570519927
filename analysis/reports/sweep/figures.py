"""Pictures of how a sweep went: the leaders, the incumbent, the learning curves, the rungs, the
cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from foldrace.analysis.reports.axes import fit_losses, key, log_if_decade, whole_ticks
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import BLUE, GREY, MUTED, ORANGE, PAPER
from foldrace.analysis.text import plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from foldrace.analysis.records.sweep import SweepRecord

__all__ = [
    "LOG_FROM",
    "RungCorrelation",
    "cost",
    "incumbent",
    "key",
    "leaders",
    "learning_curves",
    "rung_correlations",
    "rungs",
]

SHOWN_LEADERS = 10
_FEWEST_RANKED = 6
LOG_FROM = 4.0
"""The ratio of losses from which a logarithm shows the good ones better."""


def leaders(record: SweepRecord) -> Figure:
    """The best trials with every fold and the standard error."""
    best = record.ranking.head(SHOWN_LEADERS)
    first = best.iloc[0]
    error = float(first["val_loss_se"]) if math.isfinite(first["val_loss_se"]) else 0.0

    def plot(canvas: Canvas) -> None:
        axes = canvas.subplots()
        low, high = first["val_loss"] - error, first["val_loss"] + error
        axes.axvspan(low, high, color=ORANGE, alpha=0.1, linewidth=0)
        losses = dict(iter(record.folds.groupby("trial")["val_loss"]))
        for place, row in enumerate(best.itertuples()):
            colour = ORANGE if place == 0 else BLUE
            folds = losses.get(row.trial, pd.Series(dtype=float))
            axes.plot(
                folds,
                [place] * len(folds),
                "o",
                color=colour,
                alpha=0.6,
                markersize=4,
                markeredgewidth=0,
            )
            spread = row.val_loss_se if math.isfinite(row.val_loss_se) else 0.0
            axes.errorbar(row.val_loss, place, xerr=spread, color=colour, linewidth=2, capsize=0)
            axes.plot(row.val_loss, place, "o", color=colour, markersize=7, markeredgecolor=PAPER)
        axes.set_yticks(range(len(best)), [f"trial {trial}" for trial in best["trial"]])
        axes.get_yticklabels()[0].set(color=ORANGE, fontweight="bold")
        axes.set_ylim(len(best) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel="validation loss")
        axes.locator_params(axis="x", nbins=7)

    return draw(
        "leaders",
        "The best trials",
        "Large dots: mean over folds, the line its standard error. Small dots: the folds. The band"
        " is one standard error around the leader: a trial whose large dot lies in it may well be"
        " as good. Folds are hard or easy for all trials alike, so the table also compares them"
        " fold by fold.",
        f"Mean and standard error of the {plural(len(best), 'best trial')}; trial {first['trial']}"
        " leads.",
        plot,
        size=(7.2, 0.9 + 0.3 * max(len(best), 2)),
    )


def incumbent(record: SweepRecord) -> Figure:
    """The best loss so far, over fold-epochs spent and over time."""
    steps = record.incumbents
    minutes = record.seconds / 60
    unit, scale = ("minutes", 1.0) if minutes >= 3 else ("seconds", 60.0)

    def plot(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2, sharey=True)
        error = steps["val_loss_se"].fillna(0)
        for axes, x, end in (
            (left, steps["fold_epochs"], record.fold_epochs),
            (right, steps["minutes"] * scale, minutes * scale),
        ):
            at = [*x, max(end, x.iloc[-1])]
            mean, spread = ([*values, values.iloc[-1]] for values in (steps["val_loss"], error))
            low, high = (np.add(mean, np.multiply(sign, spread)) for sign in (-1, 1))
            axes.fill_between(at, low, high, step="post", color=ORANGE, alpha=0.16, linewidth=0)
            axes.plot(at, mean, drawstyle="steps-post", color=ORANGE, linewidth=2)
            axes.plot(
                x, steps["val_loss"], "o", color=ORANGE, markersize=4.5, markeredgecolor=PAPER
            )
            axes.set_xlim(left=0)
        last = steps.iloc[-1]
        left.annotate(
            f"trial {last['best_trial']:.0f}",
            (max(record.fold_epochs, last["fold_epochs"]), last["val_loss"]),
            xytext=(0, -5),
            textcoords="offset points",
            color=ORANGE,
            fontweight="bold",
            ha="right",
            va="top",
            fontsize=9,
        )
        fit_losses(left, [*(steps["val_loss"] - error), *(steps["val_loss"] + error)])
        left.set(xlabel="fold-epochs spent", ylabel="validation loss of the incumbent")
        right.set(xlabel=f"{unit} since the start")

    changes = len(steps)
    return draw(
        "incumbent",
        "The incumbent",
        "The best trial evaluated to the end so far, with its standard error (band). A long flat"
        " end says that more trials of this kind would gain little.",
        f"The incumbent's loss over cost and time; it changed {plural(changes, 'time')}.",
        plot,
        size=(7.2, 3.0),
    )


def learning_curves(record: SweepRecord) -> Figure:
    """Every trial's loss over epochs, the mean of the folds that it has, ended where it was given
    up."""
    statuses = dict(zip(record.trials["trial"], record.trials["status"], strict=True))
    winner = record.winner
    kinds = {"completed": ("evaluated to the end", BLUE), "pruned": ("given up", MUTED)}
    many = 0.45 if len(record.curves) > 25 else 0.8
    shown = [loss for curve in record.curves.values() for loss in curve["val_loss"]]

    def plot(canvas: Canvas) -> None:
        axes = canvas.subplots()
        for trial, curve in record.curves.items():
            if trial == winner:
                continue
            status = statuses[trial]
            done = status == "completed"
            colour = BLUE if done else MUTED if status == "failed" else GREY
            axes.plot(
                curve["epoch"],
                curve["val_loss"],
                color=colour,
                linewidth=1,
                alpha=many if done else 0.9,
                zorder=3 if done else 2,
            )
            if not done:
                last, mark = curve.iloc[-1], "x" if status == "failed" else "o"
                axes.plot(
                    last["epoch"], last["val_loss"], mark, color=colour, markersize=3.5, zorder=2
                )
        if winner is not None:
            best = record.curves[winner]
            spread = best["val_loss_se"].fillna(0)
            low, high = best["val_loss"] - spread, best["val_loss"] + spread
            shown.extend(low)
            axes.fill_between(
                best["epoch"], low, high, color=ORANGE, alpha=0.18, linewidth=0, zorder=1
            )
            axes.plot(best["epoch"], best["val_loss"], color=ORANGE, linewidth=2.4, zorder=5)
        fit_losses(axes, shown, LOG_FROM)
        axes.set(xlabel="epoch", ylabel="validation loss, mean over its folds")
        whole_ticks(axes)
        seen = {statuses[trial] for trial in record.curves}
        names = [(f"trial {winner}, the leader", ORANGE)] if winner is not None else []
        names += [kinds[status] for status in kinds if status in seen]
        names += [("failed (×)", MUTED)] if "failed" in seen else []
        names += [("unfinished", MUTED)] if seen & {"running", "interrupted"} else []
        key(axes, names)

    ended = "; a dot marks where a trial was given up" if record.count("pruned") else ""
    return draw(
        "learning-curves",
        "Every trial's learning curve",
        f"Means over the folds that a trial was trained on{ended}. The band is the leader's"
        " standard error. Curves that cross late are what giving up early can get wrong.",
        f"Learning curves of {plural(len(record.curves), 'trial')}.",
        plot,
        size=(7.2, 4.0),
    )


@dataclass(frozen=True)
class RungCorrelation:
    """How well the ranks at an epoch foretell those at the end: Spearman's ρ with a 95 % interval
    over n trials."""

    epoch: int
    rho: float
    low: float
    high: float
    n: int


def rung_correlations(record: SweepRecord) -> list[RungCorrelation]:
    """For every epoch but the last: Spearman's rank correlation of the trials' mean losses then
    and at the last epoch, over trials that reached it. Fisher's z with variance 1.06/(n − 3)
    (Fieller, Hartley and Pearson, 1957).

    Fewer than six such trials give no correlation. For the interval a perfect ρ is taken as half a
    step less.
    """
    by_epoch = [
        record.curves[trial].set_index("epoch")["val_loss"].rename(trial)
        for trial in record.curves
    ]
    if not by_epoch:
        return []
    losses = pd.concat(by_epoch, axis=1).sort_index()
    ended = losses.ffill()  # a trial whose folds all stopped early keeps its loss
    done = [int(trial) for trial in record.ranking["trial"] if trial in ended]
    if len(done) < _FEWEST_RANKED:
        return []
    final, found = ended[done].iloc[-1], []
    most = 1 - 6 / (len(done) ** 3 - len(done))
    for epoch, row in ended[done].iloc[:-1].iterrows():
        if row.nunique() < 2 or final.nunique() < 2 or row.isna().any():
            continue
        rho = float(row.rank().corr(final.rank()))  # which is Spearman's
        width = 1.96 * math.sqrt(1.06 / (len(done) - 3))
        z = math.atanh(min(max(rho, -most), most))
        found.append(
            RungCorrelation(int(epoch), rho, math.tanh(z - width), math.tanh(z + width), len(done))
        )
    return found


def rungs(record: SweepRecord, found: Sequence[RungCorrelation], decided: Sequence[int]) -> Figure:
    """ρ over epochs, and the losses at the first decision against those at the end.

    Args:
        decided: the epochs at which trials were given up.
    """
    epoch = (
        decided[0] if decided and decided[0] in {one.epoch for one in found} else found[0].epoch
    )
    done = [int(trial) for trial in record.ranking["trial"]]

    def plot(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2)
        epochs = [one.epoch for one in found]
        left.fill_between(
            epochs,
            [o.low for o in found],
            [o.high for o in found],
            color=BLUE,
            alpha=0.14,
            linewidth=0,
        )
        left.plot(
            epochs,
            [one.rho for one in found],
            "-o",
            color=BLUE,
            markersize=5,
            markeredgecolor=PAPER,
        )
        for one in decided:
            left.axvline(one, color=MUTED, linewidth=0.8, linestyle=(0, (3, 3)), zorder=1)
        if decided:
            left.annotate(
                "trials given up",
                (decided[0], 0.02),
                xycoords=("data", "axes fraction"),
                xytext=(4, 0),
                textcoords="offset points",
                color=MUTED,
                fontsize=8.5,
            )
        left.set(xlabel="epoch", ylabel="rank correlation with the end (ρ)")
        left.set_ylim(min(0.0, min(one.low for one in found)) - 0.03, 1.03)
        whole_ticks(left)
        early = [
            record.curves[t]
            .set_index("epoch")["val_loss"]
            .reindex(range(1, epoch + 1))
            .ffill()
            .iloc[-1]
            for t in done
        ]
        late = record.ranking["val_loss"]
        right.plot(
            early[1:], late[1:], "o", color=BLUE, markersize=5, alpha=0.7, markeredgewidth=0
        )
        right.plot(early[0], late.iloc[0], "o", color=ORANGE, markersize=7, markeredgecolor=PAPER)
        log_if_decade(right, early, "x", LOG_FROM)
        log_if_decade(right, late, "y", LOG_FROM)
        right.set(xlabel=f"validation loss at epoch {epoch}", ylabel="at the end")

    n = found[0].n
    return draw(
        "rank-correlation",
        "Does an early epoch foretell the end?",
        f"Left: Spearman's ρ between the {n} trials' losses at an epoch and at the end, with its"
        f" 95\u00a0% interval. Right: the same trials at epoch {epoch} and at the end, the leader"
        " in orange. Only trials that reached the end are in it, so where weak ones were given up"
        " the correlation over all would be higher.",
        f"Rank correlation with the final loss: {found[0].rho:.2f} at epoch {found[0].epoch},"
        f" {found[-1].rho:.2f} at epoch {found[-1].epoch}.",
        plot,
        size=(7.2, 3.1),
    )


def cost(record: SweepRecord, spent: Sequence[tuple[str, str, int]], full: int) -> Figure:
    """Fold-epochs by how their trials ended, against training every trial to the end.

    Args:
        spent: what, in which colour, fold-epochs.
        full: fold-epochs of the whole.
    """

    def plot(canvas: Canvas) -> None:
        axes = canvas.subplots()
        saved = full - sum(amount for _, _, amount in spent)
        start, names = 0, []
        for text, colour, amount in (*spent, ("not spent", "none", saved)):
            if amount <= 0:
                continue
            bars = axes.barh(0, amount, left=start, color=colour, height=0.6)
            if colour == "none":
                bars[0].set(edgecolor=MUTED, linestyle=(0, (3, 3)), linewidth=0.8)
            share = f"{text} {amount:,} ({amount / full:.0%})".replace("%", " %")
            names.append((share, MUTED if colour in ("none", GREY) else colour))
            start += amount
        key(axes, names)
        axes.set_xlim(0, full * 1.001)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False)
        axes.set(xlabel="fold-epochs")

    total = sum(amount for _, _, amount in spent)
    return draw(
        "cost",
        "Where the fold-epochs went",
        f"The full width is every trial trained on all folds to the last epoch: {full:,}"
        f" fold-epochs, of which {total:,} were spent.",
        f"{total:,} of {full:,} fold-epochs were spent.",
        plot,
        size=(7.2, 1.3),
    )
