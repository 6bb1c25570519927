"""Tables of what a simulation has found; they fit 100 columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from foldrace.analysis.simulate.simulator import (
    POLICIES,
    SHARES,
    PolicyResult,
    Simulation,
    rank_correlations,
)
from foldrace.search.tune.progress import clock
from foldrace.trainables.training.ladder import Rung

__all__ = ["scaling_table", "simulation_tables"]

_BASELINES = ("fifo", "stopping-lockstep")
_NONE = "–"
_BLIND = "°"
_SHOWN_WORKERS = (1, 4, 16, 64, 256, 512)


def simulation_tables(simulation: Simulation) -> list[Table]:
    """The cost of finding one of the three best, the regret, and the rungs' correlations."""
    return [_reach(simulation), _regret(simulation), _rungs(simulation)]


def _reach(simulation: Simulation) -> Table:
    count, folds, epochs = simulation.curves.shape
    orders = f"{simulation.orders:,} order{'s' if simulation.orders > 1 else ''}"
    workers = f"{simulation.workers} worker{'s' if simulation.workers > 1 else ''}"
    table = Table(
        title=(
            f"Until one of the three best has completed: median \\[quartiles] of {orders},"
            f" {workers}"
        ),
        caption=(
            f"{count} configurations × {folds} folds × {epochs} epochs. vs.: how many times fewer "
            f"fold-epochs, by the medians; {_NONE}: not found"
        ),
        title_justify="left",
        caption_justify="left",
        header_style="bold",
    )
    baselines = [name for name in _BASELINES if name in simulation.policies]
    table.add_column("policy", no_wrap=True)
    for column in ("fold-epochs", *(f"vs. {name}" for name in baselines), "virtual time"):
        table.add_column(column, justify="right")
    for name, result in simulation.policies.items():
        factors = [_factor(simulation.policies[base], result) for base in baselines]
        seconds = _spread(result.seconds_to_top, clock)
        spent = _spread(result.fold_epochs_to_top, lambda value: f"{value:,.0f}")
        table.add_row(name, spent, *factors, seconds, style=_style(name))
    return table


def _regret(simulation: Simulation) -> Table:
    table = Table(
        title="Mean regret of the best trial after a share of full cross-validation's cost",
        caption=(
            f"{_BLIND}: in more than half the orders nothing has completed; those count as a"
            " configuration taken at random"
        ),
        title_justify="left",
        caption_justify="left",
        header_style="bold",
    )
    table.add_column("policy", no_wrap=True)
    for column in (
        *(f"{share:.0%}".replace("%", " %") for share in SHARES),
        "at the end",
        "best kept",
        "fold-epochs",
    ):
        table.add_column(column, justify="right")
    for name, result in simulation.policies.items():
        blind = {share: _BLIND if result.without_winner[share] > 0.5 else "" for share in SHARES}
        regrets = [_percent(float(result.regret[share].mean())) + blind[share] for share in SHARES]
        cells = (
            _percent(float(result.final_regret.mean())),
            f"{result.best_kept:.0%}".replace("%", " %"),
            f"{np.median(result.total_fold_epochs):,.0f}",
        )
        table.add_row(name, *regrets, *cells, style=_style(name))
    return table


def _rungs(simulation: Simulation) -> Table:
    users: dict[Rung, list[str]] = {}
    for name in simulation.policies:
        for rung in POLICIES[name].build(simulation.curves)[1]:
            users.setdefault(rung, []).append(name)
    correlations = rank_correlations(simulation.curves, list(users))
    table = Table(
        title="Rank correlation between a rung's scores and the final scores (Spearman)",
        title_justify="left",
        header_style="bold",
    )
    for column in ("folds", "epochs", "fold-epochs", "correlation"):
        table.add_column(column, justify="right")
    table.add_column("rung of")
    for rung in sorted(users, key=lambda one: (one.cost, one.folds)):
        value = correlations[rung]
        shown = f"{value:.3f}" if math.isfinite(value) else _NONE
        numbers = (str(number) for number in (rung.folds, rung.epochs, rung.cost))
        table.add_row(*numbers, shown, _listed(users[rung], simulation))
    return table


def _listed(names: list[str], simulation: Simulation) -> str:
    return "all" if len(names) == len(simulation.policies) > 1 else ", ".join(names)


def scaling_table(scaling: Mapping[int, Simulation]) -> Table:
    """Virtual time until one of the three best has completed, one column per worker count."""
    table = Table(
        title="Virtual time until one of the three best has completed (median), by workers",
        title_justify="left",
        header_style="bold",
    )
    table.add_column("policy", no_wrap=True)
    shown = [count for count in scaling if count in _SHOWN_WORKERS]
    for count in shown:
        table.add_column(str(count), justify="right")
    for name in next(iter(scaling.values())).policies:
        times = [_quantile(scaling[count].policies[name].seconds_to_top, 0.5) for count in shown]
        table.add_row(name, *map(clock, times), style=_style(name))
    return table


def _style(name: str) -> str:
    return "bold green" if name == "default" else ""


def _quantile(values: NDArray[np.float64], at: float) -> float:
    return float(np.quantile(values, at, method="lower"))


def _spread(values: NDArray[np.float64], show: Callable[[float], str]) -> str:
    low, median, high = (
        show(value) if math.isfinite(value) else _NONE
        for value in (_quantile(values, at) for at in (0.25, 0.5, 0.75))
    )
    return f"{median} \\[{low}, {high}]"


def _factor(base: PolicyResult, result: PolicyResult) -> str:
    """How many times fewer fold-epochs a policy needs than a baseline, by the medians."""
    ours, theirs = (_quantile(one.fold_epochs_to_top, 0.5) for one in (result, base))
    return f"{theirs / ours:.1f}×" if math.isfinite(ours) and math.isfinite(theirs) else _NONE


def _percent(share: float) -> str:
    value = 100 * share
    return (
        f"{value:.0f} %" if value >= 10 else f"{value:.1f} %" if value >= 1 else f"{value:.2f} %"
    )
