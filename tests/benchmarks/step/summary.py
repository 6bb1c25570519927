"""The step benchmark's measurements, and the rates and ratios computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.benchmarks.spread import Spread, paired_ratios
from tests.benchmarks.step.sides import Side

__all__ = ["Measured", "Measurement", "summary", "values"]


class Measured(StrEnum):
    """What was measured; in images a second, except for the matrix product."""

    TRAIN = "train"
    VALIDATE = "validate"
    ALONE = "one process"
    SIDE_BY_SIDE = "two processes"
    FOLDS = "folds, one after the other"
    FUSED_FOLDS = "folds, fused"
    MATRIX_FLOPS = "matrix product, FLOP a second"


@dataclass(frozen=True)
class Measurement:
    """One value: what, of which side, in which round, at which batch size (0 for none)."""

    round: int
    measured: Measured
    side: Side
    batch_size: int
    value: float

    def __str__(self) -> str:
        """``round 1, batch 256, foldrace, train: 18,600 images a second``."""
        if self.measured is Measured.MATRIX_FLOPS:
            return f"round {self.round}, this machine, {self.measured}: {self.value:,.0f}"
        where = f"round {self.round}, batch {self.batch_size}, {self.side}"
        return f"{where}, {self.measured}: {self.value:,.0f} images a second"


def values(
    measurements: Sequence[Measurement],
    measured: Measured,
    side: Side = Side.OURS,
    batch_size: int = 0,
) -> list[float]:
    """The values of one kind, in the order of the rounds."""
    wanted = (measured, side, batch_size)
    found = [one for one in measurements if (one.measured, one.side, one.batch_size) == wanted]
    return [one.value for one in sorted(found, key=lambda one: one.round)]


def summary(measurements: Sequence[Measurement], flop: float) -> dict[str, Any]:
    """Spreads over the rounds: the limit, and by batch size images a second and ratios.

    Args:
        flop: floating-point operations per image, forward and backward.
    """
    limit = [value / flop for value in values(measurements, Measured.MATRIX_FLOPS)]
    sizes = sorted({measurement.batch_size for measurement in measurements} - {0})
    return {
        "limit": Spread.of(limit),
        "images_per_second": {size: _rates(measurements, size) for size in sizes},
        "ratios": {size: _ratios(measurements, size, limit) for size in sizes},
    }


def _rates(measurements: Sequence[Measurement], batch_size: int) -> dict[str, Spread]:
    rates = {
        f"{measured}, {side}": values(measurements, measured, side, batch_size)
        for measured in Measured
        for side in Side
    }
    return {name: Spread.of(rate) for name, rate in rates.items() if rate}


def _ratios(
    measurements: Sequence[Measurement], batch_size: int, limit: Sequence[float]
) -> dict[str, Spread]:
    def rates(measured: Measured, side: Side = Side.OURS) -> Sequence[float]:
        return values(measurements, measured, side, batch_size)

    pairs: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        f"{measured}, times {side}": (rates(measured), rates(measured, side))
        for measured in (Measured.TRAIN, Measured.VALIDATE)
        for side in (Side.NOTEBOOK, Side.MEMORY)
    }
    pairs |= {
        "train, of the limit": (rates(Measured.TRAIN), limit),
        "two processes, times one": (rates(Measured.SIDE_BY_SIDE), rates(Measured.ALONE)),
        "fused folds, times one after the other": (
            rates(Measured.FUSED_FOLDS),
            rates(Measured.FOLDS),
        ),
    }
    return {name: paired_ratios(*pair) for name, pair in pairs.items() if all(pair)}
