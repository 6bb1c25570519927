"""Names in the MLflow record, for those who write it and those who read it.

A sweep is recorded as three levels of runs: the sweep, its trials, their folds. A fourth level
holds the refit of the best trial. Records of earlier versions have the same names.

Metrics of a fold's run have the epoch (from 1) as their step: `VAL_LOSS`, the task's own terms
(``val_mse``, ``train_loss``, …) and `BEST_EPOCH`. Metrics of a trial's run have the fold-epochs
that the trial has spent as their step: the means over its folds, `VAL_LOSS_SE`, `FOLDS`, `EPOCH`,
`FOLD_EPOCHS`, `TRAIN_SECONDS`, `PARAMETERS`. Metrics of the sweep's run have the fold-epochs that
the sweep has spent as their step: `VAL_LOSS`, `VAL_LOSS_SE` and `BEST_TRIAL` of each incumbent.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = [
    "ASKED_FILE",
    "BEST_EPOCH",
    "BEST_TRIAL",
    "COMPARISON_FILE",
    "ENVIRONMENT_FILE",
    "EPOCH",
    "EVIDENCE_FILE",
    "FOLDS",
    "FOLD_EPOCHS",
    "PARAMETERS",
    "PICTURES",
    "REFIT_FILE",
    "RUNNING",
    "SPEC_FILE",
    "TRAIN_SECONDS",
    "VAL_LOSS",
    "VAL_LOSS_SE",
    "Level",
    "Outcome",
    "Place",
    "Tag",
    "having",
    "prefixed",
    "run_name",
    "sweep_state",
    "trial_status",
]

Place = tuple[int | str, ...]
"""Which run: ``()`` the sweep's, ``(7,)`` trial 7's, ``(7, 1)`` its fold 1's, ``("refit",)``."""

VAL_LOSS, VAL_LOSS_SE = "val_loss", "val_loss_se"
EPOCH, FOLDS, FOLD_EPOCHS = "epoch", "folds", "fold_epochs"
TRAIN_SECONDS, PARAMETERS = "train_seconds", "parameters"
BEST_TRIAL, BEST_EPOCH = "best_trial", "best_epoch"

SPEC_FILE, ENVIRONMENT_FILE = "sweep.yaml", "environment.json"
PICTURES = "reconstructions"
"""The artifact folder of a trial's pictures, ``epoch-003.png``: images above reconstructions."""
COMPARISON_FILE = "comparison.npz"
"""The same test images, reconstructed by the tuned model of each arm."""
REFIT_FILE, EVIDENCE_FILE = "refit.json", "evidence.npz"
"""What a refit found, and what the refitted model does with the test images."""

ASKED_FILE = "asked.txt"
"""See `Tag.ASKED`."""

ERROR_FILE = "error.txt"
"""The traceback of a failed trial."""

_PREFIX = "foldrace."


class Level(StrEnum):
    """What a run stands for."""

    SWEEP = "sweep"
    TRIAL = "trial"
    FOLD = "fold"
    REFIT = "refit"


class Tag(StrEnum):
    """Tags of runs.

    ``KEY`` identifies a run: ``SWEEP_KEY`` and the run's place. ``PRUNED_AT`` and ``FAILURE`` say
    why a trial was pruned or failed. ``REFIT_DONE`` means that the test part has been used.
    ``OBJECTIVES`` are separated by commas. ``ASKED`` is the time in ms at which the delivery has
    last asked whether the store takes anything.
    """

    LEVEL = "foldrace.level"
    SWEEP = "foldrace.sweep"
    SWEEP_KEY = "foldrace.sweep_key"
    KEY = "foldrace.key"
    TRIAL = "foldrace.trial"
    FOLD = "foldrace.fold"
    PRUNED_AT = "foldrace.pruned_at"
    FAILURE = "foldrace.failure"
    EPOCHS = "foldrace.epochs"
    STOPPED_EARLY = "foldrace.stopped_early"
    ARM = "foldrace.arm"
    PHASE = "foldrace.phase"
    REPEAT = "foldrace.repeat"
    DEVICE = "foldrace.device"
    KIND = "foldrace.kind"
    OBJECTIVES = "foldrace.objectives"
    METRIC = "foldrace.metric"
    DIRECTION = "foldrace.direction"
    TASK = "foldrace.task"
    GIT_REVISION = "foldrace.git_revision"
    DATASET_DIGEST = "foldrace.dataset_digest"
    TASK_DIGEST = "foldrace.task_digest"
    WALL_SECONDS = "foldrace.wall_seconds"
    REFIT_DONE = "foldrace.refit_done"
    ASKED = "foldrace.asked"


class Outcome(Enum):
    """How a sweep, a trial or a fold ended; the value is MLflow's run status."""

    COMPLETED = "FINISHED"
    PRUNED = "KILLED"
    FAILED = "FAILED"


RUNNING = "RUNNING"
"""MLflow's status of a run that has not ended."""

_SWEEP_STATES = {
    RUNNING: "running",
    Outcome.COMPLETED.value: "finished",
    Outcome.PRUNED.value: "interrupted",
    Outcome.FAILED.value: "failed",
}
_TRIAL_STATUSES = _SWEEP_STATES | {Outcome.COMPLETED.value: "completed"}


def sweep_state(run: Run) -> str:
    """The state of a sweep by its run: running, finished, interrupted or failed."""
    return _SWEEP_STATES[run.info.status]


def trial_status(run: Run) -> str:
    """The status of a trial by its run: running, completed, pruned, failed or interrupted.

    A trial that was open when its sweep was interrupted is KILLED in MLflow like a pruned one, but
    lacks the tag.
    """
    status = _TRIAL_STATUSES[run.info.status]
    return "pruned" if status == "interrupted" and Tag.PRUNED_AT in run.data.tags else status


def prefixed(tags: Mapping[str, object]) -> dict[str, str]:
    """Tags under their full names, as text.

    >>> prefixed({"arm": "adam", "repeat": 2})
    {'foldrace.arm': 'adam', 'foldrace.repeat': '2'}
    """
    return {f"{_PREFIX}{name}": str(value) for name, value in tags.items()}


def having(**tags: object) -> str:
    """MLflow's filter for the runs that have all of these tags.

    >>> having(level=Level.FOLD, trial=3)
    "tags.`foldrace.level` = 'fold' and tags.`foldrace.trial` = '3'"
    """
    return " and ".join(f"tags.`{name}` = '{value}'" for name, value in prefixed(tags).items())


def run_name(sweep: str, place: Place) -> str:
    """The name of a run, as people read it.

    >>> run_name("conv-ae", ()), run_name("conv-ae", (7,)), run_name("conv-ae", (7, 1))
    ('conv-ae', 'trial 0007', 'trial 0007 fold 1')
    """
    match place:
        case ():
            return sweep
        case (int(trial),):
            return f"trial {trial:04d}"
        case (int(trial), int(fold)):
            return f"trial {trial:04d} fold {fold}"
    return str(place[0])
