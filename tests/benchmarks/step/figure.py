"""The figure of the step benchmark: a dot per round, a bar at their mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foldrace.analysis.reports.style import BLUE, GREY, INK, MUTED, ORANGE, figure_style
from tests.benchmarks.spread import Spread
from tests.benchmarks.step.sides import Side
from tests.benchmarks.step.summary import Measured, Measurement, values

__all__ = ["draw_step"]

_COLOURS = {Side.OURS: ORANGE, Side.MEMORY: BLUE, Side.NOTEBOOK: MUTED}
_NAMES = {Side.OURS: "foldrace", Side.MEMORY: "a tensor in memory", Side.NOTEBOOK: "the notebook"}


def draw_step(measurements: Sequence[Measurement], flop: float, path: Path) -> None:
    """Writes the figure: rates against the machine's limit, and ratios to the rivals.

    Args:
        flop: floating-point operations per image, forward and backward.
    """
    sizes = sorted({one.batch_size for one in measurements} - {0})
    pair = bool(values(measurements, Measured.ALONE, batch_size=sizes[-1]))
    with figure_style():
        import matplotlib.pyplot as plt

        widths = [2.2, 1.0, 1.0] if pair else [2.2, 1.0]
        figure, panels = plt.subplots(
            1,
            len(widths),
            figsize=(9.6 if pair else 7.6, 3.9),
            width_ratios=widths,
            layout="constrained",
        )
        _rates(panels[0], measurements, sizes, flop)
        _ratios(
            panels[1],
            measurements,
            sizes,
            (Measured.TRAIN, Side.OURS),
            (Measured.TRAIN, Side.NOTEBOOK),
        )
        panels[1].set(title="Times the notebook", ylim=(0, 1.12 * panels[1].dataLim.y1))
        panels[1].axhline(1, color=MUTED, linewidth=0.8)
        if pair:
            _ratios(
                panels[2],
                measurements,
                sizes,
                (Measured.SIDE_BY_SIDE, Side.OURS),
                (Measured.ALONE, Side.OURS),
            )
            panels[2].set(
                title="Two processes / one", ylim=(0, max(2.3, 1.12 * panels[2].dataLim.y1))
            )
            panels[2].axhline(2, color=MUTED, linewidth=0.8)
        for panel in panels:
            panel.set(xlabel="batch size", xlim=(-0.6, len(sizes) - 0.4))
            panel.set_xticks(range(len(sizes)), [str(size) for size in sizes])
            panel.grid(axis="x", visible=False)
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _rates(
    axes: Any, measurements: Sequence[Measurement], sizes: Sequence[int], flop: float
) -> None:
    limits = [value / flop for value in values(measurements, Measured.MATRIX_FLOPS)]
    limit = Spread.of(limits).mean
    axes.axhline(limit, color=GREY, linestyle=(0, (4, 3)))
    text = "matrix products alone, at this machine's best"
    axes.annotate(
        text,
        (len(sizes) - 0.45, limit),
        xytext=(0, -4),
        textcoords="offset points",
        color=MUTED,
        ha="right",
        va="top",
    )
    for place, side in enumerate(Side):
        for x, size in enumerate(sizes):
            _dots(
                axes,
                x + 0.22 * (place - 1),
                values(measurements, Measured.TRAIN, side, size),
                _COLOURS[side],
                0.16,
            )
        axes.text(
            0.02,
            0.8 - 0.075 * place,
            _NAMES[side],
            color=_COLOURS[side],
            transform=axes.transAxes,
            fontweight="bold",
        )
    axes.set(title="Images a second in training", ylim=(0, 1.08 * limit))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _ratios(
    axes: Any,
    measurements: Sequence[Measurement],
    sizes: Sequence[int],
    above: tuple[Measured, Side],
    below: tuple[Measured, Side],
) -> None:
    for x, size in enumerate(sizes):
        pairs = zip(
            values(measurements, *above, size), values(measurements, *below, size), strict=True
        )
        ratios = [one / other for one, other in pairs]
        mean = _dots(axes, x, ratios, ORANGE, 0.3)
        axes.annotate(
            f"{mean:.2f}",
            (x, min(ratios)),
            xytext=(0, -6),
            textcoords="offset points",
            color=INK,
            ha="center",
            va="top",
            fontweight="bold",
        )


def _dots(axes: Any, x: float, found: Sequence[float], colour: str, width: float) -> float:
    """Draws a dot per round and a bar at the mean; returns the mean."""
    mean = Spread.of(found).mean
    axes.plot(
        [x] * len(found), found, "o", color=colour, markersize=4, alpha=0.45, markeredgewidth=0
    )
    axes.plot([x - width / 2, x + width / 2], [mean, mean], color=colour, linewidth=2.4)
    return mean
