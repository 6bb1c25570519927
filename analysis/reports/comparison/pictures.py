"""Learning rates and reconstructions of an optimizer comparison: what was tried, and what came of
it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from foldrace.analysis.records.comparison import Comparison
from foldrace.analysis.reports.axes import fit_losses, log_ticks
from foldrace.analysis.reports.comparison.curves import LOSS, arm_colours
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import INK, MUTED
from foldrace.analysis.text import digits, listed, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["learning_rates", "reconstructions"]

_WITHIN = 0.2
_FEW = 3


# --- sensitivity to the learning rate ------------------------------------------------------------


def learning_rates(comparison: Comparison) -> Figure | None:
    """Loss over learning rate of all search trials, a panel an arm; None without a trial that has
    both."""
    colour = arm_colours(comparison)
    tried = comparison.trials[comparison.trials["phase"].isin(["default", "search"])]
    tried = tried.assign(lr=pd.to_numeric(tried.get("params.lr"), errors="coerce"))
    tried = tried[tried["lr"] > 0]
    done = tried[(tried["status"] == "completed") & tried["val_loss"].notna()]
    if not len(done):
        return None
    arms = [arm for arm in comparison.arms if (tried["arm"] == arm).any()]
    columns = min(2, len(arms))
    lines = math.ceil(len(arms) / columns)

    def plot(canvas: Canvas) -> None:
        grid = canvas.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        first = grid[0][0]
        first.set(xscale="log", xlim=(tried["lr"].min() / 1.6, tried["lr"].max() * 1.6))
        log_ticks(first, "x")
        fit_losses(first, done["val_loss"])
        for axes, arm in zip(grid.flat, arms, strict=False):
            _rates(axes, tried[tried["arm"] == arm], colour[arm])
            axes.set_title(arm, color=colour[arm])
        for axes in grid.flat[len(arms) :]:
            axes.set_axis_off()
            grid[-2][-1].tick_params(labelbottom=True)  # which has no panel below it
        canvas.supxlabel("learning rate", fontsize=9.5, color=MUTED)
        canvas.supylabel(f"{LOSS} (mean over folds)", fontsize=9.5, color=MUTED)

    caption = "A dot is a search trial, the hollow diamond the default, the ring the best. "
    caption += _rates_caption(comparison, tried, arms)
    alt = f"Loss over learning rate for {listed(arms)}"
    size = (7.2, 0.6 + 2.1 * lines)
    return draw(
        "learning-rates", "How much the learning rate matters", caption, alt, plot, size=size
    )


def _rates(axes: Axes, rows: pd.DataFrame, colour: str) -> None:
    done = rows[(rows["status"] == "completed") & rows["val_loss"].notna()]
    search, default = done[done["phase"] == "search"], done[done["phase"] == "default"]
    axes.plot(
        search["lr"],
        search["val_loss"],
        "o",
        color=colour,
        alpha=0.75,
        markersize=5,
        markeredgewidth=0,
    )
    axes.plot(
        default["lr"],
        default["val_loss"],
        "D",
        markersize=7,
        markeredgecolor=colour,
        markerfacecolor="none",
    )
    if len(done):
        best = done.sort_values("val_loss").iloc[0]
        axes.plot(
            best["lr"],
            best["val_loss"],
            "o",
            markersize=11,
            markeredgecolor=INK,
            markerfacecolor="none",
        )
    failed = rows[rows["status"] == "failed"]["lr"]
    if len(failed):
        top = axes.get_xaxis_transform()
        [crosses] = axes.plot(
            failed,
            [0.97] * len(failed),
            "x",
            color=colour,
            transform=top,
            markersize=6,
            clip_on=False,
        )
        crosses.set_in_layout(False)


def _rates_caption(comparison: Comparison, tried: pd.DataFrame, arms: list[str]) -> str:
    told = []
    for arm in arms:
        rows = tried[
            (tried["arm"] == arm) & (tried["phase"] == "search") & (tried["status"] == "completed")
        ]
        best = rows["val_loss"].min()
        near = rows[rows["val_loss"] <= best + _WITHIN * abs(best)]["lr"]
        if len(rows) < _FEW:
            continue
        if len(near) > 1:
            told.append(
                f"{arm} from {near.min():.2g} to {near.max():.2g} (a factor of"
                f" {digits(near.max() / near.min(), 2)})"
            )
        elif len(near):
            told.append(f"{arm} at {near.min():.2g} alone")
    text = (
        f"Within {_WITHIN:.0%} of its own best loss: {'; '.join(told)}.".replace("%", "\u00a0%")
        if told
        else ""
    )
    edges = [
        f"{arm}'s best, {rate:.3g}, lies at the {edge} end"
        for arm, (rate, edge) in comparison.at_edge.items()
    ]
    if edges:
        text += f" {'; '.join(edges)} of the rates allowed: a wider space might do better."
    failed = int((tried["status"] == "failed").sum())
    return text + (
        f" Crosses at the top edge: {plural(failed, 'failed trial')}." if failed else ""
    )


# --- reconstructions -----------------------------------------------------------------------------


def reconstructions(comparison: Comparison) -> Figure | None:
    """The same test images through every arm's tuned model, the originals on top; None if there
    are no pictures."""
    kept = comparison.reconstructions
    if kept is None or not len(kept.images):
        return None
    colour = arm_colours(comparison)
    rows = [("original", kept.images, INK)]
    rows += [(arm, images, colour.get(arm, INK)) for arm, images in kept.by_arm.items()]
    count, _, height, width = kept.images.shape
    cell = min(0.62, 6.2 / count)

    def plot(canvas: Canvas) -> None:
        for axes, (label, images, colour) in zip(
            canvas.subplots(len(rows), 1, squeeze=False).flat, rows, strict=True
        ):
            axes.imshow(_strip(images), interpolation="none", aspect="equal")
            axes.set(xticks=[], yticks=[], facecolor="none")
            axes.spines[:].set_visible(False)
            axes.set_ylabel(
                label, rotation=0, ha="right", va="center", color=colour, fontweight="bold"
            )

    errors = {arm: _mse(kept.images, images) for arm, images in kept.by_arm.items()}
    told = listed(
        [
            f"{arm} {digits(error, 3)}"
            for arm, error in sorted(errors.items(), key=lambda item: item[1])
        ]
    )
    caption = (
        f"The same {plural(count, 'test image')} through the tuned models. Mean squared error of"
        f" these: {told}."
    )
    alt = f"Originals, and their reconstructions by {listed(list(kept.by_arm))}"
    size = (7.2, 0.2 + len(rows) * (cell * height / width + 0.06))
    return draw(
        "reconstructions", "The same test images, reconstructed", caption, alt, plot, size=size
    )


def _mse(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> float:
    return float(np.mean(((images.astype(float) - others) / 255) ** 2))


def _strip(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(M, C, H, W) → (h, w, 4): side by side, transparent gaps between, enlarged so that no viewer
    smooths them."""
    count, channels, height, width = images.shape
    coloured = np.repeat(images, 3, axis=1) if channels == 1 else images[:, :3]
    cells = np.concatenate([coloured, np.full((count, 1, height, width), 255, np.uint8)], axis=1)
    cells = np.pad(cells, ((0, 0), (0, 0), (0, 0), (0, max(1, width // 14))))
    strip = cells.transpose(2, 0, 3, 1).reshape(height, -1, 4)
    times = max(1, 112 // height)
    enlarged: NDArray[np.uint8] = strip.repeat(times, axis=0).repeat(times, axis=1)
    return enlarged
