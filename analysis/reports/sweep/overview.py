"""A sweep in one picture: who was given up when, who won with which error bar, and what the winner
sees."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from foldrace.analysis.records.sweep import last_strip
from foldrace.analysis.records.tables import (
    fold_losses,
    number,
    ranking,
    trial_curves,
    trials_table,
)
from foldrace.analysis.reports.axes import fit_losses, whole_ticks
from foldrace.analysis.reports.style import BLUE, GREY, ORANGE, figure_style
from foldrace.analysis.reports.sweep.figures import LOG_FROM
from foldrace.search.text import params_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["Overview", "draw_overview", "log_overview", "read_overview"]

_SHOWN_BEST = 8
_SHOWN_CURVES = 200


@dataclass(frozen=True)
class Overview:
    """What the picture shows.

    Attributes:
        trials: a row a trial, see `foldrace.analysis.records.tables.trials_table`.
        curves: by trial: ``epoch``, ``val_loss``, ``val_loss_se``.
        folds: by completed trial: each fold's objective.
        strip: (H, W, 3) uint8, originals above reconstructions of the winner's fold 0; None if
            there is none.
    """

    name: str
    trials: pd.DataFrame
    curves: dict[int, pd.DataFrame]
    folds: dict[int, list[float]]
    strip: NDArray[np.uint8] | None

    @property
    def ranking(self) -> pd.DataFrame:
        """Completed trials, the best first."""
        return ranking(self.trials)


def read_overview(client: MlflowClient, run: Run) -> Overview:
    """What the picture needs, of the sweep with this run."""
    trials = trials_table(client, run)
    seen = trials[trials["val_loss"].notna()].sort_values("val_loss").head(_SHOWN_CURVES)
    curves = trial_curves(client, run, seen["trial"])
    overview = Overview(run.data.tags["foldrace.sweep"], trials, curves, {}, None)
    best = overview.ranking.head(_SHOWN_BEST)
    folds = {int(row.trial): fold_losses(client, run, int(row.trial)) for row in best.itertuples()}
    strip = _pixels(last_strip(client, best.iloc[0]["run_id"])) if len(best) else None
    return Overview(overview.name, trials, curves, folds, strip)


def _pixels(png: bytes | None) -> NDArray[np.uint8] | None:
    from PIL import Image

    if png is None:
        return None
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def draw_overview(overview: Overview, path: Path) -> None:
    """Writes the picture; its format follows from the name."""
    with figure_style():
        import matplotlib.pyplot as plt

        has_strip = overview.strip is not None
        figure = plt.figure(figsize=(11, 5.6 if has_strip else 4.2), layout="constrained")
        grid = figure.add_gridspec(
            2 if has_strip else 1, 2, height_ratios=(3.6, 1) if has_strip else None
        )
        figure.suptitle(_headline(overview), x=0.01, ha="left", fontsize=11.5, fontweight="bold")
        _draw_curves(figure.add_subplot(grid[0, 0]), overview)
        _draw_ranking(figure.add_subplot(grid[0, 1]), overview)
        if overview.strip is not None:
            axes = figure.add_subplot(grid[1, :])
            axes.imshow(overview.strip, interpolation="nearest")
            axes.set_axis_off()
            axes.set_anchor("W")
            axes.set_title("Validation images of fold 0, and how the winner reconstructs them")
        figure.savefig(path)
        plt.close(figure)


def _headline(overview: Overview) -> str:
    counts = overview.trials["status"].value_counts()
    given_up, failed, total = (
        int(counts.get("pruned", 0)),
        int(counts.get("failed", 0)),
        len(overview.trials),
    )
    tail = f"of {total} trials {given_up} given up early" if given_up else f"{total} trials"
    tail += f", {failed} failed" if failed else ""
    if not len(overview.ranking):
        return f"{overview.name}: no trial was evaluated to the end ({tail})"
    best = overview.ranking.iloc[0]
    error = f" ± {best['val_loss_se']:.5f}" if math.isfinite(best["val_loss_se"]) else ""
    return (
        f"{overview.name}: trial {best['trial']} is best, with a CV loss of"
        f" {best['val_loss']:.5f}{error}; {tail}"
    )


def _draw_curves(axes: Axes, overview: Overview) -> None:
    statuses = dict(zip(overview.trials["trial"], overview.trials["status"], strict=True))
    winner = int(overview.ranking.iloc[0]["trial"]) if len(overview.ranking) else None
    for trial, curve in overview.curves.items():
        finite = curve[np.isfinite(curve["val_loss"])]
        completed = statuses[trial] == "completed"
        colour, width = (
            (ORANGE, 2.2) if trial == winner else (BLUE, 1.1) if completed else (GREY, 0.9)
        )
        order = 4 if trial == winner else 3 if completed else 2
        alpha = 1.0 if trial == winner or len(overview.curves) < 25 else 0.6
        axes.plot(
            finite["epoch"],
            finite["val_loss"],
            color=colour,
            linewidth=width,
            alpha=alpha,
            zorder=order,
        )
        if not completed and len(finite):
            last = finite.iloc[-1]
            axes.plot(last["epoch"], last["val_loss"], "o", color=GREY, markersize=3, zorder=order)
        if trial == winner:
            low, high = (
                finite["val_loss"] + sign * finite["val_loss_se"].fillna(0) for sign in (-1, 1)
            )
            axes.fill_between(
                finite["epoch"], low, high, color=ORANGE, alpha=0.2, linewidth=0, zorder=1
            )
    shown = [loss for curve in overview.curves.values() for loss in curve["val_loss"]]
    if winner is not None:
        best = overview.curves[winner]
        shown += list(best["val_loss"] - best["val_loss_se"].fillna(0))
    fit_losses(axes, shown, LOG_FROM)
    axes.set(xlabel="epoch", ylabel="validation loss, mean over its folds")
    axes.set_title("Learning curves, ended where a trial was given up")
    whole_ticks(axes)
    keys = [
        ("winner ± standard error", ORANGE),
        ("evaluated to the end", BLUE),
        ("given up or failed", GREY),
    ]
    drawn = {line.get_color() for line in axes.get_lines()}
    for place, (text, colour) in enumerate(key for key in keys if key[1] in drawn):
        axes.text(
            0.98,
            0.97 - 0.07 * place,
            text,
            color=colour,
            transform=axes.transAxes,
            ha="right",
            va="top",
            zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )


def _draw_ranking(axes: Axes, overview: Overview) -> None:
    best = overview.ranking.head(_SHOWN_BEST)
    axes.set_title("To the end: folds (dots), mean ± standard error")
    for place, row in enumerate(best.itertuples()):
        colour = ORANGE if place == 0 else BLUE
        folds = overview.folds.get(int(row.trial), [])
        axes.plot(folds, [place] * len(folds), "o", color=colour, alpha=0.35, markersize=4)
        note = axes.annotate(
            _described(overview, row.trial),
            (0.01, place),
            xycoords=("axes fraction", "data"),
            fontsize=6.5,
            xytext=(0, -11),
            textcoords="offset points",
            color="#555555",
            va="top",
        )
        note.set_in_layout(False)
        error = row.val_loss_se if math.isfinite(row.val_loss_se) else 0.0
        axes.errorbar(
            row.val_loss,
            place,
            xerr=error,
            fmt="|",
            color=colour,
            capsize=4,
            markersize=11,
            linewidth=2,
        )
    axes.set_yticks(range(len(best)), [f"trial {trial}" for trial in best["trial"]])
    axes.set_ylim(max(len(best), 3) - 0.35, -0.5)
    axes.set(xlabel="validation loss")
    axes.grid(axis="y", visible=False)
    axes.locator_params(axis="x", nbins=5)


def _described(overview: Overview, trial: int) -> str:
    """The parameters that vary among all trials, of one of them."""
    table = overview.trials  # a parameter that some trials do not have varies too
    names = [
        c for c in table.columns if c.startswith("params.") and table[c].nunique(dropna=False) > 1
    ]
    row = overview.trials.set_index("trial").loc[trial]
    given = {
        name.removeprefix("params."): number(row[name])
        for name in names
        if isinstance(row[name], str)
    }
    return params_text(given)


def log_overview(client: MlflowClient, run_id: str, folder: Path) -> Path:
    """Draws the picture of the sweep with this run into a folder and logs it to the run; returns
    its path."""
    path = folder / "overview.png"
    draw_overview(read_overview(client, client.get_run(run_id)), path)
    client.log_artifact(run_id, str(path))
    return path
