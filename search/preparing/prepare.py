"""From a sweep file to everything that a sweep needs; nothing is started.

Nothing is written either, except a data set that has to be downloaded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from foldrace.errors import InputError
from foldrace.search.preparing.pickling import check_pickled
from foldrace.search.preparing.prepared import Prepared
from foldrace.search.preparing.resources import (
    check_resources,
    count_gpus,
    process_cpus,
    warn_of_readers,
)
from foldrace.search.preparing.task_checks import (
    Tried,
    check_direction,
    check_metrics,
    check_objective,
    part_metrics,
    try_task,
)
from foldrace.search.recording.mlflow_internals import check_name
from foldrace.search.sampling.arms import Arm, build_arms, differing
from foldrace.search.sampling.points import Key, point_key
from foldrace.search.spec.space import SearchSpace
from foldrace.search.spec.sweep_spec import SweepSpec
from foldrace.search.text import params_text
from foldrace.trainables.data.arrays import Dataset
from foldrace.trainables.data.datasets import load_dataset
from foldrace.trainables.data.references import check_reference
from foldrace.trainables.tasks.loading import BUILT_IN_TASKS, LoadedTask, load_task
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.splits import FoldKind, FoldPlan

__all__ = ["Prepared", "fold_plan", "prepare"]

log = logging.getLogger(__name__)


def prepare(
    spec: SweepSpec, data_dir: Path, *, local: bool = True, task: LoadedTask | None = None
) -> Prepared:
    """Reads and checks everything that ``spec`` names; the data set last, as it may be downloaded.

    Args:
        data_dir: folder of downloaded data sets.
        local: the sweep runs on this node, so its CPUs and GPUs must be enough for a trial.
        task: the one that ``spec`` names, if it is loaded already.

    Raises:
        InputError: the first thing that is wrong.
    """
    check_reference(spec.dataset.name)
    task = task or load_task(spec.task, spec.metrics)
    arms = build_arms(spec, task)
    space = SearchSpace.build({} if arms else spec.space, task.declared)
    points = _starting_points(spec, space)
    if local:
        gpus = count_gpus() if spec.resources.gpu else 0
        available = [{"CPU": process_cpus(), "GPU": gpus}]
        check_resources(spec.resources.cpu, spec.resources.gpu, available)
    for name in task.declared:
        check_name("task", name)
    given = spec.dataset
    dataset = load_dataset(
        given.name,
        limit=given.limit,
        seed=given.seed,
        size=given.size,
        wanted=given.wanted,
        workers=given.workers,
        data_dir=data_dir,
    )
    if given.workers is not None:
        warn_of_readers(given.workers, spec.resources.cpu)
    folds = fold_plan(spec, dataset)
    for leak in folds.leaks():
        log.warning("folds: %s", leak)
    _check_weights(dataset, folds)
    check_objective(task, spec.objective, differing(arms) if arms else space.tunable)
    tried = _check_task(spec, task, dataset, space, arms)
    compared = task.compared_by(spec.objective.metric, spec.objective.direction)
    objective = replace(compared, metric=compared.named(tried.measured))
    metrics = part_metrics(spec, task, dataset.sample, objective.name, tried.measured)
    if given.workers is not None or spec.task not in BUILT_IN_TASKS:
        check_pickled(spec, task, dataset)
    probabilities = check_metrics(task, metrics, tried, dataset.sample)
    if objective.name in metrics and spec.objective.direction is None:
        better = task.metrics[objective.name].maximize
        objective = objective if better is None else replace(objective, maximize=better)
    check_direction(task, spec.objective, objective)
    return Prepared(
        spec,
        task,
        dataset,
        folds,
        space,
        points,
        arms,
        objective=objective,
        metrics=metrics,
        probabilities=probabilities,
    )


def _starting_points(spec: SweepSpec, space: SearchSpace) -> tuple[Mapping[str, Value], ...]:
    """The tunable part of each point to try first. Raises: InputError."""
    points: list[Mapping[str, Value]] = []
    places: dict[Key, int] = {}
    for place, given in enumerate(spec.search.start_with):
        field = f"search.start_with[{place}]"
        point = space.check_point(given, field)
        if space.is_complete(point):
            earlier = places.setdefault(point_key(point), place)
            if earlier != place:
                rule = f"is the same configuration as search.start_with[{earlier}]"
                raise InputError(field, params_text(point), rule, "leave it out")
        points.append(point)
    return tuple(points)


def _check_task(
    spec: SweepSpec, task: LoadedTask, dataset: Dataset, space: SearchSpace, arms: Sequence[Arm]
) -> Tried:
    """Checks the task's parameters at the upper end of each space, and tries a user's own task.

    Returns:
        What is known of a user's own task.
    """
    tried = Tried()
    for each in [arm.space for arm in arms] or [space]:
        params = task.complete(each.point(lambda _, entry: entry.upper), "space")
        task.check(params, dataset.sample)
        if spec.task not in BUILT_IN_TASKS:
            tried = try_task(task, params, dataset, spec.objective.metric)
    for arm in arms:
        task.check(task.complete(arm.default), dataset.sample)
    return tried


def _check_weights(dataset: Dataset, folds: FoldPlan) -> None:
    """Refuses a part in which no sample counts. Raises: InputError."""
    weights, tested = dataset.of_role("weight"), dataset.of_role("weight", test=True)
    if weights is None:
        return
    parts = {"the test part": tested}
    for number, split in enumerate(folds.split()):
        parts[f"the training part of fold {number}"] = weights[split.train]
        parts[f"the validation part of fold {number}"] = weights[split.validation]
    for part, held in parts.items():
        if held is not None and not held.sum():
            rule = f"is 0 for all samples of {part}"
            hint = "leave those samples out, or write weight: false"
            raise InputError("dataset.weight", dataset.sample.roles.weight, rule, hint)


def fold_plan(spec: SweepSpec, dataset: Dataset) -> FoldPlan:
    """The folds that ``spec`` asks for, of this data set. Raises: InputError."""
    folds = spec.folds
    return FoldPlan(
        len(dataset),
        FoldKind(folds.kind),
        splits=folds.splits,
        shuffle=folds.shuffle,
        seed=folds.seed,
        repeats=folds.repetitions,
        fraction=folds.fraction,
        labels=dataset.labels,
        groups=dataset.groups,
        seeds=folds.seeds,
        gap=folds.gap,
        max_train=folds.max_train,
        time=dataset.of_role("time"),
        split_numbers=dataset.of_role("split"),
    )
