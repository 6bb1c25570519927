"""Tables of a simulation for the terminal, at most 100 columns wide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from foldrace.analysis.simulate.policies import POLICIES
from foldrace.analysis.simulate.simulator import (
    SHARES,
    PolicyResult,
    Simulation,
    quartiles,
    rank_correlations,
)
from foldrace.analysis.text import percent, plural
from foldrace.search.text import clock
from foldrace.trainables.training.ladder import Rung

__all__ = ["scaling_table", "simulation_tables"]

_BASELINES = ("fifo", "stopping-lockstep")
_NONE = "–"
_NO_WINNER = "°"
_SHOWN_WORKERS = (1, 4, 16, 64, 256, 512)


def simulation_tables(simulation: Simulation) -> list[Table]:
    """The cost of finding a top-3 configuration, the regret, and the rungs' rank correlations."""
    return [_cost_to_top(simulation), _regret(simulation), _rungs(simulation)]


def scaling_table(scaling: Mapping[int, Simulation]) -> Table:
    """The median virtual time until a top-3 configuration completed, a column a worker count."""
    shown = [count for count in scaling if count in _SHOWN_WORKERS]
    table = _table(
        "Virtual time until one of the three best has completed (median), by workers",
        [str(count) for count in shown],
    )
    for name in next(iter(scaling.values())).policies:
        results = [scaling[count].policies[name] for count in shown]
        times = [clock(_median(result.seconds_to_top)) for result in results]
        table.add_row(name, *times, style=_style(name))
    return table


def _table(title: str, columns: Sequence[str], caption: str | None = None) -> Table:
    """A row a policy, and columns of numbers."""
    table = Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        header_style="bold",
    )
    table.add_column("policy", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _cost_to_top(simulation: Simulation) -> Table:
    count, folds, epochs = simulation.curves.shape
    orders = f"{simulation.orders:,} order{'s' if simulation.orders > 1 else ''}"
    baselines = [name for name in _BASELINES if name in simulation.policies]
    table = _table(
        f"Until one of the three best has completed: median [quartiles] of {orders},"
        f" {plural(simulation.workers, 'worker')}",
        ["fold-epochs", *(f"vs. {name}" for name in baselines), "virtual time"],
        f"{count} configurations × {folds} folds × {epochs} epochs. vs.: how many times fewer "
        f"fold-epochs, by the medians; {_NONE}: not found",
    )
    for name, result in simulation.policies.items():
        factors = [_factor(simulation.policies[base], result) for base in baselines]
        seconds = _spread(result.seconds_to_top, clock)
        spent = _spread(result.fold_epochs_to_top, lambda value: f"{value:,.0f}")
        table.add_row(name, spent, *factors, seconds, style=_style(name))
    return table


def _regret(simulation: Simulation) -> Table:
    table = _table(
        "Mean regret after a share of full cross-validation's cost",
        [*map(percent, SHARES), "at the end", "best kept", "fold-epochs"],
        f"{_NO_WINNER}: in more than half of the orders no trial has completed; the median"
        " configuration stands in there",
    )
    for name, result in simulation.policies.items():
        regrets = [
            _percent(result.regret[share])
            + (_NO_WINNER if result.without_winner[share] > 0.5 else "")
            for share in SHARES
        ]
        kept, total = (
            percent(result.best_kept),
            f"{np.median(result.total_fold_epochs):,.0f}",
        )
        table.add_row(
            name, *regrets, _percent(result.final_regret), kept, total, style=_style(name)
        )
    return table


def _rungs(simulation: Simulation) -> Table:
    users: dict[Rung, list[str]] = {}
    for name in simulation.policies:
        for rung in POLICIES[name].build(simulation.curves)[1]:
            users.setdefault(rung, []).append(name)
    correlations = rank_correlations(simulation.curves, list(users))
    table = Table(
        title="Rank correlation of a rung's score with the final score (Spearman)",
        title_justify="left",
        header_style="bold",
    )
    for column in ("folds", "epochs", "fold-epochs", "correlation"):
        table.add_column(column, justify="right")
    table.add_column("rung of")
    for rung in sorted(users, key=lambda one: (one.cost, one.folds)):
        numbers = (str(rung.folds), str(rung.epochs), str(rung.cost))
        value = correlations[rung]
        shown = f"{value:.3f}" if math.isfinite(value) else _NONE
        everyone = len(users[rung]) == len(simulation.policies) > 1
        table.add_row(*numbers, shown, "all" if everyone else ", ".join(users[rung]))
    return table


def _style(name: str) -> str:
    return "bold green" if name == "default" else ""


def _median(values: NDArray[np.float64]) -> float:
    return float(quartiles(values)[1])


def _spread(values: NDArray[np.float64], show: Callable[[float], str]) -> str:
    low, median, high = (
        show(value) if math.isfinite(value) else _NONE for value in quartiles(values).tolist()
    )
    return f"{median} [{low}, {high}]"


def _factor(base: PolicyResult, result: PolicyResult) -> str:
    """How many times fewer fold-epochs than the baseline."""
    ours, theirs = (_median(one.fold_epochs_to_top) for one in (result, base))
    return f"{theirs / ours:.1f}×" if math.isfinite(ours) and math.isfinite(theirs) else _NONE


def _percent(shares: NDArray[np.float64]) -> str:
    """Their mean, to two digits or so."""
    value = 100 * float(shares.mean())
    return f"{value:.{0 if value >= 10 else 1 if value >= 1 else 2}f} %"
