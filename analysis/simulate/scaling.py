"""The same search on ever more workers, on paper: what a cluster would gain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from foldrace.analysis.simulate.curves import Curves
from foldrace.analysis.simulate.simulator import STANDARD, Simulation, simulate

__all__ = ["WORKERS", "scale", "scaling_json"]

WORKERS = tuple(2**power for power in range(10))
"""1, 2, 4, … 512."""


def scale(
    curves: Curves,
    policies: Sequence[str] = STANDARD,
    *,
    workers: Sequence[int] = WORKERS,
    orders: int = 200,
    seed: int = 0,
    notify: Callable[[str], None] = lambda _: None,
) -> Mapping[int, Simulation]:
    """`simulate` for each number of workers, on the same orders.

    Raises: InputError as `simulate` does.
    """
    found: dict[int, Simulation] = {}
    for count in workers:
        enough = next((less for less in found if len(curves.loss) <= less <= count), None)
        if enough is not None:  # workers beyond the number of configurations change nothing
            found[count] = Simulation(curves, orders, count, found[enough].policies)
            continue
        notify(f"on {count} worker{'s' if count > 1 else ''}")
        found[count] = simulate(curves, policies, workers=count, orders=orders, seed=seed)
    return found


def scaling_json(scaling: Mapping[int, Simulation]) -> dict[str, Any]:
    """By policy and number of workers: fold-epochs and virtual seconds until one of the three best
    is evaluated."""
    policies = next(iter(scaling.values())).policies
    told = {str(count): simulation.to_json()["policies"] for count, simulation in scaling.items()}
    keys = ("fold_epochs_to_top3", "seconds_to_top3", "total_seconds")
    return {
        name: {count: {key: results[name][key] for key in keys} for count, results in told.items()}
        for name in policies
    }
