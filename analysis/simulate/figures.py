"""Pictures of a simulation: regret against cost, and what more workers bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.reports.axes import label_ends, log_ticks
from foldrace.analysis.reports.style import BLUE, MUTED, ORANGE, PALETTE, figure_style
from foldrace.analysis.simulate.simulator import PolicyResult, Simulation
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


def draw_regret(simulation: Simulation, folder: Path) -> list[Path]:
    """Writes ``regret.png`` and ``.svg``: the mean regret against the fold-epochs spent, a line a
    policy.

    Raises: InputError if the folder cannot be written to.
    """
    count, folds, epochs = simulation.curves.shape
    cost = count * folds * epochs
    lines = {name: _line(result, cost) for name, result in simulation.policies.items()}
    positive = [value for line in lines.values() for value in line.regret if value > 0]
    top = max(positive, default=1.0) * 1.3
    floor = min(max(top / _SPAN, min(positive, default=1.0) / 1.5), top / 13)
    start = min(float(line.share[0]) for line in lines.values())

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        axes.set(xscale="log", yscale="log", xlim=(start, 100), ylim=(floor, top))
        colours = _colours(simulation)
        for name, line in lines.items():
            low, high = (
                np.maximum(line.regret + sign * line.error, floor / 50) for sign in (-1, 1)
            )
            axes.fill_between(line.share, low, high, color=colours[name], alpha=0.15, linewidth=0)
            regret, width = np.maximum(line.regret, floor / 50), 2.8 if name == "default" else 1.8
            axes.plot(line.share, regret, color=colours[name], linewidth=width)
        soonest = sorted(lines, key=lambda name: lines[name].area)
        middle = float(
            np.interp(np.sqrt(start * 100), lines[soonest[-1]].share, lines[soonest[-1]].regret)
        )
        levels = np.geomspace(floor * 2.5, max(middle, floor * 5), len(lines))
        for place, (name, level) in enumerate(zip(soonest, levels, strict=True)):
            _name_line(
                axes, name, colours[name], lines[name], float(level), left=place < len(lines) / 2
            )
        log_ticks(axes, "x")
        log_ticks(axes, "y")
        axes.set(
            xlabel="fold-epochs spent, % of full cross-validation",
            ylabel="mean regret of the winner, %",
        )
        _head(
            canvas,
            axes,
            _headline(simulation),
            _setting(simulation) + "; bands: 95 % intervals of the mean",
        )

    return _save(plot, folder, "regret", (7.6, 4.3))


def draw_scaling(scaling: Mapping[int, Simulation], folder: Path) -> list[Path]:
    """Writes ``scaling.png`` and ``.svg``: virtual time and fold-epochs until one of the three
    best is evaluated in full, by the number of workers.

    Raises: InputError if the folder cannot be written to.
    """
    one = next(iter(scaling.values()))
    count, workers = len(one.curves.loss), np.array(list(scaling), dtype=np.float64)
    colours = _colours(one)
    measures = ("seconds_to_top", "virtual seconds"), ("fold_epochs_to_top", "fold-epochs")

    def plot(canvas: Canvas) -> None:
        for axes, (measure, title) in zip(canvas.subplots(1, 2), measures, strict=True):
            ends = []
            axes.set(xscale="log", yscale="log", xlim=(workers.min(), workers.max()))
            for name in one.policies:
                spreads = [
                    _quartiles(getattr(simulation.policies[name], measure))
                    for simulation in scaling.values()
                ]
                low, median, high = np.where(np.isfinite(spreads), spreads, np.nan).T
                if name in ("default", "fifo"):
                    axes.fill_between(
                        workers, low, high, color=colours[name], alpha=0.13, linewidth=0
                    )
                width = 2.8 if name == "default" else 1.8
                axes.plot(
                    workers,
                    median,
                    "-o",
                    color=colours[name],
                    markersize=3.5,
                    linewidth=width,
                    clip_on=False,
                )
                if np.isfinite(median[-1]):
                    ends.append((float(median[-1]), name, colours[name]))
            log_ticks(axes, "y")
            axes.set_xticks(workers, [f"{count:g}" for count in workers])
            axes.set(xlabel="workers", ylabel=title)
            if workers.min() < count < workers.max():
                axes.axvline(count, color=MUTED, linewidth=0.9, linestyle=":")
            if axes is canvas.axes[0] and workers.min() < count < workers.max():
                axes.annotate(
                    "one for each configuration",
                    (count, 1),
                    xycoords=("data", "axes fraction"),
                    xytext=(-3, -3),
                    textcoords="offset points",
                    rotation=90,
                    ha="right",
                    va="top",
                    fontsize=8,
                    color=MUTED,
                )
            if measure == "fold_epochs_to_top":
                label_ends(axes, ends)
        setting = _setting(one, workers=False) + "; medians, bands: quartiles"
        _head(canvas, canvas.axes[0], "Until one of the three best is evaluated in full", setting)

    return _save(plot, folder, "scaling", (9.6, 4.2))


def _colours(simulation: Simulation) -> dict[str, str]:
    others = [name for name in simulation.policies if name not in _COLOURS]
    return _COLOURS | {name: _OTHERS[at % len(_OTHERS)] for at, name in enumerate(others)}


def _quartiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.quantile(values, (0.25, 0.5, 0.75), method="lower"), dtype=np.float64)


@dataclass(frozen=True)
class _Line:
    """A policy on the picture, in percent: share of the cost, mean regret, half the width of its
    95 % interval."""

    share: NDArray[np.float64]
    regret: NDArray[np.float64]
    error: NDArray[np.float64]

    @property
    def area(self) -> float:
        """How much regret there is on the way, on the picture's scale."""
        return float(np.trapezoid(self.regret, np.log(self.share)))


def _line(result: PolicyResult, cost: int) -> _Line:
    """From the first arrival to the end of the longest sweep."""
    path = result.path
    started = np.flatnonzero(path.mean != path.mean[0])
    first = int(started[0]) if len(started) else 0
    last = int(np.searchsorted(path.fold_epochs, result.total_fold_epochs.max(), side="right"))
    kept = slice(max(0, min(first, last - 2)), last)
    error = 1.96 * path.error[kept]
    return _Line(100 * path.fold_epochs[kept] / cost, 100 * path.mean[kept], 100 * error)


def _name_line(
    axes: Axes, name: str, colour: str, line: _Line, level: float, *, left: bool
) -> None:
    """The policy's name beside its line, at a height of its own."""
    from matplotlib.patheffects import withStroke

    below = line.regret <= level
    at = int(np.argmax(below)) if below.any() else len(below) - 1
    axes.annotate(
        name,
        (line.share[at], max(line.regret[at], level)),
        xytext=(-7 if left else 7, 0 if left else 6),
        textcoords="offset points",
        color=colour,
        fontsize=9,
        fontweight="bold",
        va="center",
        ha="right" if left else "left",
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )


def _head(canvas: Canvas, axes: Axes, headline: str, setting: str) -> None:
    """What the picture says, and below it in small what it was made of."""
    canvas.suptitle(headline, x=0.01, ha="left", fontsize=11.5, fontweight="bold")
    axes.set_title(setting, fontsize=8.5, color=MUTED, fontweight="normal")


def _headline(simulation: Simulation) -> str:
    ours = simulation.policies.get("default")
    reached = np.inf if ours is None else _quartiles(ours.fold_epochs_to_top)[1]
    if not np.isfinite(reached):
        return "Regret against cost"
    factors = []
    for name, told in (("fifo", "full cross-validation"), ("stopping-lockstep", "ASHA")):
        if name in simulation.policies:
            factor = _quartiles(simulation.policies[name].fold_epochs_to_top)[1] / reached
            factors += (
                [f"{factor:.1f} × sooner than {told}"]
                if np.isfinite(factor) and factor >= 1.05
                else []
            )
    return f"A top-3 configuration {', '.join(factors)}" if factors else "Regret against cost"


def _setting(simulation: Simulation, workers: bool = True) -> str:
    count, folds, epochs = simulation.curves.shape
    text = (
        f"{count} configurations × {folds} folds × {epochs} epochs, {simulation.orders:,} random"
        " orders"
    )
    return text + (
        f", {simulation.workers} worker{'s' if simulation.workers > 1 else ''}" if workers else ""
    )


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
            raise InputError(
                "--output", str(folder), f"cannot be written to: {error.strerror}"
            ) from error
    return paths
