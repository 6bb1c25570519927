"""What an earlier sweep has found, read from MLflow, for the sampler of a new one to learn
from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from foldrace.errors import InputError, StateError, first_line, nearest
from foldrace.search.preparing.prepare import Prepared
from foldrace.search.recording.reader import (
    metric_points,
    parameter_value,
    runs_of,
    search_runs,
    spec_text,
)
from foldrace.search.recording.schema import EPOCH, VAL_LOSS, Level, Tag, having, trial_status
from foldrace.search.recording.tracking import connect
from foldrace.search.sampling.samplers import distributions_of
from foldrace.search.spec.distributions import same
from foldrace.search.spec.space_checks import among
from foldrace.search.spec.sweep_spec import SchedulerSpec, SweepSpec, parse_spec
from foldrace.search.spec.yaml_files import read_yaml
from foldrace.trainables.tasks.parameters import Value

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["WarmStart", "read_warm_start", "with_warm_start"]

_FIELD = "search.warm_start"
_METRICS = {"val_loss": "val_loss", "parameters": "parameters", "seconds": "train_seconds"}
_WAY_OUT = "to try its best points all the same, put them into search.start_with"


@dataclass(frozen=True)
class WarmStart:
    """Trials of an earlier sweep, as Optuna's: the completed ones with their values, those given
    up with their intermediate values; and how many trials it had in all."""

    sweep: str
    trials: tuple[FrozenTrial, ...]
    total: int

    def __str__(self) -> str:
        """``warm start from NAME: 12 of 16 trials``."""
        return f"warm start from {self.sweep}: {len(self.trials)} of {self.total} trials"


def with_warm_start(prepared: Prepared, root: Path, uri: str) -> Prepared:
    """``prepared`` with the trials that ``search.warm_start`` asks for. Raises: as
    `read_warm_start`."""
    name = prepared.spec.search.warm_start
    return (
        prepared
        if name is None
        else replace(prepared, warm_start=read_warm_start(name, root, uri, prepared))
    )


def read_warm_start(name: str, root: Path, uri: str, prepared: Prepared) -> WarmStart:
    """The trials of the sweep of that name (the latest, if a server has several) that fit the
    space of ``prepared``.

    The sampler takes the losses of both sweeps for values of one function. So the earlier sweep
    must have had the same task, objective, data (the same images: a smaller ``dataset.limit``
    gives other losses), folds but for their seed, epochs and early stopping. The space may be
    another, larger or smaller: a trial is left out if the new space cannot give its parameters.
    Seeds and sampler may differ. So may the scheduler; but those that it gave up are then left
    out, since their losses are of other rungs, unless the new sweep gives none up.

    Args:
        root: where relative files in the earlier sweep's file are looked for.

    Raises:
        InputError: no such sweep, one that cannot be compared, or one of which no trial fits.
        StateError: the tracking store cannot be read.
    """
    file = uri.removeprefix("sqlite:///")
    if file != uri and not Path(file).is_file():  # asking would make it
        raise _unknown(name, ())
    try:
        client = connect(uri)
        run = _find(client, name)
        earlier = _spec_of(client, run, name, root)
        _check_same(earlier, run, name, prepared)
        runs = runs_of(client, run, Level.TRIAL)
        points, obstacles = _place(runs, prepared, earlier.scheduler)
        trials = tuple(_trials(client, points, name, prepared))
    except (InputError, StateError):
        raise
    except Exception as error:  # MLflow's own and those of whatever store lies below
        raise StateError(
            f"{uri}: the tracking store cannot be read: {first_line(error)}"
        ) from error
    if not trials:
        rule = "has no trial that was evaluated"
        if obstacles:
            parameter, count = Counter(parameter for parameter, _ in obstacles).most_common(1)[0]
            example = next(text for at, text in obstacles if at == parameter)
            rule = (
                f"none of its {len(runs)} trials fits this space; in the way of {count} is"
                f" {parameter} ({example})"
            )
        raise InputError(_FIELD, name, rule, "widen the space, or leave the warm start out")
    return WarmStart(name, trials, len(runs))


def _find(client: MlflowClient, name: str) -> Run:
    """The run of the latest sweep of that name. Raises: InputError."""
    runs = list(search_runs(client, having(level=Level.SWEEP)))
    named = [run for run in runs if run.data.tags[Tag.SWEEP] == name]
    if not named:
        raise _unknown(name, {str(run.data.tags[Tag.SWEEP]) for run in runs})
    return named[-1]


def _unknown(name: str, names: Collection[str]) -> InputError:
    hint = nearest(name, names) if names else "there is none yet; leave the warm start out"
    return InputError(_FIELD, name, "there is no sweep of that name in the tracking store", hint)


def _spec_of(client: MlflowClient, run: Run, name: str, root: Path) -> SweepSpec:
    """The earlier sweep's file. Raises: InputError."""
    try:
        return parse_spec(read_yaml(spec_text(client, run), name), root)
    except InputError as error:
        raise InputError(
            _FIELD, name, f"its sweep file is not one of this version: {error}"
        ) from error
    except StateError as error:
        raise InputError(_FIELD, name, "its sweep file is not in the tracking store") from error


def _check_same(earlier: SweepSpec, run: Run, name: str, prepared: Prepared) -> None:
    """Refuses a sweep whose losses are not of the same function. Raises: InputError."""
    spec, own = prepared.spec, prepared.task.objective
    if earlier.kind != "sweep":
        raise InputError(
            _FIELD, name, f"is a {earlier.kind}, and only a sweep's trials can be learned from"
        )
    pairs: dict[str, tuple[object, object]] = {
        "task": (earlier.task, spec.task),
        "objective": (earlier.objective or own, spec.objective or own),
        "epochs": (earlier.epochs, spec.epochs),
        "folds": (_seedless(earlier), _seedless(spec)),
        "early_stopping": (earlier.early_stopping.model_dump(), spec.early_stopping.model_dump()),
    }
    for field, (then, now) in pairs.items():
        if then != now:
            rule = (
                f"its losses are not comparable: {field} was {_shown(then)}, and is {_shown(now)}"
                " here"
            )
            raise InputError(_FIELD, name, rule, _WAY_OUT)
    if run.data.tags.get(Tag.DATASET_DIGEST) != prepared.dataset.digest:
        then, now = earlier.dataset.model_dump(), spec.dataset.model_dump()
        differing = [key for key in {**then, **now} if then.get(key) != now.get(key)]
        what = (
            ", ".join(f"dataset.{key} was {then.get(key)!r}" for key in differing)
            or "the data have changed since"
        )
        raise InputError(
            _FIELD,
            name,
            f"its losses are not comparable: it ran on other images ({what})",
            _WAY_OUT,
        )


def _seedless(spec: SweepSpec) -> Mapping[str, Any]:
    folds: Mapping[str, Any] = spec.folds.model_dump()
    return {key: value for key, value in folds.items() if key != "seed"}


def _shown(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {each}" for key, each in value.items()) or "off"
    return "the task's own" if value is None else value


Placed = tuple["Run", dict[str, Value]]
Obstacle = tuple[str, str]


def _place(
    runs: Sequence[Run], prepared: Prepared, scheduler: SchedulerSpec
) -> tuple[list[Placed], list[Obstacle]]:
    """The trials that the space can give, each with its tunable parameters; what is in the way of
    the others: a parameter and why. Those given up by a ``scheduler`` with other rungs are passed
    over."""
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
    """Not so for one that was left behind when others of its sweep were trained on; early stopping
    is no such case."""
    spec = prepared.spec
    return (
        spec.early_stopping.patience is not None
        or run.data.metrics.get(EPOCH, spec.epochs) >= spec.epochs
    )


def _point(texts: Mapping[str, str], prepared: Prepared) -> dict[str, Value]:
    """The tunable parameters with which the space gives a trial of the parameters that MLflow has
    as text.

    Raises:
        InputError: a parameter, its value, and why the space cannot give it.
    """
    space, declared = prepared.space, prepared.task.declared
    params = {name: parameter_value(name, text, declared) for name, text in texts.items()}
    whole = {
        name: parameter.default for name, parameter in declared.items()
    } | prepared.task.complete(params, "space")
    settled: dict[str, Value] = {}
    for name, entry in space.entries.items():
        if all(o in settled and among(settled[o], values) for o, values in entry.when.items()):
            if not space.holds(name, whole[name]):
                raise InputError(f"space.{name}", whole[name], f"not in the space, {entry}")
            settled[name] = whole[name]
    here = {
        name: parameter.default for name, parameter in declared.items()
    } | prepared.task.complete(settled, "space")
    for name, value in whole.items():
        if not same(here[name], value):
            raise InputError(
                f"space.{name}", value, f"here it is always {here[name]!r} with the other values"
            )
    return {name: settled[name] for name in space.tunable if name in settled}


def _trials(
    client: MlflowClient, points: Sequence[Placed], name: str, prepared: Prepared
) -> Iterator[FrozenTrial]:
    """Optuna's trials, in the order of their numbers."""
    objectives = prepared.spec.search.objectives
    distributions = distributions_of(prepared.space)
    ordered = sorted(points, key=lambda placed: int(placed[0].data.tags[Tag.TRIAL]))
    pruned = [run.info.run_id for run, _ in ordered if trial_status(run) == "pruned"]
    histories = metric_points(client, pruned if len(objectives) == 1 else (), [VAL_LOSS])
    curves = {
        run_id: {point.step: point.value for point in every}
        for (run_id, _), every in histories.items()
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
    """One of Optuna's trials; None if a figure that it needs was not recorded."""
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
