"""From a sweep file to everything a sweep needs, with nothing started and nothing written but a fetched data set."""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from search.ray_session import check_resources
from search.space import SearchSpace
from search.spec import SweepSpec
from trainables.datasets import Dataset, check_reference, load_dataset
from trainables.errors import InputError
from trainables.folds import FoldKind, FoldPlan
from trainables.parameters import Value
from trainables.tasks import BUILT_IN_TASKS, LoadedTask, load_task

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

__all__ = ["Prepared", "count_gpus", "fold_plan", "prepare"]


_TERM = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TAKEN = ("criterion", "loss_se")


@dataclass(frozen=True)
class Prepared:
    """A sweep whose every input has been read and checked."""

    spec: SweepSpec
    task: LoadedTask
    dataset: Dataset
    folds: FoldPlan
    space: SearchSpace
    start_with: tuple[Mapping[str, Value], ...]


def count_gpus() -> int:
    """GPUs of this machine that torch can use. Imports torch only where a driver's device file exists."""
    if not any(any(Path("/dev").glob(pattern)) for pattern in ("nvidia[0-9]*", "kfd", "dxg")):
        return 0
    import torch

    return torch.cuda.device_count()


def prepare(
    spec: SweepSpec, data_dir: Path, *, local: bool = True, notify: Callable[[str], None] = lambda _: None
) -> Prepared:
    """Reads and checks all that ``spec`` names; the data set last, since it may have to be fetched.

    Args:
        local: the sweep runs on this machine, so its GPUs are the ones that count.

    Raises:
        InputError: the first thing that is wrong.
    """
    check_reference(spec.dataset.name)
    task = load_task(spec.task)
    space = SearchSpace.build(spec.space, task.declared)
    points = tuple(
        space.check_point(point, f"search.start_with[{i}]") for i, point in enumerate(spec.search.start_with)
    )
    if local:
        gpus = count_gpus() if spec.resources.gpu else 0
        check_resources(spec.resources.cpu, spec.resources.gpu, {"CPU": os.cpu_count() or 1, "GPU": gpus})
    given = spec.dataset
    dataset = load_dataset(
        given.name, limit=given.limit, seed=given.seed, size=given.size, data_dir=data_dir, notify=notify
    )
    folds = fold_plan(spec, dataset)
    params = task.complete(space.suggest(cast("BaseTrial", _UpperEnds())), "space")
    task.check(params, dataset.sample_shape)
    if spec.task not in BUILT_IN_TASKS:
        _try_task(task, params, dataset, spec.objective)
    elif spec.objective not in (None, "loss", task.objective):
        rule = f"{spec.task} measures no such term"
        raise InputError("objective", spec.objective, rule, f"one of: {task.objective}, loss")
    if spec.objective == "loss" and "loss" in space.tunable:
        rule = "trials that minimise different losses cannot be compared by it"
        raise InputError("objective", "loss", rule, f"leave it out to compare by {task.objective}, or fix space.loss")
    return Prepared(spec, task, dataset, folds, space, points)


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
    )


class _UpperEnds:
    """Draws the upper end of every range and the first of every choice: a point to try a task on."""

    def suggest_float(self, name: str, low: float, high: float, **_: object) -> float:
        return high

    def suggest_int(self, name: str, low: int, high: int, **_: object) -> int:
        return high

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        return choices[0]


def _try_task(task: LoadedTask, params: Mapping[str, Value], dataset: Dataset, objective: str | None) -> None:
    """Trains and evaluates a task of the user's on two samples. Raises: InputError for what would fail everywhere."""
    import torch

    implementation = copy.deepcopy(task.implementation)
    doing = "build()"
    try:
        model = implementation.build(params, dataset.sample_shape)
        images = torch.from_numpy(dataset.images[:2].copy()).float().div_(255)
        doing = "losses()"
        terms = dict(implementation.losses(model.train(), images, params))
        _check_terms(task, terms, len(images), objective)
        doing = "the gradient of the loss"
        terms["loss"].mean().backward()
        with torch.inference_mode():
            doing = "losses() in evaluation"
            terms = dict(implementation.losses(model.eval(), images, params))
            _check_terms(task, terms, len(images), objective)
            doing = "reconstruct()"
            made = implementation.reconstruct(model, images, params) if task.reconstructs else images
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        rule = f"{doing} fails on two samples of shape {dataset.sample_shape}: {type(error).__name__}: {error}"
        raise InputError("task", task.reference, rule) from error
    if tuple(getattr(made, "shape", ())) != tuple(images.shape):
        raise InputError("task", task.reference, "reconstruct() must return images of the shape that it is given")


def _check_terms(task: LoadedTask, terms: Mapping[str, Any], count: int, objective: str | None) -> None:
    for name, values in terms.items():
        if not _TERM.fullmatch(name) or name in _TAKEN:
            rule = f"losses() names a term {name!r}; names are letters, digits and _, and not {' or '.join(_TAKEN)}"
            raise InputError("task", task.reference, rule)
        shape = tuple(getattr(values, "shape", ()))
        if shape != (count,):
            rule = f"losses() must give one value a sample: {name!r} has the shape {shape} for {count} samples"
            raise InputError("task", task.reference, rule, "average over pixels, not over the batch")
        if not math.isfinite(float(values.detach().sum())):
            raise InputError("task", task.reference, f"{name!r} is not finite on two samples with an untrained model")
    known = f"it returns: {', '.join(sorted(terms))}"
    if objective is not None and objective not in terms:
        raise InputError("objective", objective, "losses() returns no such term", known)
    for name in ("loss", task.objective or "loss"):
        if name not in terms:
            raise InputError("task", task.reference, f"losses() returns no {name!r}", known)
