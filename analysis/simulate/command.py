"""What ``foldrace simulate`` computes, and the figures and JSON that it writes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldrace.errors import InputError

if TYPE_CHECKING:
    from foldrace.analysis.simulate.simulator import Simulation

__all__ = ["SimulationOptions", "SimulationOutput", "run_simulation"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SimulationOptions:
    """The options of ``foldrace simulate``.

    Attributes:
        policies: names, also several in one text with commas between; ``all`` names every policy,
            and without any name the standard four are compared.
        workers: how many trials train at a time.
        orders: how many random orders of the configurations are simulated.
        seed: of these orders.
        scaling: also simulate 1, 2, 4, … 512 workers.
        figures: the folder for PNG and SVG files; None draws none.
    """

    policies: Sequence[str] = ()
    workers: int = 1
    orders: int = 200
    seed: int = 0
    scaling: bool = False
    figures: Path | None = None


@dataclass(frozen=True)
class SimulationOutput:
    """What a simulation found; ``scaling``, by number of workers, is empty unless asked for."""

    simulation: Simulation
    scaling: Mapping[int, Simulation]
    figures: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        from foldrace.analysis.simulate.scaling import scaling_json

        scaled = {"scaling": scaling_json(self.scaling)} if self.scaling else {}
        return self.simulation.to_json() | scaled


def run_simulation(file: Path, options: SimulationOptions) -> SimulationOutput:
    """Simulates sweeps over the curves in a file, and writes the figures.

    Raises:
        InputError: the file, a policy, a number or the folder for figures cannot be used.
    """
    from foldrace.analysis.records.recorded_curves import read_curves
    from foldrace.analysis.simulate.figures import draw_regret, draw_scaling
    from foldrace.analysis.simulate.policies import POLICIES, STANDARD
    from foldrace.analysis.simulate.scaling import scale
    from foldrace.analysis.simulate.simulator import simulate

    curves, folder = read_curves(file), options.figures
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError("--output", str(folder), "is a file, but must be a folder for figures")
    given = [name.strip() for text in options.policies for name in text.split(",")]
    names = [name for name in given if name] or list(STANDARD)
    names = list(POLICIES) if "all" in names else names
    log.info("%s: %s", file, curves)
    orders, seed = options.orders, options.seed
    found = simulate(curves, names, workers=options.workers, orders=orders, seed=seed)
    scaled = scale(curves, names, orders=orders, seed=seed) if options.scaling else {}
    paths: list[Path] = []
    if folder is not None:
        paths += draw_regret(found, folder)
        paths += draw_scaling(scaled, folder) if scaled else []
    return SimulationOutput(found, scaled, tuple(paths))
