"""A sweep in one figure: learning curves, the best trials, and reconstructions by the best."""

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
    artifact_text,
    fold_losses,
    parameter_texts,
    ranking,
    trial_curves,
    trials_table,
)
from foldrace.analysis.records.values import read_spec, read_values
from foldrace.analysis.reports.marks import label
from foldrace.analysis.reports.style import MUTED, figure_style
from foldrace.analysis.reports.sweep.panels import plot_best_trials, plot_learning_curves
from foldrace.search.recording.reader import recorded_objective
from foldrace.search.recording.schema import SPEC_FILE
from foldrace.search.spec.sweep_spec import SweepSpec
from foldrace.search.text import params_text
from foldrace.trainables.tasks.objective import LOSS, Objective

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["Overview", "draw_overview", "log_overview", "read_overview"]

_SHOWN_TRIALS = 8
_SHOWN_CURVES = 200


@dataclass(frozen=True)
class Overview:
    """What the figure shows.

    Attributes:
        trials: a row a trial, see `foldrace.analysis.records.tables.trials_table`.
        curves: by trial: ``epoch``, ``val_loss``, ``val_loss_se``.
        folds: by completed trial: each fold's objective.
        strip: (H, W, 3) uint8, originals above the best trial's reconstructions in fold 0; None
            if there is none.
    """

    name: str
    trials: pd.DataFrame
    curves: dict[int, pd.DataFrame]
    folds: dict[int, list[float]]
    strip: NDArray[np.uint8] | None
    spec: SweepSpec | None = None
    objective: Objective = LOSS

    @property
    def ranking(self) -> pd.DataFrame:
        """Completed trials, the best first."""
        return ranking(self.trials)


def read_overview(client: MlflowClient, run: Run) -> Overview:
    """Reads from MLflow what the figure of the sweep with this run shows."""
    trials = trials_table(client, run)
    seen = trials[trials["val_loss"].notna()].sort_values("val_loss").head(_SHOWN_CURVES)
    curves = trial_curves(client, run, seen["trial"])
    best = ranking(trials).head(_SHOWN_TRIALS)
    folds = {int(trial): fold_losses(client, run, int(trial)) for trial in best["trial"]}
    strip = _pixels(last_strip(client, best.iloc[0]["run_id"])) if len(best) else None
    spec = read_spec(artifact_text(client, run, SPEC_FILE))
    name, objective = run.data.tags["foldrace.sweep"], recorded_objective(run)
    return Overview(name, trials, curves, folds, strip, spec, objective)


def _pixels(png: bytes | None) -> NDArray[np.uint8] | None:
    from PIL import Image

    if png is None:
        return None
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def draw_overview(overview: Overview, path: Path) -> None:
    """Writes the figure; the file's suffix says in which format."""
    statuses = dict(zip(overview.trials["trial"], overview.trials["status"], strict=True))
    best = overview.ranking.head(_SHOWN_TRIALS)
    best_trial = int(best.iloc[0]["trial"]) if len(best) else None
    has_strip = overview.strip is not None
    with figure_style():
        from matplotlib.figure import Figure as Canvas

        canvas = Canvas(figsize=(11, 5.6 if has_strip else 4.2), layout="constrained")
        heights = (3.6, 1) if has_strip else (1,)
        grid = canvas.add_gridspec(len(heights), 2, height_ratios=heights)
        canvas.suptitle(_headline(overview), x=0.01, ha="left", fontsize=11.5, fontweight="bold")
        left, right = (canvas.add_subplot(grid[0, column]) for column in (0, 1))
        plot_learning_curves(left, overview.curves, statuses, best_trial, overview.objective)
        plot_best_trials(right, best, overview.folds, overview.objective)
        _note_parameters(right, overview, best)
        if overview.strip is not None:
            axes = canvas.add_subplot(grid[1, :])
            axes.imshow(overview.strip, interpolation="nearest")
            axes.set_axis_off()
            axes.set_anchor("W")
            axes.set_title("Validation images of fold 0, and the best trial's reconstructions")
        canvas.savefig(path)


def _headline(overview: Overview) -> str:
    counts = overview.trials["status"].value_counts()
    numbers = [f"{counts[status]} {status}" for status in ("pruned", "failed") if status in counts]
    total = f"{len(overview.trials)} trials"
    tail = f"of {total} {', '.join(numbers)}" if numbers else total
    if not len(overview.ranking):
        return f"{overview.name}: no trial has completed ({tail})"
    best = overview.ranking.iloc[0]
    error = f" ± {best['val_loss_se']:.5f}" if math.isfinite(best["val_loss_se"]) else ""
    return (
        f"{overview.name}: trial {best['trial']} is best, with a CV {overview.objective.name} of"
        f" {overview.objective.score(best['val_loss']):.5f}{error}; {tail}"
    )


def _note_parameters(axes: Axes, overview: Overview, best: pd.DataFrame) -> None:
    """Writes each trial's parameters below its row."""
    axes.set_title("Completed trials: mean ± standard error, folds as small dots")
    axes.set_ylim(max(len(best), 3) - 0.35, -0.5)
    axes.locator_params(axis="x", nbins=5)
    for place, trial in enumerate(best["trial"]):
        look = {"xycoords": ("axes fraction", "data"), "fontsize": 6.5, "color": MUTED}
        text = _varying_parameters(overview, trial)
        note = label(axes, text, (0.01, place), (0, -11), va="top", **look)
        note.set_in_layout(False)


def _varying_parameters(overview: Overview, trial: int) -> str:
    """A trial's values of the parameters that vary; one that some trials lack varies too."""
    table = overview.trials
    row = table.set_index("trial").loc[trial]
    texts = {
        name: text
        for name, text in parameter_texts(row).items()
        if table[f"params.{name}"].nunique(dropna=False) > 1
    }
    return params_text(read_values(texts, overview.spec))


def log_overview(client: MlflowClient, run_id: str, folder: Path) -> Path:
    """Draws the figure of the sweep with this run into a folder and logs it to the run.

    Returns:
        The figure's path.
    """
    path = folder / "overview.png"
    draw_overview(read_overview(client, client.get_run(run_id)), path)
    client.log_artifact(run_id, str(path))
    return path
