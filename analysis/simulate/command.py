"""What ``foldrace simulate`` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from foldrace.analysis.simulate.curves import read_curves
from foldrace.errors import InputError

__all__ = ["run_simulation"]


def run_simulation(
    file: Path,
    policies: Sequence[str],
    workers: int,
    orders: int,
    seed: int,
    scaling: bool,
    figures: Path | None,
    console: Console,
    notify: Callable[[str], None],
) -> dict[str, Any]:
    """Simulates, prints the tables on ``console``, writes the figures; returns what ``--json``
    prints.

    Args:
        policies: names, several parted by commas; ``all``; the four that matter if empty.
        scaling: also on 1, 2, 4, … 512 workers, told as ``scaling``.
        figures: a folder for them; None draws none.

    Raises: InputError: curves, policies, numbers or a folder that cannot be used.
    """
    curves = read_curves(file)

    from foldrace.analysis.simulate.figures import draw_regret, draw_scaling
    from foldrace.analysis.simulate.scaling import scale, scaling_json
    from foldrace.analysis.simulate.simulator import POLICIES, STANDARD, simulate
    from foldrace.analysis.simulate.tables import scaling_table, simulation_tables

    if figures is not None and figures.exists() and not figures.is_dir():
        raise InputError("--output", str(figures), "is a file; the figures need a folder")
    names = [
        name.strip() for given in policies for name in given.split(",") if name.strip()
    ] or list(STANDARD)
    names = list(POLICIES) if "all" in names else names
    notify(f"{file}: {curves}")
    simulation = simulate(curves, names, workers=workers, orders=orders, seed=seed, notify=notify)
    console.print(*simulation_tables(simulation))
    told, paths = simulation.to_json(), []
    if figures is not None:
        paths = draw_regret(simulation, figures)
    if scaling:
        scaled = scale(curves, names, orders=orders, seed=seed, notify=notify)
        console.print(scaling_table(scaled))
        told["scaling"] = scaling_json(scaled)
        if figures is not None:
            paths += draw_scaling(scaled, figures)
    for path in paths:
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)
    return told
