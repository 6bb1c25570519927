"""The result of a sweep: for the command line, for refit, and for MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foldrace.errors import redacted
from foldrace.search.recording.folder import SweepFolder, SweepState
from foldrace.search.recording.writer import MlflowWriter
from foldrace.search.sweeps.comparison_result import ArmResult, make_arm_results
from foldrace.search.sweeps.pareto import ParetoPoint, pareto_front
from foldrace.search.text import params_text, score_text
from foldrace.search.tune.state import TrialRecord, TrialStatus, TrialTable
from foldrace.trainables.tasks.objective import LOSS, Objective
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.reports import mean_and_standard_error

__all__ = ["Best", "SweepResult", "closing_tags", "make_result", "note"]

_ENDED, _OPEN = ("completed", "pruned", "failed"), ("paused", "running")


@dataclass(frozen=True)
class Best:
    """The best trial: its validation score as mean over folds, standard error, and per fold.

    Attributes:
        mean, folds: in the sign of the objective's metric.
        objective: what they are.
        epochs: the best epoch of each fold.
        metrics: by name, what else was measured in validation, by fold.
    """

    trial: int
    params: Mapping[str, Value]
    mean: float
    standard_error: float
    folds: tuple[float, ...]
    epochs: tuple[int, ...]
    objective: Objective = LOSS
    metrics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, trial: TrialRecord, objective: Objective) -> Best:
        """The result of a completed trial."""
        return cls(
            trial.number,
            trial.params,
            objective.score(trial.val_loss),
            trial.standard_error,
            tuple(map(objective.score, trial.fold_losses)),
            tuple(trial.best_epochs),
            objective,
            _others(trial, objective),
        )

    def to_json(self) -> dict[str, Any]:
        """The ``best`` of the object that ``--json`` prints; ``val_loss`` if it is minimised."""
        score = _score(self.mean, self.standard_error, self.folds)
        others = {
            name: _score(*mean_and_standard_error(folds), folds)
            for name, folds in self.metrics.items()
        }
        return {
            "trial": self.trial,
            "params": dict(self.params),
            **self.objective.entry(score),
            "metrics": others,
            "best_epochs": list(self.epochs),
        }


def _score(mean: float, error: float, folds: Sequence[float]) -> dict[str, Any]:
    known = error if math.isfinite(error) else None
    return {"mean": mean, "standard_error": known, "folds": list(folds)}


def _others(trial: TrialRecord, objective: Objective) -> dict[str, tuple[float, ...]]:
    """What a trial's folds have measured beside the objective, if all have."""
    folds = [fold.metrics for fold in trial.report.folds] if trial.report else []
    left_out = {"val_loss", "val_criterion", f"val_{objective.name}"}
    names = [
        name
        for name in (folds[0] if folds else ())
        if name.startswith("val_") and name not in left_out and all(name in one for one in folds)
    ]
    return {name[4:]: tuple(one[name] for one in folds) for name in names}


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended.

    Attributes:
        run_id: of the sweep's run in MLflow.
        trials: the number of completed, pruned and failed trials; of an interrupted sweep also of
            those that were paused or running.
        best: the best completed trial; None if there is none.
        arms: by label, for a comparison.
        pareto: the Pareto front, for a sweep with several objectives.
    """

    sweep: str
    folder: Path
    tracking_uri: str
    run_id: str
    trials: Mapping[str, int]
    best: Best | None
    fold_epochs: int
    wall_seconds: float
    interrupted: bool
    arms: Mapping[str, ArmResult] = field(default_factory=dict)
    pareto: Sequence[ParetoPoint] = ()

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        found: dict[str, Any] = {
            "sweep": self.sweep,
            "tracking_uri": redacted(self.tracking_uri),
            "run_id": self.run_id,
            "trials": dict(self.trials),
            "best": self.best.to_json() if self.best else None,
            "fold_epochs": self.fold_epochs,
            "wall_seconds": round(self.wall_seconds, 3),
        }
        if self.arms:
            found["arms"] = {label: arm.to_json() for label, arm in self.arms.items()}
        if self.pareto:
            found["pareto"] = [point.to_json() for point in self.pareto]
        return found


def make_result(
    folder: SweepFolder,
    state: SweepState,
    writer: MlflowWriter,
    trials: TrialTable,
    *,
    interrupted: bool,
    arms: Sequence[str] = (),
    objectives: Sequence[str] = (),
) -> SweepResult:
    """The result of a sweep as its trials are now.

    Args:
        arms: the labels of a comparison's arms.
        objectives: of the sweep; two or more give a Pareto front.
    """
    counts = {name: trials.count(TrialStatus(name)) for name in _ENDED}
    if interrupted:
        still_open = {name: trials.count(TrialStatus(name)) for name in _OPEN}
        counts |= {name: count for name, count in still_open.items() if count}
    return SweepResult(
        sweep=folder.name,
        folder=folder.path,
        tracking_uri=state.tracking_uri,
        run_id=writer.sweep_run,
        trials=counts,
        best=Best.of(trials.best, trials.objective) if trials.best else None,
        fold_epochs=trials.fold_epochs,
        wall_seconds=trials.elapsed,
        interrupted=interrupted,
        arms=make_arm_results(trials, arms),
        pareto=pareto_front(trials.records.values(), objectives, trials.objective),
    )


def closing_tags(result: SweepResult) -> dict[str, object]:
    """The tags of the sweep's run at its end, without their prefix."""
    tags: dict[str, object] = {f"trials_{name}": result.trials[name] for name in _ENDED}
    tags |= {"fold_epochs": result.fold_epochs, "wall_seconds": round(result.wall_seconds, 1)}
    if result.best is not None:
        tags["best_trial"] = result.best.trial
    if result.interrupted:
        tags["interrupted"] = True
    return tags


def note(result: SweepResult) -> str:
    """The sweep run's description in MLflow, Markdown."""
    counts = ", ".join(f"{count} {name}" for name, count in result.trials.items())
    lines = [
        f"**{result.sweep}**: {counts}; {result.fold_epochs} fold-epochs in"
        f" {result.wall_seconds:.0f} s."
    ]
    if result.best is not None:
        best = result.best
        lines.append(
            f"Best: trial {best.trial}, CV {best.objective.name}"
            f" **{score_text(best.mean, best.standard_error)}**"
        )
        lines.append(f"`{params_text(best.params)}`")
    return "\n\n".join(lines)
