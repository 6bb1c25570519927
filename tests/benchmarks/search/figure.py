"""The figure of the search benchmark: the best loss so far against time and fold-epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foldrace.analysis.reports.axes import fit_losses
from foldrace.analysis.reports.style import BLUE, MUTED, ORANGE, figure_style

if TYPE_CHECKING:
    from tests.benchmarks.search.run import Run

__all__ = ["draw_benchmark"]

_NAMES = {"foldrace": "foldrace", "tune": "Ray Tune, ASHA", "optuna": "Optuna, full CV"}
_COLOURS = {"foldrace": ORANGE, "tune": BLUE, "optuna": MUTED}


def draw_benchmark(runs: Sequence[Run], path: Path) -> None:
    """Writes the figure; the file's suffix says in which format."""
    with figure_style():
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.9), sharey=True, layout="constrained")
        seeds = len({run.seed for run in runs})
        figure.suptitle(
            f"Best cross-validated loss so far, {seeds} seeds, two workers",
            x=0.01,
            ha="left",
            fontweight="bold",
        )
        for axes, what in zip(panels, ("seconds", "fold_epochs"), strict=True):
            for run in runs:
                _line(axes, run, what)
            axes.set(xlim=(0, None))
        fit_losses(
            panels[0],
            [step.loss for run in runs for step in run.steps if step.loss is not None],
            4,
        )
        panels[0].set(
            xlabel="seconds, the start included",
            ylabel="loss of the best configuration, all folds",
        )
        panels[1].set(xlabel="fold-epochs")
        for place, (side, name) in enumerate(_NAMES.items()):
            panels[1].text(
                0.97,
                0.95 - 0.085 * place,
                name,
                color=_COLOURS[side],
                transform=panels[1].transAxes,
                ha="right",
                va="top",
                fontweight="bold",
            )
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _line(axes: object, run: Run, what: str) -> None:
    """A step at each better loss, and on to the end of the run."""
    x: list[float] = []
    y: list[float] = []
    for step in run.steps:
        if step.loss is not None and (not y or step.loss < y[-1]):
            x.append(getattr(step, what))
            y.append(step.loss)
    end = run.seconds if what == "seconds" else run.steps[-1].fold_epochs
    axes.step(
        [*x, end], [*y, y[-1]], where="post", color=_COLOURS[run.side], linewidth=1.8, alpha=0.85
    )  # type: ignore[attr-defined]
    axes.plot(end, y[-1], "o", color=_COLOURS[run.side], markersize=4)  # type: ignore[attr-defined]
