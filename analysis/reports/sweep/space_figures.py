"""Pictures of what a sweep says about its space: importance, slices, parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.reports.axes import fit_losses, key, log_ticks
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import BLUE, GREY, INK, MUTED, ORANGE, PAPER
from foldrace.analysis.reports.sweep.figures import LOG_FROM
from foldrace.analysis.statistics.importance import FEW, Importance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from foldrace.analysis.records.sweep import SearchedParameter, SweepRecord

__all__ = ["importances", "parallel_coordinates", "slices"]

_ABSENT = -0.16


def importances(found: Importance) -> Figure:
    """Bars of both measures, with what chance would reach."""
    names = sorted(
        found.best,
        key=lambda name: (
            name in found.telling,
            max(found.best[name], found.overall.get(name, 0.0)),
        ),
    )

    def plot(canvas: Canvas) -> None:
        panels = canvas.subplots(1, 2 if found.overall else 1, sharey=True, squeeze=False)[0]
        for place, name in enumerate(names):
            share, chance = found.best[name], found.chance[name]
            panels[-1].barh(place, share, color=BLUE if share > chance else GREY, height=0.55)
            panels[-1].plot(
                [chance, chance], [place - 0.36, place + 0.36], color=ORANGE, linewidth=1.6
            )
            _value(panels[-1], max(share, chance), place, f"{share:.0%}", INK)
            if found.overall:
                overall = found.overall.get(name, 0.0)
                panels[0].barh(place, overall, color=BLUE, height=0.55)
                text, colour = (
                    (f"{overall:.0%}", INK)
                    if name in found.overall
                    else ("not in every trial", MUTED)
                )
                _value(panels[0], overall, place, text, colour)
        panels[0].set_title("What explains the loss overall")
        panels[-1].set_title(f"What sets the best {found.best_count} apart")
        panels[0].set_yticks(range(len(names)), names)
        for panel in panels:
            panel.set_xlim(0, 1.16)
            panel.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "50 %", "", "100 %"])
            panel.tick_params(axis="y", length=0)
            panel.grid(axis="y", visible=False)

    left = (
        f"Left: fANOVA over the {found.completed} trials evaluated to the end. Right: "
        if found.overall
        else ""
    )
    few = (
        f" With fewer than {FEW} trials the order may change with the next few."
        if found.trials < FEW
        else ""
    )
    shares = ", ".join(f"{name} {found.best[name]:.0%}" for name in reversed(names))
    return draw(
        "importance",
        "What mattered",
        f"{left}PED-ANOVA over {found.trials} trials, those given up or failed counted as worse;"
        " orange: what a parameter that does nothing stays below in 95 of 100 such sweeps; grey"
        " bars do not pass it. A value that the search settled on early sets nothing apart"
        f" later.{few}",
        f"Importance of each parameter for being among the best: {shares}.",
        plot,
        size=(7.2, 1.1 + 0.34 * max(len(names), 2)),
    )


def _value(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    axes.annotate(
        text.replace("%", " %"),
        (x, y),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        color=colour,
    )


def slices(record: SweepRecord, parameters: Sequence[SearchedParameter]) -> Figure:
    """Loss against each parameter."""
    columns = 2 if len(parameters) == 4 else min(len(parameters), 3)
    rows = math.ceil(len(parameters) / columns)
    seen = record.trials[record.trials["val_loss"].notna()]
    losses = dict(zip(seen["trial"], seen["val_loss"], strict=True))
    statuses = dict(zip(seen["trial"], seen["status"], strict=True))
    failed = {
        int(trial) for trial in record.trials["trial"][record.trials["status"] == "failed"]
    } - set(losses)
    crosses = " Crosses at the top edge: failed, so there is no loss." if failed else ""

    def plot(canvas: Canvas) -> None:
        grid = canvas.subplots(rows, columns, sharey=True, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(parameters):
                axes.set_visible(False)
                continue
            _slice(axes, parameters[place], losses, statuses, record.winner)
            _failed(axes, parameters[place], failed)
            axes.set_xlabel(parameters[place].name, color=INK)
        fit_losses(grid[0, 0], losses.values(), LOG_FROM)
        for row in grid:
            row[0].set_ylabel("validation loss")
        names = (
            [("leader", ORANGE), ("evaluated to the end", BLUE)]
            if record.winner is not None
            else []
        )
        names += [("not to the end", MUTED)] if set(statuses.values()) - {"completed"} else []
        canvas.suptitle(" ", fontsize=9)
        key(grid[0, 0], names, beyond=True)

    return draw(
        "slices",
        "Loss against each parameter",
        "A dot a trial. A trial that was given up is shown with its loss then, after fewer epochs"
        " than the others. Leaders at the edge of a range say that the range should be"
        f" wider.{crosses}",
        "Validation loss against " + ", ".join(parameter.name for parameter in parameters) + ".",
        plot,
        size=(7.2, 0.5 + 2.1 * rows),
    )


def _slice(
    axes: Axes,
    parameter: SearchedParameter,
    losses: dict[int, float],
    statuses: dict[int, str],
    winner: int | None,
) -> None:
    trials = [trial for trial in parameter.values if trial in losses]
    places = _places(parameter, trials, jitter=0.18)
    for trial, x in zip(trials, places, strict=True):
        best, done = trial == winner, statuses[trial] == "completed"
        colour, size = (ORANGE, 7.0) if best else (BLUE, 4.5) if done else (GREY, 4.0)
        edge = PAPER if best else "none"
        order = 4 if best else 3 if done else 2
        axes.plot(
            x,
            losses[trial],
            "o",
            color=colour,
            markersize=size,
            alpha=0.85,
            zorder=order,
            markeredgecolor=edge,
        )
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
    places = _places(
        parameter, [trial for trial in parameter.values if trial in failed], jitter=0.18
    )
    if not len(places):  # an empty line that is not clipped would claim the figure's corner
        return
    top = axes.get_xaxis_transform()
    axes.plot(
        places, [1.0] * len(places), "x", color=MUTED, markersize=4, transform=top, clip_on=False
    )


def _places(
    parameter: SearchedParameter, trials: Sequence[int], jitter: float
) -> NDArray[np.float64]:
    """Where the trials stand on the parameter's axis; those of one category spread a little,
    always the same way."""
    if not parameter.categories:
        return np.array([float(parameter.values[trial]) for trial in trials])
    spread = (np.arange(len(trials)) * 0.618034) % 1 * 2 - 1
    at = [parameter.categories.index(str(parameter.values[trial])) for trial in trials]
    places: NDArray[np.float64] = np.array(at, dtype=float) + jitter * spread
    return places


def parallel_coordinates(record: SweepRecord, parameters: Sequence[SearchedParameter]) -> Figure:
    """Every trial as a line through all parameters to its loss."""
    best = [int(trial) for trial in record.ranking["trial"]]
    others = [int(trial) for trial in record.trials["trial"] if trial not in best]
    heights = [_heights(parameter) for parameter in parameters]
    losses = _unit(record.ranking["val_loss"].to_numpy(float))
    unfinished = " Grey: not evaluated to the end." if others else ""
    absent = any(
        trial not in parameter.values for parameter in parameters for trial in (*best, *others)
    )

    def plot(canvas: Canvas) -> None:
        axes = canvas.subplots()
        at = np.arange(len(parameters) + 1)
        for trial in others:
            axes.plot(
                at[:-1],
                [height.get(trial, _ABSENT) for height in heights],
                color=GREY,
                linewidth=0.7,
                alpha=0.6,
            )
        for place, trial in reversed(list(enumerate(best))):
            line = [*(height.get(trial, _ABSENT) for height in heights), losses[place]]
            strength = max(0.12, 1 - 1.4 * place / max(12, len(best) - 1))
            if place == 0:
                axes.plot(at, line, color=ORANGE, linewidth=2.4, zorder=4)
            else:
                axes.plot(at, line, color=BLUE, linewidth=1.2, alpha=strength, zorder=3)
        for x, parameter in enumerate(parameters):
            _rule(axes, x, parameter.name, _marks(parameter))
        ends = record.ranking["val_loss"].iloc[[0, -1]]
        _rule(
            axes,
            len(parameters),
            "loss",
            [(f"{ends.iloc[0]:.3g}", 0.0), (f"{ends.iloc[1]:.3g}", 1.0)],
        )
        if absent:
            axes.text(
                -0.04, _ABSENT, "not there", color=MUTED, ha="right", va="center", fontsize=8.5
            )
        axes.set_xlim(-0.35, len(parameters) + 0.3)
        axes.set_ylim(_ABSENT - 0.06 if absent else -0.09, 1.15)
        axes.set_axis_off()

    return draw(
        "parallel-coordinates",
        "Every trial through its parameters",
        "A line a trial, the stronger the better its loss; the leader is orange. Strong lines"
        " that run together show what good trials share; where they fan out the parameter matters"
        f" little.{unfinished}",
        f"Parallel coordinates of {len(record.trials)} trials over {len(parameters)} parameters"
        " and the loss.",
        plot,
        size=(7.2, 3.8),
    )


def _rule(axes: Axes, x: float, name: str, marks: Sequence[tuple[str, float]]) -> None:
    axes.plot([x, x], [0, 1], color=MUTED, linewidth=0.8, zorder=2)
    axes.text(x, 1.08, name, ha="center", va="bottom", fontweight="bold", fontsize=9)
    for text, height in marks:
        axes.text(
            x + 0.03,
            height,
            text,
            va="center",
            fontsize=8.5,
            color=MUTED,
            zorder=6,
            bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )


def _scaled(parameter: SearchedParameter, value: float) -> float:
    return math.log10(value) if parameter.logarithmic else value


def _heights(parameter: SearchedParameter) -> dict[int, float]:
    """By trial: where its line crosses the parameter's axis, from 0 to 1."""
    trials = list(parameter.values)
    if parameter.categories:
        places = _places(parameter, trials, jitter=0.06) / max(1, len(parameter.categories) - 1)
    else:
        places = _unit(
            np.array([_scaled(parameter, float(parameter.values[trial])) for trial in trials])
        )
    return dict(zip(trials, places.tolist(), strict=True))


def _marks(parameter: SearchedParameter) -> list[tuple[str, float]]:
    if parameter.categories:
        many = max(1, len(parameter.categories) - 1)
        return [(name, place / many) for place, name in enumerate(parameter.categories)]
    values = [float(value) for value in parameter.values.values()]
    return [(f"{min(values):.3g}", 0.0), (f"{max(values):.3g}", 1.0)]


def _unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spread from 0 to 1; all 0 where they are equal."""
    width = np.ptp(values) if len(values) else 0.0
    return (values - values.min()) / width if width else np.zeros(len(values))
