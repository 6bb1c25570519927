"""What `prepare` makes of a sweep file: plain values that the later stages read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foldrace.search.sampling.arms import Arm
from foldrace.search.spec.space import SearchSpace
from foldrace.search.spec.sweep_spec import SweepSpec
from foldrace.trainables.data.arrays import Dataset
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.tasks.objective import LOSS, Objective
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.splits import FoldPlan

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["Prepared", "WarmStart"]


@dataclass(frozen=True)
class WarmStart:
    """Trials of an earlier sweep that the sampler learns from.

    Attributes:
        sweep: the earlier sweep's name.
        trials: Optuna's trials: completed ones with their values, pruned ones with their
            intermediate values.
        total: the number of trials that the earlier sweep had.
    """

    sweep: str
    trials: tuple[FrozenTrial, ...]
    total: int

    def __str__(self) -> str:
        """``warm start from NAME: 12 of 16 trials``."""
        return f"warm start from {self.sweep}: {len(self.trials)} of {self.total} trials"


@dataclass(frozen=True)
class Prepared:
    """A sweep whose inputs have all been read and checked.

    Attributes:
        folds: the splits, the same for every trial.
        space: of a sweep; empty in a comparison.
        start_with: the tunable part of each point to try first.
        arms: of a comparison; empty in a sweep.
        objective: what trials are compared by.
        metrics: of a whole part, which are measured in validation.
        probabilities: whether the task predicts classes by probabilities, not by logits.
        warm_start: read when the sweep begins
            (`foldrace.search.preparing.warm_start.with_warm_start`).
    """

    spec: SweepSpec
    task: LoadedTask
    dataset: Dataset
    folds: FoldPlan
    space: SearchSpace
    start_with: tuple[Mapping[str, Value], ...]
    arms: tuple[Arm, ...] = ()
    warm_start: WarmStart | None = None
    objective: Objective = LOSS
    metrics: tuple[str, ...] = ()
    probabilities: bool = False
