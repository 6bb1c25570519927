"""The warm start of a sweep: trials of an earlier sweep, read from MLflow."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldrace.errors import InputError, StateError, first_line, nearest
from foldrace.search.preparing.prepared import Prepared, WarmStart
from foldrace.search.preparing.warm_trials import make_trials, place
from foldrace.search.recording.reader import (
    recorded_objective,
    runs_of,
    search_runs,
    spec_text,
)
from foldrace.search.recording.schema import Level, Tag, having
from foldrace.search.recording.tracking import connect
from foldrace.search.spec.sweep_spec import SweepSpec, parse_spec
from foldrace.search.spec.yaml_files import read_yaml
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.tasks.objective import Objective

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["WarmStart", "read_warm_start", "with_warm_start"]

log = logging.getLogger(__name__)

_FIELD = "search.warm_start"
_WAY_OUT = "to try its best points all the same, put them into search.start_with"


def with_warm_start(prepared: Prepared, root: Path, uri: str) -> Prepared:
    """``prepared`` with the trials that ``search.warm_start`` names, if it does.

    Args:
        root, uri: as in `read_warm_start`.

    Raises:
        InputError, StateError: as `read_warm_start`.
    """
    name = prepared.spec.search.warm_start
    if name is None:
        return prepared
    return replace(prepared, warm_start=read_warm_start(name, root, uri, prepared))


def read_warm_start(name: str, root: Path, uri: str, prepared: Prepared) -> WarmStart:
    """The trials of an earlier sweep that fit the space of ``prepared``.

    The sampler treats the losses of both sweeps as values of one function. So the earlier sweep
    must have had the same task, objective, data (the same images: a smaller ``dataset.limit``
    gives other losses), folds except for their seed, epochs and early stopping. The space may be
    larger or smaller: a trial is left out if the new space cannot give its parameters. Seeds and
    sampler may differ. The scheduler may differ too, but then pruned trials are left out, since
    their losses belong to other rungs, unless the new sweep prunes no trials.

    Args:
        name: of the earlier sweep; if a server has several of that name, the latest.
        root: folder in which relative files of the earlier sweep's file are looked for.
        uri: of the tracking store.

    Raises:
        InputError: there is no such sweep, it cannot be compared, or none of its trials fits.
        StateError: the tracking store cannot be read.
    """
    file = uri.removeprefix("sqlite:///")
    if file != uri and not Path(file).is_file():  # connecting would create it
        raise _unknown(name, ())
    try:
        client = connect(uri)
        run = _find(client, name)
        earlier = _spec_of(client, run, name, root)
        _check_same(earlier, run, name, prepared)
        runs = runs_of(client, run, Level.TRIAL)
        points, obstacles = place(runs, prepared, earlier.scheduler)
        trials = tuple(make_trials(client, points, name, prepared))
    except (InputError, StateError):
        raise
    except Exception as error:  # MLflow's errors, and those of the store below it
        raise StateError(
            f"{uri}: the tracking store cannot be read: {first_line(error)}"
        ) from error
    if not trials:
        rule = "has no completed or pruned trial with every objective"
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
    """The run of the latest sweep of this name. Raises: InputError."""
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
        rule = f"its sweep file is not valid in this version: {error}"
        raise InputError(_FIELD, name, rule) from error
    except StateError as error:
        raise InputError(_FIELD, name, "its sweep file is not in the tracking store") from error


def _objective(spec: SweepSpec, task: LoadedTask, known: Objective) -> str:
    """``mse``, or ``accuracy, maximize``.

    Args:
        known: as it was decided when the sweep began; LOSS: as its file says.
    """
    compared = known
    if known.metric is None:
        compared = task.compared_by(spec.objective.metric, spec.objective.direction)
    named = compared.metric or "the loss"
    return f"{named}, {compared.direction}" if compared.maximize else named


def _check_same(earlier: SweepSpec, run: Run, name: str, prepared: Prepared) -> None:
    """Refuses a sweep whose losses are values of another function; warns of a task whose code has
    changed, since not every change is one of the loss. Raises: InputError."""
    spec, task = prepared.spec, prepared.task
    if earlier.kind != "sweep":
        rule = f"is a {earlier.kind}, and the sampler can learn only from a sweep's trials"
        raise InputError(_FIELD, name, rule)
    pairs: dict[str, tuple[object, object]] = {
        "task": (earlier.task, spec.task),
        "objective": (
            _objective(earlier, task, recorded_objective(run)),
            _objective(spec, task, prepared.objective),
        ),
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
    code = run.data.tags.get(Tag.TASK_DIGEST, prepared.task.digest)
    if code != prepared.task.digest:
        log.warning(
            "%s: the code of %s has changed since %s ran; if its loss has changed with it, leave"
            " the warm start out",
            _FIELD,
            spec.task,
            name,
        )
    if run.data.tags.get(Tag.DATASET_DIGEST) != prepared.dataset.digest:
        then, now = earlier.dataset.model_dump(), spec.dataset.model_dump()
        differing = [key for key in {**then, **now} if then.get(key) != now.get(key)]
        what = (
            ", ".join(f"dataset.{key} was {then.get(key)!r}" for key in differing)
            or "the data have changed since"
        )
        rule = f"its losses are not comparable: it ran on other images ({what})"
        raise InputError(_FIELD, name, rule, _WAY_OUT)


def _seedless(spec: SweepSpec) -> Mapping[str, Any]:
    folds: Mapping[str, Any] = spec.folds.model_dump()
    return {key: value for key, value in folds.items() if key != "seed"}


def _shown(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {each}" for key, each in value.items()) or "off"
    return "the task's own" if value is None else value
