"""Runs of an earlier sweep as trials of Optuna's, where the new space can give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from foldrace.errors import InputError
from foldrace.search.preparing.prepared import Prepared
from foldrace.search.recording.reader import metric_points, parameter_values
from foldrace.search.recording.schema import EPOCH, VAL_LOSS, Tag, trial_status
from foldrace.search.spec.fields import same
from foldrace.search.spec.search_sections import SchedulerSpec
from foldrace.trainables.tasks.parameters import Value

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["make_trials", "place"]

_METRICS = {"val_loss": "val_loss", "parameters": "parameters", "seconds": "train_seconds"}

Placed = tuple["Run", dict[str, Value]]
Obstacle = tuple[str, str]


def place(
    runs: Sequence[Run], prepared: Prepared, scheduler: SchedulerSpec
) -> tuple[list[Placed], list[Obstacle]]:
    """The runs that the space can give, and why it cannot give the others.

    Args:
        runs: of the earlier sweep's trials.
        scheduler: the earlier sweep's; if its rungs differ, pruned trials are left out.

    Returns:
        Each run with its tunable parameters; a parameter and a reason for each other run.
    """
    placed, obstacles = [], []
    now = prepared.spec.scheduler
    same_rungs = now.kind == "fifo" or now == scheduler
    for run in runs:
        status = trial_status(run)
        completed = status == "completed" and _has_all_epochs(run, prepared)
        pruned = same_rungs and status == "pruned"
        if VAL_LOSS not in run.data.metrics or not (completed or pruned):
            continue
        try:
            placed.append((run, _point(run.data.params, prepared)))
        except InputError as error:
            obstacles.append((error.field.removeprefix("space."), f"{error.value}: {error.rule}"))
    return placed, obstacles


def _has_all_epochs(run: Run, prepared: Prepared) -> bool:
    """Whether a completed trial was trained for all epochs of the sweep.

    A trial can have fewer if its sweep was extended with other trials. Fewer epochs by early
    stopping count as all.
    """
    spec = prepared.spec
    return (
        spec.early_stopping.patience is not None
        or run.data.metrics.get(EPOCH, spec.epochs) >= spec.epochs
    )


def _point(texts: Mapping[str, str], prepared: Prepared) -> dict[str, Value]:
    """The tunable parameters with which the space gives a trial that MLflow has recorded.

    Args:
        texts: the trial's parameters, as MLflow's text.

    Raises:
        InputError: names a parameter, its value, and why the space cannot give it.
    """
    space, declared = prepared.space, prepared.task.declared
    params = parameter_values(texts, declared)
    defaults = {name: parameter.default for name, parameter in declared.items()}
    whole = defaults | prepared.task.complete(params, "space")
    settled: dict[str, Value] = {}
    for name, entry in space.entries.items():
        if entry.active(settled):
            if not space.holds(name, whole[name]):
                raise InputError(f"space.{name}", whole[name], f"not in the space, {entry}")
            settled[name] = whole[name]
    here = defaults | prepared.task.complete(settled, "space")
    for name, value in whole.items():
        if not same(here[name], value):
            rule = f"here it is always {here[name]!r} with the other values"
            raise InputError(f"space.{name}", value, rule)
    return {name: settled[name] for name in space.tunable if name in settled}


def make_trials(
    client: MlflowClient, points: Sequence[Placed], name: str, prepared: Prepared
) -> Iterator[FrozenTrial]:
    """Optuna's trials, in the order of their numbers in the earlier sweep.

    Args:
        points: as `place` returns them.
        name: of the earlier sweep.

    Yields:
        Trials with the user attribute ``warm_start``, ``NAME/NUMBER``. A run that lacks a metric
        is left out.
    """
    objectives = prepared.spec.search.objectives
    distributions = prepared.space.to_optuna()
    ordered = sorted(points, key=lambda placed: int(placed[0].data.tags[Tag.TRIAL]))
    pruned = [run.info.run_id for run, _ in ordered if trial_status(run) == "pruned"]
    histories = metric_points(client, pruned if len(objectives) == 1 else (), [VAL_LOSS])
    curves = {
        run_id: {point.step: point.value for point in points}
        for (run_id, _), points in histories.items()
    }
    for run, point in ordered:
        trial = _trial(run, point, distributions, objectives, curves.get(run.info.run_id, {}))
        if trial is not None:
            trial.set_user_attr("warm_start", f"{name}/{run.data.tags[Tag.TRIAL]}")
            yield trial


def _trial(
    run: Run,
    point: Mapping[str, Value],
    distributions: Mapping[str, BaseDistribution],
    objectives: Sequence[str],
    curve: Mapping[int, float],
) -> FrozenTrial | None:
    """A run as one of Optuna's trials; None if a metric that it needs was not recorded."""
    own = {name: distributions[name] for name in point}
    if trial_status(run) == "completed":
        values = [run.data.metrics.get(_METRICS[name]) for name in objectives]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        return create_trial(
            state=TrialState.COMPLETE, values=known, params=dict(point), distributions=own
        )
    if not curve:
        return None
    last = curve[max(curve)]
    return create_trial(
        state=TrialState.PRUNED,
        value=last,
        params=dict(point),
        distributions=own,
        intermediate_values=dict(curve),
    )
