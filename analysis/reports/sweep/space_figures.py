"""Figures of a sweep's search space: importance, slices and parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.reports.axes import fit_losses, in_own_sign, key, log_ticks
from foldrace.analysis.reports.marks import label, rows
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import BLUE, GREY, INK, MUTED, ORANGE, PAPER
from foldrace.analysis.reports.sweep.panels import LOG_FROM
from foldrace.analysis.statistics.importance import FEW, Importance
from foldrace.analysis.text import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from foldrace.analysis.records.sweep import SearchedParameter, SweepRecord

__all__ = ["importances", "parallel_coordinates", "slices"]

_ABSENT = -0.16


def importances(found: Importance, metric: str) -> Figure:
    """Bars of both measures of what matters for a metric, with the level that chance reaches."""
    names = sorted(found.best, key=lambda name: _sort_key(found, name))

    def plot(canvas: Canvas) -> None:
        panels = canvas.subplots(1, 2 if found.overall else 1, sharey=True, squeeze=False)[0]
        if found.overall:
            _plot_overall(panels[0], found, names, metric)
        _plot_best(panels[-1], found, names)
        for panel in panels:
            rows(panel, names, low=0.5, high=0.5)
            panel.invert_yaxis()
            panel.set_xlim(0, 1.16)
            panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "50 %", "", "100 %"])

    left = f"Left: fANOVA over the {found.completed} completed trials. Right: "
    few = f" With fewer than {FEW} trials the order may change with the next few."
    shares = ", ".join(f"{name} {percent(found.best[name])}" for name in reversed(names))
    return draw(
        "importance",
        "What mattered",
        f"{left if found.overall else ''}PED-ANOVA over {found.trials} trials; pruned and failed"
        " ones count as worse. Orange: the level that a parameter without any effect stays below"
        " in 95 of 100 such sweeps; grey bars do not reach it. If the search settles on a value"
        " early, that value no longer sets the later trials apart."
        f"{few if found.trials < FEW else ''}",
        f"Importance of each parameter for being among the best: {shares}.",
        plot,
        size=(7.2, 1.1 + 0.34 * max(len(names), 2)),
    )


def _sort_key(found: Importance, name: str) -> tuple[bool, float]:
    return name in found.telling, max(found.best[name], found.overall.get(name, 0.0))


def _plot_overall(axes: Axes, found: Importance, names: Sequence[str], metric: str) -> None:
    axes.set_title(f"What explains the {metric} overall")
    for place, name in enumerate(names):
        share = found.overall.get(name, 0.0)
        axes.barh(place, share, color=BLUE, height=0.55)
        if name in found.overall:
            label(axes, percent(share), (share, place), (4, 0), color=INK, fontsize=9)
        else:
            label(axes, "not in every trial", (0, place), (4, 0), color=MUTED, fontsize=9)


def _plot_best(axes: Axes, found: Importance, names: Sequence[str]) -> None:
    axes.set_title(f"What sets the best {found.best_count} apart")
    for place, name in enumerate(names):
        share, chance = found.best[name], found.chance[name]
        axes.barh(place, share, color=BLUE if share > chance else GREY, height=0.55)
        axes.plot([chance, chance], [place - 0.36, place + 0.36], color=ORANGE, linewidth=1.6)
        at = (max(share, chance), place)
        label(axes, percent(share), at, (4, 0), color=INK, fontsize=9)


def slices(record: SweepRecord, parameters: Sequence[SearchedParameter]) -> Figure:
    """The loss against each parameter, a panel each."""
    columns = 2 if len(parameters) == 4 else min(len(parameters), 3)
    lines = math.ceil(len(parameters) / columns)
    seen, name = record.trials[record.trials["val_loss"].notna()], record.objective.name
    losses = dict(zip(seen["trial"], seen["val_loss"], strict=True))
    statuses = dict(zip(seen["trial"], seen["status"], strict=True))
    failed = set(map(int, record.trials["trial"][record.trials["status"] == "failed"]))
    failed -= set(losses)
    crosses = f" Crosses at the top edge: failed trials without any {name}." if failed else ""

    def plot(canvas: Canvas) -> None:
        grid = canvas.subplots(lines, columns, sharey=True, squeeze=False)
        for axes in grid.flat[len(parameters) :]:
            axes.set_visible(False)
        for axes, parameter in zip(grid.flat, parameters, strict=False):
            _slice(axes, parameter, losses, statuses, record.best_trial)
            _failed(axes, parameter, failed)
            axes.set_xlabel(parameter.name, color=INK)
        fit_losses(grid[0, 0], losses.values(), LOG_FROM)
        in_own_sign(grid[0, 0], "y", record.objective)
        for line in grid:
            line[0].set_ylabel(f"validation {name}")
        best = (
            [("best trial", ORANGE), ("completed", BLUE)] if record.best_trial is not None else []
        )
        others = [("not completed", MUTED)] if set(statuses.values()) - {"completed"} else []
        canvas.suptitle(" ", fontsize=9)  # makes room for the key
        key(grid[0, 0], [*best, *others], beyond=True)

    return draw(
        "slices",
        f"{name.capitalize()} against each parameter",
        "A dot a trial. A pruned trial is shown with its last value, after fewer epochs than the"
        " others. Where the best trials lie at the edge of a range, a wider range may do"
        f" better.{crosses}",
        f"Validation {name} against "
        + ", ".join(parameter.name for parameter in parameters)
        + ".",
        plot,
        size=(7.2, 0.5 + 2.1 * lines),
    )


def _slice(
    axes: Axes,
    parameter: SearchedParameter,
    losses: dict[int, float],
    statuses: dict[int, str],
    best_trial: int | None,
) -> None:
    trials = [trial for trial in parameter.values if trial in losses]
    for trial, x in zip(trials, _places(parameter, trials, jitter=0.18), strict=True):
        if trial == best_trial:
            colour, size, edge, order = ORANGE, 7.0, PAPER, 4
        elif statuses[trial] == "completed":
            colour, size, edge, order = BLUE, 4.5, "none", 3
        else:
            colour, size, edge, order = GREY, 4.0, "none", 2
        look: dict[str, Any] = {
            "markersize": size,
            "markeredgecolor": edge,
            "zorder": order,
            "alpha": 0.85,
        }
        axes.plot(x, losses[trial], "o", color=colour, **look)
    if parameter.categories:
        axes.set_xticks(range(len(parameter.categories)), parameter.categories)
        axes.set_xlim(-0.6, len(parameter.categories) - 0.4)
        axes.grid(axis="x", visible=False)
        if sum(map(len, parameter.categories)) > 18:
            axes.tick_params(axis="x", labelrotation=35)
    elif parameter.logarithmic:
        axes.set_xscale("log")
        values = [float(value) for value in parameter.values.values()]
        axes.set_xlim(min(values) / 1.15, max(values) * 1.15)
        log_ticks(axes, "x", room=0.5)
    else:
        axes.locator_params(axis="x", nbins=5)


def _failed(axes: Axes, parameter: SearchedParameter, failed: set[int]) -> None:
    trials = [trial for trial in parameter.values if trial in failed]
    if trials:  # an empty line that is not clipped would reach to the figure's corner
        places, top = _places(parameter, trials, jitter=0.18), axes.get_xaxis_transform()
        look: dict[str, Any] = {
            "color": MUTED,
            "markersize": 4,
            "clip_on": False,
            "transform": top,
        }
        axes.plot(places, [1.0] * len(trials), "x", **look)


def _places(
    parameter: SearchedParameter, trials: Sequence[int], jitter: float
) -> NDArray[np.float64]:
    """The trials' places on the parameter's axis; within a category they are spread a little."""
    if not parameter.categories:
        return np.array([float(parameter.values[trial]) for trial in trials])
    spread = (np.arange(len(trials)) * 0.618034) % 1 * 2 - 1
    at = [parameter.categories.index(str(parameter.values[trial])) for trial in trials]
    places: NDArray[np.float64] = np.array(at, dtype=float) + jitter * spread
    return places


def parallel_coordinates(record: SweepRecord, parameters: Sequence[SearchedParameter]) -> Figure:
    """Every trial as a line through its parameters to its loss."""
    best = [int(trial) for trial in record.ranking["trial"]]
    others = [int(trial) for trial in record.trials["trial"] if trial not in best]
    heights = [_heights(parameter) for parameter in parameters]
    losses = _unit(record.ranking["val_loss"].to_numpy(float))
    absent = any(trial not in height for height in heights for trial in (*best, *others))

    def plot(canvas: Canvas) -> None:
        axes = canvas.subplots()
        at = np.arange(len(parameters) + 1)
        for trial in others:
            line = [height.get(trial, _ABSENT) for height in heights]
            axes.plot(at[:-1], line, color=GREY, linewidth=0.7, alpha=0.6)
        for place, trial in reversed(list(enumerate(best))):
            line = [*(height.get(trial, _ABSENT) for height in heights), losses[place]]
            strength = max(0.12, 1 - 1.4 * place / max(12, len(best) - 1))
            if place == 0:
                axes.plot(at, line, color=ORANGE, linewidth=2.4, zorder=4)
            else:
                axes.plot(at, line, color=BLUE, linewidth=1.2, alpha=strength, zorder=3)
        for x, parameter in enumerate(parameters):
            _rule(axes, x, parameter.name, _marks(parameter))
        low, high = map(record.objective.score, record.ranking["val_loss"].iloc[[0, -1]])
        _rule(
            axes,
            len(parameters),
            record.objective.name,
            [(f"{low:.3g}", 0.0), (f"{high:.3g}", 1.0)],
        )
        if absent:
            look: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 8.5}
            axes.text(-0.04, _ABSENT, "not set", color=MUTED, **look)
        axes.set_xlim(-0.35, len(parameters) + 0.3)
        axes.set_ylim(_ABSENT - 0.06 if absent else -0.09, 1.15)
        axes.set_axis_off()

    return draw(
        "parallel-coordinates",
        "Every trial through its parameters",
        "One line per trial; better trials are drawn stronger; the best trial is orange. Where"
        " strong lines run together, the good trials have that value in common; where they fan"
        f" out, the parameter matters little.{' Grey: not completed.' if others else ''}",
        f"Parallel coordinates of {len(record.trials)} trials over {len(parameters)} parameters"
        f" and the {record.objective.name}.",
        plot,
        size=(7.2, 3.8),
    )


def _rule(axes: Axes, x: float, name: str, marks: Sequence[tuple[str, float]]) -> None:
    """A parameter's vertical axis with its name and marks."""
    axes.plot([x, x], [0, 1], color=MUTED, linewidth=0.8, zorder=2)
    axes.text(x, 1.08, name, ha="center", va="bottom", fontweight="bold", fontsize=9)
    box = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1}
    for text, height in marks:
        look: dict[str, Any] = {
            "va": "center",
            "fontsize": 8.5,
            "color": MUTED,
            "zorder": 6,
            "bbox": box,
        }
        axes.text(x + 0.03, height, text, **look)


def _heights(parameter: SearchedParameter) -> dict[int, float]:
    """By trial: where its line crosses the parameter's axis, from 0 to 1."""
    trials = list(parameter.values)
    if parameter.categories:
        places = _places(parameter, trials, jitter=0.06) / max(1, len(parameter.categories) - 1)
    else:
        values = np.array([float(parameter.values[trial]) for trial in trials])
        places = _unit(np.log10(values) if parameter.logarithmic else values)
    return dict(zip(trials, places.tolist(), strict=True))


def _marks(parameter: SearchedParameter) -> list[tuple[str, float]]:
    if parameter.categories:
        many = max(1, len(parameter.categories) - 1)
        return [(name, place / many) for place, name in enumerate(parameter.categories)]
    values = [float(value) for value in parameter.values.values()]
    return [(f"{min(values):.3g}", 0.0), (f"{max(values):.3g}", 1.0)]


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values scaled to 0 to 1; all 0 if they are equal."""
    width = np.ptp(values) if len(values) else 0.0
    return (values - values.min()) / width if width else np.zeros(len(values))
