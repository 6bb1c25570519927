"""The Pareto front of a sweep with several objectives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foldrace.search.tune.state import TrialRecord, TrialStatus
from foldrace.trainables.tasks.objective import LOSS, Objective
from foldrace.trainables.tasks.parameters import Value

__all__ = ["ParetoPoint", "pareto_front"]


@dataclass(frozen=True)
class ParetoPoint:
    """A trial of the Pareto front.

    Attributes:
        values: by objective; all are minimised, ``val_loss`` first.
        standard_error: of ``val_loss``.
        objective: what ``val_loss`` is.
    """

    trial: int
    params: Mapping[str, Value]
    values: Mapping[str, float]
    standard_error: float = math.nan
    objective: Objective = LOSS

    def to_json(self) -> dict[str, Any]:
        """The point in the object that ``--json`` prints."""
        loss, *others = self.values.items()
        score = {self.objective.key: self.objective.score(loss[1])}
        return {"trial": self.trial, "params": dict(self.params), **score, **dict(others)}


def pareto_front(
    records: Iterable[TrialRecord],
    objectives: Sequence[str],
    objective: Objective = LOSS,
) -> tuple[ParetoPoint, ...]:
    """The completed trials that no other completed trial dominates, the lowest ``val_loss`` first.

    A trial dominates another if it is no worse in any objective and better in at least one. Of
    equal trials all stay.

    Args:
        objectives: ``val_loss``, and ``parameters``, ``seconds`` or both; fewer than two have
            no front.
        objective: what ``val_loss`` is.
    """
    if len(objectives) < 2:
        return ()
    done = [
        ParetoPoint(
            record.number,
            record.params,
            dict(zip(objectives, values, strict=True)),
            record.standard_error,
            objective,
        )
        for record in records
        if record.status is TrialStatus.COMPLETED
        and all(map(math.isfinite, values := record.values(objectives)))
    ]
    front = [
        point
        for point in done
        if not any(_dominates(other.values, point.values) for other in done)
    ]
    return tuple(sorted(front, key=lambda point: (*point.values.values(), point.trial)))


def _dominates(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return all(one[name] <= other[name] for name in one) and any(
        one[name] < other[name] for name in one
    )
