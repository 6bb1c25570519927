"""From a sweep file to everything a sweep needs, with nothing started and nothing written but a
fetched data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from foldrace.search.preparing.resources import check_resources
from foldrace.search.preparing.task_checks import check_objective, try_task
from foldrace.search.spec.arms import Arm, build_arms, differing
from foldrace.search.spec.space import SearchSpace
from foldrace.search.spec.sweep_spec import SweepSpec
from foldrace.trainables.data.datasets import Dataset, check_reference, load_dataset
from foldrace.trainables.tasks.loading import BUILT_IN_TASKS, LoadedTask, load_task
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.splits import FoldKind, FoldPlan

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

    from foldrace.search.preparing.warm_start import WarmStart

__all__ = ["Prepared", "count_gpus", "fold_plan", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """A sweep whose every input has been read and checked. A comparison has ``arms``, and nothing
    in ``space``.

    ``warm_start`` is read when the sweep begins
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


def count_gpus() -> int:
    """GPUs of this machine that torch can use. Imports torch only where a driver's device file
    exists."""
    if not any(any(Path("/dev").glob(pattern)) for pattern in ("nvidia[0-9]*", "kfd", "dxg")):
        return 0
    import torch

    return torch.cuda.device_count()


def prepare(
    spec: SweepSpec,
    data_dir: Path,
    *,
    local: bool = True,
    notify: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Reads and checks all that ``spec`` names; the data set last, since it may have to be
    fetched.

    Args:
        local: the sweep runs on this machine, so its GPUs are the ones that count.

    Raises:
        InputError: the first thing that is wrong.
    """
    check_reference(spec.dataset.name)
    task = load_task(spec.task)
    arms = build_arms(spec, task)
    space = SearchSpace.build({} if arms else spec.space, task.declared)
    points = tuple(
        space.check_point(point, f"search.start_with[{i}]")
        for i, point in enumerate(spec.search.start_with)
    )
    if local:
        gpus = count_gpus() if spec.resources.gpu else 0
        check_resources(
            spec.resources.cpu, spec.resources.gpu, {"CPU": os.cpu_count() or 1, "GPU": gpus}
        )
    given = spec.dataset
    dataset = load_dataset(
        given.name,
        limit=given.limit,
        seed=given.seed,
        size=given.size,
        data_dir=data_dir,
    )
    folds = fold_plan(spec, dataset)
    check_objective(task, spec.objective, differing(arms) if arms else space.tunable)
    for each in [arm.space for arm in arms] or [space]:
        params = task.complete(each.suggest(cast("BaseTrial", _UpperEnds())), "space")
        task.check(params, dataset.sample_shape)
        if spec.task not in BUILT_IN_TASKS:
            try_task(task, params, dataset, spec.objective)
    for arm in arms:
        task.check(task.complete(arm.default), dataset.sample_shape)
    return Prepared(spec, task, dataset, folds, space, points, arms)


def fold_plan(spec: SweepSpec, dataset: Dataset) -> FoldPlan:
    """The folds that ``spec`` asks for, of this data set. Raises: InputError."""
    folds = spec.folds
    return FoldPlan(
        len(dataset),
        FoldKind(folds.kind),
        splits=folds.splits,
        shuffle=folds.shuffle,
        seed=folds.seed,
        repeats=folds.repeats,
        fraction=folds.fraction,
        labels=dataset.labels,
        groups=dataset.groups,
        seeds=folds.seeds,
    )


class _UpperEnds:
    """Draws the upper end of every range and the first of every choice: a point to try a task
    on."""

    def suggest_float(self, name: str, low: float, high: float, **_: object) -> float:
        return high

    def suggest_int(self, name: str, low: int, high: int, **_: object) -> int:
        return high

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        return choices[0]
