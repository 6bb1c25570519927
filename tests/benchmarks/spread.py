"""Figures that were measured in turn, with their spread; and the record of a benchmark."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foldrace.search.preparing.environment import describe_environment

__all__ = ["Spread", "paired_ratios", "write_record"]


@dataclass(frozen=True)
class Spread:
    """The geometric mean of n figures, the lowest and the highest."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of positive figures, at least one."""
        return cls(
            math.exp(math.fsum(map(math.log, values)) / len(values)),
            min(values),
            max(values),
            len(values),
        )

    def text(self, digits: int = 2) -> str:
        """``2.51 (2.40 to 2.66, n = 5)``."""
        return (
            f"{self.mean:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f}, n ="
            f" {self.n})"
        )


def paired_ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """How many times as much the first is as the second, round by round: what disturbs a round
    disturbs both."""
    return Spread.of([one / other for one, other in zip(above, below, strict=True)])


def write_record(path: Path, module: str, values: Mapping[str, Any]) -> None:
    """Writes a benchmark's JSON: ``values``, the command, when it ended and on what it ran."""
    command = shlex.join(["python", "-m", f"tests.benchmarks.{module}", *sys.argv[1:]])
    record = {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **values,
        "environment": describe_environment(),
    }
    path.write_text(json.dumps(record, indent=2, default=asdict) + "\n")
