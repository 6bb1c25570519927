"""The same simulation for growing numbers of workers: what a cluster would gain."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from foldrace.analysis.records.recorded_curves import Curves
from foldrace.analysis.simulate.policies import STANDARD
from foldrace.analysis.simulate.simulator import Simulation, simulate
from foldrace.analysis.text import plural

__all__ = ["WORKERS", "scale", "scaling_json"]

log = logging.getLogger(__name__)

WORKERS = tuple(2**power for power in range(10))
"""1, 2, 4, … 512."""


def scale(
    curves: Curves,
    policies: Sequence[str] = STANDARD,
    *,
    workers: Sequence[int] = WORKERS,
    orders: int = 200,
    seed: int = 0,
) -> Mapping[int, Simulation]:
    """`simulate` for each number of workers, on the same orders.

    Raises:
        InputError: as `simulate`.
    """
    found: dict[int, Simulation] = {}
    for count in workers:
        # workers beyond the number of configurations change nothing
        enough = next((less for less in found if len(curves.loss) <= less <= count), None)
        if enough is not None:
            found[count] = Simulation(curves, orders, count, found[enough].policies)
            continue
        log.info("on %s", plural(count, "worker"))
        found[count] = simulate(curves, policies, workers=count, orders=orders, seed=seed)
    return found


def scaling_json(scaling: Mapping[int, Simulation]) -> dict[str, Any]:
    """By policy and number of workers: cost and time until a top-3 configuration completed."""
    by_workers = {str(count): one.to_json()["policies"] for count, one in scaling.items()}
    keys = ("fold_epochs_to_top3", "seconds_to_top3", "total_seconds")
    return {
        name: {
            count: {key: results[name][key] for key in keys}
            for count, results in by_workers.items()
        }
        for name in next(iter(scaling.values())).policies
    }
