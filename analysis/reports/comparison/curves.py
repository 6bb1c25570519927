"""The curves of an optimizer comparison; each one's caption is computed from what it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from foldrace.analysis.records.comparison import Comparison
from foldrace.analysis.reports.axes import fit_losses, label_ends, log_if_decade, whole_ticks
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import MUTED, PALETTE
from foldrace.analysis.statistics.intervals import Interval, expected_best, plus_minus
from foldrace.analysis.statistics.verdict import Verdict
from foldrace.analysis.text import digits, listed, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["LOSS", "arm_colours", "best_of_n", "learning_curves", "standings"]

LOSS = "validation loss"


def arm_colours(comparison: Comparison) -> Mapping[str, str]:
    """One colour an arm, the same in every figure."""
    return {arm: PALETTE[place % len(PALETTE)] for place, arm in enumerate(comparison.arms)}


# --- means and intervals -------------------------------------------------------------------------


def standings(comparison: Comparison, verdict: Verdict) -> Figure | None:
    """Each arm's folds, mean and interval; None before any repeat."""
    if not verdict.standings:
        return None
    colour, arms = arm_colours(comparison), list(verdict.standings)
    best = arms[0]
    apart = [
        arm for arm in arms[1:] if not verdict.standings[arm].overlaps(verdict.standings[best])
    ]
    near = [arm for arm in arms[1:] if arm not in apart]
    caption = (
        "The best on top. A bar is the mean and its corrected 95\u00a0% interval, a dot one fold"
        f" of one repeat, the hollow diamond the default, untuned. {_said(best, near, apart)}"
    )

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        every = np.concatenate([losses.to_numpy() for losses in comparison.losses.values()])
        shown = [*every]
        for place, arm in enumerate(arms):
            _draw_arm(axes, place, comparison.losses[arm], verdict.standings[arm], colour[arm])
            if (default := comparison.default_loss(arm)) is None:
                continue
            if _in_view(default, every):
                axes.plot(
                    default,
                    place,
                    "D",
                    markersize=6,
                    markeredgecolor=colour[arm],
                    markerfacecolor="none",
                )
                shown.append(default)
            else:
                axes.annotate(
                    f"default {digits(default, 3)}" + (" →" if default > every.max() else " ←"),
                    (1, place - 0.2),
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    color=colour[arm],
                    fontsize=8.5,
                )
        log_if_decade(axes, shown, "x")
        axes.set_yticks(range(len(arms)), arms)
        for label in axes.get_yticklabels():
            label.set(color=colour[label.get_text()], fontweight="bold")
        axes.set(xlabel=f"{LOSS}, lower is better", ylim=(len(arms) - 0.45, -0.45))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)

    alt = "; ".join(
        f"{arm}: {plus_minus(interval)}" for arm, interval in verdict.standings.items()
    )
    size = (7.2, 0.8 + 0.55 * len(arms))
    return draw(
        "standings", "Tuned optimizers with their intervals", caption, alt, plot, size=size
    )


def _draw_arm(axes: Axes, place: int, losses: pd.Series, interval: Interval, colour: str) -> None:
    """An arm's interval in the line ``place``, its folds below it, its mean in figures at the
    right."""
    half = interval.high - interval.mean
    error = [half] if math.isfinite(half) else None
    axes.errorbar(
        [interval.mean],
        [place],
        xerr=error,
        fmt="|",
        color=colour,
        markersize=15,
        capsize=4,
        linewidth=2,
        markeredgewidth=2,
        zorder=4,
    )
    below = (
        place + 0.18 + 0.07 * (np.arange(len(losses)) % 3)
    )  # in three rows, so that few dots meet
    axes.plot(losses, below, "o", color=colour, alpha=0.55, markersize=4, markeredgewidth=0)
    axes.annotate(
        plus_minus(interval),
        (1, place),
        xycoords=("axes fraction", "data"),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=MUTED,
        fontsize=9,
        annotation_clip=False,
    )


def _in_view(value: float, others: NDArray[np.float64]) -> bool:
    """A default that is not so far off that it would press all else together."""
    low, high = float(others.min()), float(others.max())
    room = 2 * max(high - low, 0.2 * abs(high))
    return low - room <= value <= high + room


def _said(best: str, near: list[str], apart: list[str]) -> str:
    parts = []
    if near:
        parts.append(
            f"{best}'s interval overlaps {'that' if len(near) == 1 else 'those'} of {listed(near)}"
        )
    if apart:
        verb = "lies" if len(apart) == 1 else "lie"
        parts.append(
            f"{listed(apart)} {verb} apart from {best}"
            if near
            else f"{best}'s interval lies apart from all others"
        )
    return f"{'; '.join(parts)}." if parts else ""


# --- the best of n -------------------------------------------------------------------------------


def best_of_n(comparison: Comparison) -> Figure | None:
    """The expected best loss of k search trials, arm by arm, the defaults beside; None without a
    completed trial."""
    tried = {arm: comparison.search_losses(arm) for arm in comparison.arms}
    losses = {arm: found for arm, found in tried.items() if np.isfinite(found).any()}
    if not losses:
        return None
    colour = arm_colours(comparison)
    curves = {arm: expected_best(found) for arm, found in losses.items()}
    defaults = {arm: comparison.default_loss(arm) for arm in curves}

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for arm, (curve, low, high) in curves.items():
            k = np.arange(1, len(curve) + 1)
            seen = np.isfinite(curve)
            top = np.where(np.isfinite(high), high, 1e12)
            axes.fill_between(
                k[seen], low[seen], top[seen], color=colour[arm], alpha=0.13, linewidth=0
            )
            axes.plot(
                k[seen], curve[seen], color=colour[arm], linewidth=2, marker="o", markersize=3
            )
        expected = np.concatenate([curve[np.isfinite(curve)] for curve, _, _ in curves.values()])
        given = {arm: default for arm, default in defaults.items() if default is not None}
        near = {arm: default for arm, default in given.items() if _in_view(default, expected)}
        for arm, default in near.items():
            axes.plot(
                0,
                default,
                "D",
                markersize=6,
                markeredgecolor=colour[arm],
                markerfacecolor="none",
                zorder=4,
            )
        for line, arm in enumerate([arm for arm in given if arm not in near]):
            axes.annotate(
                f"{digits(given[arm], 3)} {'↑' if given[arm] > expected.max() else '↓'}",
                (0, 0.95 - 0.07 * line),
                xycoords=("data", "axes fraction"),
                ha="center",
                color=colour[arm],
                fontsize=9,
            )
        fit_losses(axes, [*expected, *near.values()])
        label_ends(axes, [(curve[-1], arm, colour[arm]) for arm, (curve, _, _) in curves.items()])
        whole_ticks(axes)
        axes.set(
            xlabel="search trials, drawn at random (0: the default, untuned)",
            ylabel=f"expected best {LOSS}",
        )

    alt = "; ".join(
        f"{arm}: {digits(curve[-1])} after {len(curve)} trials"
        for arm, (curve, _, _) in curves.items()
    )
    caption = _best_of_n_caption(curves, defaults, losses)
    if comparison.sampler == "qmc":
        caption += (
            " The trials fill the space more evenly than independent draws would, so the curve is"
            " approximate."
        )
    return draw(
        "best-of-n", "What a search of k trials can be expected to find", caption, alt, plot
    )


def _best_of_n_caption(
    curves: Mapping[str, tuple[NDArray[np.float64], ...]],
    defaults: Mapping[str, float | None],
    losses: Mapping[str, NDArray[np.float64]],
) -> str:
    told = []
    for arm, (curve, _, _) in curves.items():
        if (default := defaults[arm]) is not None:
            below = np.flatnonzero(curve < default)  # NaN is not below
            when = f"from {plural(int(below[0]) + 1, 'trial')} on" if len(below) else "never"
            told.append(f"{arm} {when}")
    text = (
        "The curve is the unbiased expected lowest loss of k trials, the band its 95\u00a0%"
        " bootstrap interval (too narrow near the right end, where few trials decide). "
    )
    if told:
        text += f"A search can be expected to beat the default (diamond): {listed(told)}. "
    failed = {
        arm: int(np.isinf(found).sum()) for arm, found in losses.items() if np.isinf(found).any()
    }
    if failed:
        counts = listed([f"{count} of {arm}'s" for arm, count in failed.items()])
        text += (
            f"Failed trials ({counts}) are draws that never win; a curve begins where not all"
            " draws can have failed."
        )
    return text.strip()


# --- learning curves -----------------------------------------------------------------------------


def learning_curves(comparison: Comparison, target: float | None) -> Figure | None:
    """The tuned winners' loss over epochs, mean and standard error over repeats and folds; None
    before any repeat."""
    bands = {arm: _band(rows) for arm, rows in comparison.curves.groupby("arm", sort=False)}
    if not bands:
        return None
    colour = arm_colours(comparison)

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        for arm, band in bands.items():
            low, high = band["mean"] - band["error"], band["mean"] + band["error"]
            axes.fill_between(band.index, low, high, color=colour[arm], alpha=0.18, linewidth=0)
            axes.plot(
                band.index, band["mean"], color=colour[arm], linewidth=2, marker="o", markersize=3
            )
        fit_losses(axes, np.concatenate([band["mean"].to_numpy() for band in bands.values()]))
        if target is not None:
            axes.axhline(target, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                "target",
                (0.005, target),
                xycoords=("axes fraction", "data"),
                xytext=(0, -3),
                textcoords="offset points",
                color=MUTED,
                fontsize=8.5,
                va="top",
            )
        label_ends(
            axes, [(band["mean"].iloc[-1], arm, colour[arm]) for arm, band in bands.items()]
        )
        whole_ticks(axes)
        axes.set(xlabel="epoch", ylabel=f"{LOSS}, mean over folds")

    first = min(bands, key=lambda arm: bands[arm]["mean"].iloc[0])
    last = min(bands, key=lambda arm: bands[arm]["mean"].iloc[-1])
    counts = {int(band["count"].max()) for band in bands.values()}
    count = f"{'up to ' if len(counts) > 1 else ''}{plural(max(counts), 'fold')}"
    caption = f"Mean over {count} (every fold of every repeat), the band one standard error. "
    end = max(int(band.index.max()) for band in bands.values())
    if first == last:
        caption += (
            f"{first} is lowest after the first epoch and after the last."
            if len(bands) > 1
            else ""
        )
    else:
        caption += f"{first} is lowest after the first epoch, {last} after epoch {end}."
    alt = "; ".join(
        f"{arm} ends at {digits(band['mean'].iloc[-1])}" for arm, band in bands.items()
    )
    return draw(
        "learning-curves", "Learning curves of the tuned optimizers", caption.strip(), alt, plot
    )


def _band(rows: pd.DataFrame) -> pd.DataFrame:
    """``mean``, ``error`` and ``count`` by epoch; a fold that ended before the others keeps its
    last loss."""
    wide = (
        rows.pivot_table(index="epoch", columns=["repeat", "fold"], values="val_loss")
        .sort_index()
        .ffill()
    )
    count = wide.count(axis=1)
    error = (wide.std(axis=1, ddof=1) / np.sqrt(count)).fillna(0.0)
    return pd.DataFrame({"mean": wide.mean(axis=1), "error": error, "count": count})
