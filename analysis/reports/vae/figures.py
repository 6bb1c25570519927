"""Figures of the VAE report: the parts of the ELBO over trials, epochs and dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from foldrace.analysis.records.vae import VaeRecord
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import BLUE, GREY, GRID, INK, MUTED, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["bound_over_epochs", "kl_per_dimension", "rate_distortion"]

_LINES = 6


def rate_distortion(record: VaeRecord) -> Figure | None:
    """Squared error against KL of each trial; None without a trial that has both."""
    trials = record.trials
    if not {"val_kl", "val_squared_error"} <= set(trials.columns):
        return None
    seen = trials[trials["status"].isin(["completed", "pruned"])].dropna(
        subset=["val_kl", "val_squared_error"]
    )
    if not len(seen):
        return None
    betas = pd.to_numeric(seen.get("params.beta", pd.Series(1.0, seen.index)), errors="coerce")
    varying = betas.nunique() > 1
    caption = (
        "Each point is a trial, with its means over the folds: the KL term is the rate, the cost"
        " of a code; the squared error is the distortion. Filled: completed; hollow: pruned."
        " Dashed: equal squared error + KL."
    )
    if varying:
        caption += (
            " The colour is the β that the trial was trained with: a small β gives less distortion"
            " for more nats."
        )

    def plot(figure: Canvas) -> None:
        axes = figure.add_subplot()
        x, y = seen["val_kl"].to_numpy(float), seen["val_squared_error"].to_numpy(float)
        _limits(axes, x, y)
        _equal_sums(axes)
        colours = _beta_colours(figure, axes, betas) if varying else [BLUE] * len(seen)
        for kl, error, status, colour in zip(x, y, seen["status"], colours, strict=True):
            face = colour if status == "completed" else "none"
            axes.plot(
                kl,
                error,
                "o",
                markersize=7,
                markerfacecolor=face,
                markeredgecolor=colour,
                zorder=3,
            )
        _name_best(axes, record, seen)
        axes.set(
            xlabel="rate: KL, nats per image", ylabel="distortion: squared error, sum per image"
        )

    alt = f"Scatter of squared error against KL for {len(seen)} trials"
    return draw(
        "rate-distortion",
        "Rate and distortion of every trial",
        caption,
        alt,
        plot,
        size=(7.2, 4.2),
    )


def _limits(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    for values, apply in ((x, axes.set_xlim), (y, axes.set_ylim)):
        low, high = float(values.min()), float(values.max())
        room = 0.14 * (high - low) or 0.1 * abs(high) or 1.0
        apply(max(low - room, 0.0), high + room)


def _equal_sums(axes: Axes) -> None:
    """Dashed lines of equal squared error + KL, labelled at the upper or left edge."""
    from matplotlib.ticker import MaxNLocator

    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for total in MaxNLocator(_LINES).tick_values(left + low, right + high):
        ends = [
            (max(left, total - high), min(high, total - left)),
            (min(right, total - low), max(low, total - right)),
        ]
        (x0, y0), (x1, y1) = ends
        if x1 - x0 < 0.15 * (right - left):
            continue
        axes.plot([x0, x1], [y0, y1], "--", color=GREY, linewidth=0.8, zorder=1)
        axes.annotate(
            f"{total:g}",
            (x0, y0),
            xytext=(3, -1),
            textcoords="offset points",
            color=MUTED,
            fontsize=8,
            ha="left",
            va="bottom" if y0 < high else "top",
        )


def _beta_colours(figure: Canvas, axes: Axes, betas: pd.Series[float]) -> list[str]:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm, Normalize, to_hex
    from matplotlib.ticker import FuncFormatter

    low, high = float(betas.min()), float(betas.max())
    # the ends of the colour map are hard to see in one of the two themes
    both_themes = ListedColormap(colormaps["viridis"](np.linspace(0.25, 0.92, 256)))
    scale = ScalarMappable(LogNorm(low, high) if low > 0 else Normalize(low, high), both_themes)
    bar = figure.colorbar(
        scale, ax=axes, pad=0.01, aspect=30, format=FuncFormatter(lambda beta, _: f"{beta:g}")
    )
    bar.minorticks_off()
    if betas.nunique() <= _LINES:
        bar.set_ticks(sorted(betas.unique()))
    bar.set_label("β in training")
    bar.outline.set_visible(False)
    return [to_hex(scale.to_rgba(beta)) if math.isfinite(beta) else GREY for beta in betas]


def _name_best(axes: Axes, record: VaeRecord, seen: pd.DataFrame) -> None:
    best_trial = record.best_trial
    if best_trial is None or best_trial["trial"] not in set(seen["trial"]):
        return
    at = (float(best_trial["val_kl"]), float(best_trial["val_squared_error"]))
    axes.plot(
        *at,
        "o",
        markersize=13,
        markerfacecolor="none",
        markeredgecolor=ORANGE,
        markeredgewidth=2,
        zorder=4,
    )
    # below the point, where no trial can be: it would be better in both respects
    left = at[0] < np.mean(axes.get_xlim())
    axes.annotate(
        f"best: trial {best_trial['trial']}",
        at,
        xytext=(-8 if left else 8, -10),
        textcoords="offset points",
        color=ORANGE,
        ha="left" if left else "right",
        va="top",
        fontweight="bold",
        zorder=5,
    )


def bound_over_epochs(record: VaeRecord) -> Figure | None:
    """The best trial's negative ELBO and its two parts over epochs; None if not recorded."""
    curves, constant = record.curves, record.constant
    if not {"val_reconstruction", "val_kl"} <= set(curves.columns) or not len(curves):
        return None
    plain = "squared error" if record.variance == 0.5 else "reconstruction"
    titles = (plain, "KL", f"{plain} + KL")
    caption = (
        "Nats per image in validation: the line is the mean over the folds, the band is their"
        " range. Dashed: training, with dropout, averaged while the weights change."
    )
    if abs(constant) > 0.05:
        caption += f" The likelihood's constant, {constant:.1f} nats per image, is left out."

    def plot(figure: Canvas) -> None:
        from matplotlib.ticker import MaxNLocator

        for place, title in enumerate(titles):
            axes = figure.add_subplot(1, 3, place + 1)
            for side, line in (("train", _training), ("val", _band)):
                if {f"{side}_reconstruction", f"{side}_kl"} <= set(curves.columns):
                    parts = (curves[f"{side}_reconstruction"] - constant, curves[f"{side}_kl"])
                    values = (*parts, sum(parts))[place]
                    line(
                        axes,
                        curves[["fold", "epoch"]]
                        .assign(value=values)
                        .pivot(index="epoch", columns="fold"),
                    )
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.margins(y=0.15)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        figure.axes[0].set_ylabel("nats per image")

    alt = f"Three panels over epochs: {', '.join(titles)} of the best trial, with the folds' range"
    return draw(
        "bound-over-epochs",
        "The ELBO and its parts over the epochs of the best trial",
        caption,
        alt,
        plot,
    )


def _band(axes: Axes, folds: pd.DataFrame) -> None:
    """The mean and the range of the folds, one column per fold, indexed by epoch."""
    mean = folds.mean(axis=1)
    axes.fill_between(
        folds.index, folds.min(axis=1), folds.max(axis=1), color=BLUE, alpha=0.25, linewidth=0
    )
    axes.plot(
        folds.index, mean, "o-" if len(folds) < 8 else "-", color=BLUE, linewidth=2, markersize=4
    )
    axes.annotate(
        f"{mean.iloc[-1]:.2f}",
        (folds.index[-1], folds.iloc[-1].max()),
        xytext=(2, 5),
        textcoords="offset points",
        ha="right",
        color=BLUE,
        fontweight="bold",
    )


def _training(axes: Axes, folds: pd.DataFrame) -> None:
    axes.plot(folds.index, folds.mean(axis=1), "--", color=MUTED, linewidth=1.4)


def kl_per_dimension(record: VaeRecord) -> Figure | None:
    """The KL of each code dimension, the largest first, of the refitted model and the folds'."""
    refit = record.evidence.get("kl_per_dimension")
    if refit is None and not record.fold_kl.size:
        return None
    ranked = np.sort(record.fold_kl, axis=1)[:, ::-1]
    bars = np.asarray(refit if refit is not None else ranked.mean(0), float)
    order = np.argsort(-bars, kind="stable")
    active = np.asarray(record.evidence.get("active", np.ones(len(bars))), bool)
    what = (
        "the refitted model, by dimension"
        if refit is not None
        else "the mean over the best trial's fold models, by rank"
    )
    caption = f"Bars: {what}."
    if refit is not None and "active" in record.evidence:
        caption += (
            f" {int(active.sum())} of {len(bars)} units are active: their posterior mean varies by"
            " more than 0.01 over the test images (Burda et al., 2016). The decoder ignores the"
            " others, in grey."
        )
    if record.fold_kl.size:
        caption += (
            " Dots: each fold's model, sorted separately, because the dimensions of different"
            " models do not correspond."
        )

    plot = _kl_plot(bars[order], active[order], order if refit is not None else None, ranked)
    alt = (
        f"Bars of the KL of {len(bars)} code dimensions, from {bars.max():.2f} down to"
        f" {bars.min():.2f} nats"
    )
    return draw(
        "kl-per-dimension", "What each code dimension carries", caption, alt, plot, size=(7.2, 3.2)
    )


def _kl_plot(
    bars: NDArray[np.float64],
    active: NDArray[np.bool_],
    names: NDArray[np.int64] | None,
    folds: NDArray[np.float64],
) -> Callable[[Canvas], None]:
    def plot(figure: Canvas) -> None:
        axes = figure.add_subplot()
        places = np.arange(len(bars))
        axes.bar(places, bars, color=np.where(active, BLUE, GREY), width=0.7)
        for row in folds:
            axes.plot(row, "o", color=INK, markersize=3.5, markeredgecolor=GRID)
        if len(bars) <= 20:
            labels = (
                [str(1 + place) for place in places]
                if names is None
                else [f"z{name}" for name in names]
            )
            axes.set_xticks(
                places,
                [f"{label}\n{value:.2f}" for label, value in zip(labels, bars, strict=True)],
            )
        axes.set(
            xlabel="code dimension and its KL" if names is not None else "rank and mean KL",
            ylabel="KL, nats per image",
        )
        axes.grid(axis="x", visible=False)

    return plot
