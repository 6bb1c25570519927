"""How a sweep ended: for the command line, for refit, and for MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foldrace.search.recording.store import SweepFolder, SweepState
from foldrace.search.recording.writer import MlflowWriter
from foldrace.search.sweeps.comparison_result import ArmResult, make_arm_results
from foldrace.search.sweeps.pareto import ParetoPoint, pareto_front
from foldrace.search.text import params_text, score_text
from foldrace.search.tune.state import TrialStatus, TrialTable
from foldrace.trainables.tasks.parameters import Value

__all__ = ["Best", "SweepResult", "closing_tags", "make_result", "note"]


@dataclass(frozen=True)
class Best:
    """The winner: a completed trial, its parameters, its score with the error bar."""

    trial: int
    params: Mapping[str, Value]
    mean: float
    standard_error: float
    folds: tuple[float, ...]
    epochs: tuple[int, ...]


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended. ``best`` is None if no trial was evaluated to the end; ``arms`` are a
    comparison's, ``pareto`` the front of a sweep with several objectives."""

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
        best = None
        if self.best is not None:
            error = self.best.standard_error
            best = {
                "trial": self.best.trial,
                "params": dict(self.best.params),
                "val_loss": {
                    "mean": self.best.mean,
                    "standard_error": error if math.isfinite(error) else None,
                    "folds": list(self.best.folds),
                },
                "best_epochs": list(self.best.epochs),
            }
        return {
            "sweep": self.sweep,
            "tracking_uri": self.tracking_uri,
            "run_id": self.run_id,
            "trials": dict(self.trials),
            "best": best,
            "fold_epochs": self.fold_epochs,
            "wall_seconds": round(self.wall_seconds, 3),
            **(
                {"arms": {label: arm.to_json() for label, arm in self.arms.items()}}
                if self.arms
                else {}
            ),
            **({"pareto": [point.to_json() for point in self.pareto]} if self.pareto else {}),
        }


def make_result(
    folder: SweepFolder,
    state: SweepState,
    recorder: MlflowWriter,
    ledger: TrialTable,
    *,
    interrupted: bool,
    arms: Sequence[str] = (),
    objectives: Sequence[str] = (),
) -> SweepResult:
    """The result as the ledger has it now; ``arms`` are the labels of a comparison, ``objectives``
    the sweep's."""
    best = ledger.best
    ended = (TrialStatus.COMPLETED, TrialStatus.PRUNED, TrialStatus.FAILED)
    return SweepResult(
        sweep=folder.name,
        folder=folder.path,
        tracking_uri=state.tracking_uri,
        run_id=recorder.sweep_run,
        trials={status.value: ledger.count(status) for status in ended},
        best=(
            None
            if best is None
            else Best(
                best.number,
                best.params,
                best.val_loss,
                best.standard_error,
                tuple(best.fold_losses),
                tuple(best.best_epochs),
            )
        ),
        fold_epochs=ledger.fold_epochs,
        wall_seconds=ledger.elapsed,
        interrupted=interrupted,
        arms=make_arm_results(ledger, arms),
        pareto=pareto_front(ledger.records.values(), objectives),
    )


def closing_tags(result: SweepResult) -> dict[str, object]:
    """Tags of the sweep's run, without their prefix."""
    tags: dict[str, object] = {f"trials_{name}": count for name, count in result.trials.items()}
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
            f"Best: trial {best.trial}, CV loss **{score_text(best.mean, best.standard_error)}**"
        )
        lines.append(f"`{params_text(best.params)}`")
    return "\n\n".join(lines)
