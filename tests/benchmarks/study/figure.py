"""The figure of the study benchmark: time and test error of each side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foldrace.analysis.reports.style import INK, MUTED, ORANGE, figure_style
from tests.benchmarks.spread import Spread

if TYPE_CHECKING:
    from tests.benchmarks.study.run import Run

__all__ = ["draw_study"]


def draw_study(runs: Sequence[Run], path: Path) -> None:
    """Writes the figure: a dot per run, bars for the means."""
    sides = sorted(
        {run.side for run in runs},
        key=lambda side: -Spread.of([r.seconds for r in runs if r.side is side]).mean,
    )
    with figure_style():
        import matplotlib.pyplot as plt

        figure, (times, errors) = plt.subplots(
            1, 2, figsize=(9.6, 2.6), width_ratios=[1.6, 1], sharey=True, layout="constrained"
        )
        for place, side in enumerate(sides):
            own = [run for run in runs if run.side is side]
            colour = MUTED if side == "notebook" else ORANGE
            seconds = [run.seconds for run in own]
            mean = Spread.of(seconds).mean
            times.barh(place, mean, height=0.5, color=colour, alpha=0.35)
            times.plot(seconds, [place] * len(own), "o", color=colour, markersize=4.5)
            counts = {run.fold_epochs for run in own}
            spent = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
            times.annotate(
                f"{mean:,.0f} s, {spent} fold-epochs",
                (max(seconds), place),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                color=INK,
            )
            errors.plot(
                [run.test_mse for run in own],
                [place] * len(own),
                "o",
                color=colour,
                markersize=4.5,
            )
        times.set(
            title="Seconds from start to tested model",
            xlim=(0, 1.6 * max(run.seconds for run in runs)),
        )
        times.set_yticks(range(len(sides)), sides)
        times.invert_yaxis()
        errors.set(title="Test MSE of the refit")
        errors.margins(x=0.2)
        for panel in (times, errors):
            panel.grid(axis="y", visible=False)
        figure.savefig(path, dpi=150)
        plt.close(figure)
