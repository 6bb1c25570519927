"""The spread of repeated measurements, and the record of a benchmark."""

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
    """The geometric mean, the lowest and the highest of n values."""

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of positive values, at least one."""
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
    """The ratio of two sides round by round: what disturbs a round disturbs both sides."""
    return Spread.of([one / other for one, other in zip(above, below, strict=True)])


def write_record(path: Path, module: str, values: Mapping[str, Any]) -> None:
    """Writes a benchmark's JSON: ``values``, the command, the date and the environment."""
    command = shlex.join(["python", "-m", f"tests.benchmarks.{module}", *sys.argv[1:]])
    record = {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **values,
        "environment": describe_environment(),
    }
    path.write_text(json.dumps(record, indent=2, default=asdict) + "\n")
