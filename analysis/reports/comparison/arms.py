"""The looks that a comparison's figures share: the axis label and a colour for each arm."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.records.comparison import Comparison
from foldrace.analysis.reports.style import PALETTE

__all__ = ["arm_colours", "in_view"]


def arm_colours(comparison: Comparison) -> Mapping[str, str]:
    """One colour an arm, the same in every figure."""
    return {arm: PALETTE[place % len(PALETTE)] for place, arm in enumerate(comparison.arms)}


def in_view(value: float, others: NDArray[np.float64]) -> bool:
    """Whether a value is near enough to the others to be drawn on their axis."""
    low, high = float(others.min()), float(others.max())
    room = 2 * max(high - low, 0.2 * abs(high))
    return low - room <= value <= high + room
