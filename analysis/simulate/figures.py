"""Figures of a simulation: regret against cost, and the gain of more workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.reports.axes import label_ends, log_ticks
from foldrace.analysis.reports.marks import band, label
from foldrace.analysis.reports.style import BLUE, MUTED, ORANGE, PALETTE, figure_style
from foldrace.analysis.simulate.simulator import PolicyResult, Simulation, quartiles
from foldrace.analysis.text import plural
from foldrace.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["draw_regret", "draw_scaling"]

_COLOURS = {
    "default": ORANGE,
    "promotion-lockstep": BLUE,
    "stopping-lockstep": PALETTE[2],
    "fifo": MUTED,
}
_OTHERS = (PALETTE[3], PALETTE[4], PALETTE[5], PALETTE[6], PALETTE[8], PALETTE[9])
_SPAN = 3000  # the largest regret shown to the smallest


@dataclass(frozen=True)
class _Line:
    """A policy's curve in percent: share of the cost, mean regret, half its 95 % interval."""

    share: NDArray[np.float64]
    regret: NDArray[np.float64]
    error: NDArray[np.float64]

    @classmethod
    def of(cls, result: PolicyResult, cost: int) -> _Line:
        """From the first completion to the end of the longest sweep."""
        curve = result.regret_curve
        started = np.flatnonzero(curve.mean != curve.mean[0])
        first = int(started[0]) if len(started) else 0
        end = result.total_fold_epochs.max()
        last = int(np.searchsorted(curve.fold_epochs, end, side="right"))
        kept = slice(max(0, min(first, last - 2)), last)
        error = 1.96 * curve.error[kept]
        return cls(100 * curve.fold_epochs[kept] / cost, 100 * curve.mean[kept], 100 * error)

    @property
    def area(self) -> float:
        """The area below the curve, over the logarithm of the share as drawn."""
        return float(np.trapezoid(self.regret, np.log(self.share)))


def draw_regret(simulation: Simulation, folder: Path) -> list[Path]:
    """Writes ``regret.png`` and ``.svg``: mean regret against fold-epochs, a curve a policy.

    Raises:
        InputError: the folder cannot be written to.
    """
    count, folds, epochs = simulation.curves.shape
    cost = count * folds * epochs
    lines = {name: _Line.of(result, cost) for name, result in simulation.policies.items()}
    positive = [value for line in lines.values() for value in line.regret if value > 0]
    top = max(positive, default=1.0) * 1.3
    floor = min(max(top / _SPAN, min(positive, default=1.0) / 1.5), top / 13)
    start = min(float(line.share[0]) for line in lines.values())
    colours = _colours(simulation)

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        axes.set(xscale="log", yscale="log", xlim=(start, 100), ylim=(floor, top))
        for name, line in lines.items():
            low, high = (
                np.maximum(line.regret + sign * line.error, floor / 50) for sign in (-1, 1)
            )
            band(axes, line.share, low, high, colours[name], alpha=0.15)
            regret = np.maximum(line.regret, floor / 50)
            axes.plot(line.share, regret, color=colours[name], linewidth=_width(name))
        _name_lines(axes, lines, colours, floor, middle=float(np.sqrt(start * 100)))
        log_ticks(axes, "x")
        log_ticks(axes, "y")
        axes.set(
            xlabel="fold-epochs spent, % of full cross-validation",
            ylabel="mean regret of the best completed trial, %",
        )
        setting = _setting(simulation) + "; bands: 95 % intervals of the mean"
        _head(canvas, axes, _headline(simulation), setting)

    return _save(plot, folder, "regret", (7.6, 4.3))


def draw_scaling(scaling: Mapping[int, Simulation], folder: Path) -> list[Path]:
    """Writes ``scaling.png`` and ``.svg``: time and cost until a top-3 configuration completed.

    Args:
        scaling: by the number of workers.

    Raises:
        InputError: the folder cannot be written to.
    """
    one = next(iter(scaling.values()))

    def plot(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2)
        _scaling_panel(left, scaling, "seconds_to_top", "virtual seconds")
        ends = _scaling_panel(right, scaling, "fold_epochs_to_top", "fold-epochs")
        label_ends(right, ends)
        count, workers = len(one.curves.loss), list(scaling)
        if min(workers) < count < max(workers):
            for axes in (left, right):
                axes.axvline(count, color=MUTED, linewidth=0.9, linestyle=":")
            options = {"rotation": 90, "ha": "right", "va": "top", "fontsize": 8, "color": MUTED}
            at = ("data", "axes fraction")
            text = "one for each configuration"
            label(left, text, (count, 1), (-3, -3), xycoords=at, **options)
        setting = _setting(one, workers=False) + "; medians, bands: quartiles"
        _head(canvas, left, "Until one of the three best has completed", setting)

    return _save(plot, folder, "scaling", (9.6, 4.2))


def _scaling_panel(
    axes: Axes, scaling: Mapping[int, Simulation], measure: str, title: str
) -> list[tuple[float, str, str]]:
    """Draws a measure of each policy over the workers; returns the curves' ends for labels."""
    one = next(iter(scaling.values()))
    workers, colours = np.array(list(scaling), dtype=np.float64), _colours(one)
    ends = []
    axes.set(xscale="log", yscale="log", xlim=(workers.min(), workers.max()))
    for name in one.policies:
        spreads = [quartiles(getattr(each.policies[name], measure)) for each in scaling.values()]
        low, median, high = np.where(np.isfinite(spreads), spreads, np.nan).T
        if name in ("default", "fifo"):
            band(axes, workers, low, high, colours[name], alpha=0.13)
        options: dict[str, Any] = {"markersize": 3.5, "linewidth": _width(name), "clip_on": False}
        axes.plot(workers, median, "-o", color=colours[name], **options)
        if np.isfinite(median[-1]):
            ends.append((float(median[-1]), name, colours[name]))
    log_ticks(axes, "y")
    axes.set_xticks(workers, [f"{count:g}" for count in workers])
    axes.set(xlabel="workers", ylabel=title)
    return ends


def _colours(simulation: Simulation) -> dict[str, str]:
    others = [name for name in simulation.policies if name not in _COLOURS]
    return _COLOURS | {name: _OTHERS[at % len(_OTHERS)] for at, name in enumerate(others)}


def _width(name: str) -> float:
    return 2.8 if name == "default" else 1.8


def _name_lines(
    axes: Axes, lines: Mapping[str, _Line], colours: Mapping[str, str], floor: float, middle: float
) -> None:
    """Names each curve beside it, at heights of their own so that no two names overlap."""
    by_area = sorted(lines, key=lambda name: lines[name].area)
    worst = lines[by_area[-1]]
    highest = max(float(np.interp(middle, worst.share, worst.regret)), floor * 5)
    levels = np.geomspace(floor * 2.5, highest, len(lines)).tolist()
    for place, (name, level) in enumerate(zip(by_area, levels, strict=True)):
        _name_line(axes, name, colours[name], lines[name], level, left=place < len(lines) / 2)


def _name_line(
    axes: Axes, name: str, colour: str, line: _Line, level: float, *, left: bool
) -> None:
    from matplotlib.patheffects import withStroke

    below = line.regret <= level
    at = int(np.argmax(below)) if below.any() else len(below) - 1
    label(
        axes,
        name,
        (line.share[at], max(line.regret[at], level)),
        (-7, 0) if left else (7, 6),
        color=colour,
        fontsize=9,
        fontweight="bold",
        ha="right" if left else "left",
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )


def _head(canvas: Canvas, axes: Axes, headline: str, setting: str) -> None:
    """The finding as a title, and the simulation's setting below it in small print."""
    canvas.suptitle(headline, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    axes.set_title(setting, fontsize=8.5, color=MUTED, fontweight="normal")


def _headline(simulation: Simulation) -> str:
    def median(name: str) -> float:
        result = simulation.policies.get(name)
        return np.inf if result is None else float(quartiles(result.fold_epochs_to_top)[1])

    reached, factors = median("default"), []
    for name, text in (("fifo", "full cross-validation"), ("stopping-lockstep", "ASHA")):
        if np.isfinite(reached) and 1.05 <= (factor := median(name) / reached) < np.inf:
            factors.append(f"{factor:.1f} × sooner than {text}")
    return f"A top-3 configuration {', '.join(factors)}" if factors else "Regret against cost"


def _setting(simulation: Simulation, workers: bool = True) -> str:
    count, folds, epochs = simulation.curves.shape
    text = f"{count} configurations × {folds} folds × {epochs} epochs"
    text += f", {simulation.orders:,} random orders"
    return text + (f", {plural(simulation.workers, 'worker')}" if workers else "")


def _save(
    plot: Callable[[Canvas], None], folder: Path, name: str, size: tuple[float, float]
) -> list[Path]:
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with figure_style():
        from matplotlib.figure import Figure as Canvas

        canvas = Canvas(figsize=size, layout="constrained")
        plot(canvas)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            canvas.savefig(paths[0], dpi=200)
            canvas.savefig(paths[1], metadata={"Date": None})
        except OSError as error:
            rule = f"cannot be written to: {error.strerror}"
            raise InputError("--output", str(folder), rule) from error
    return paths
