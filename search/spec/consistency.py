"""Rules between sections of a sweep file: each function yields what is broken, in order.

The functions take the sections that they compare, so that `SweepSpec` can use them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic_core import PydanticCustomError

from foldrace.search.spec.comparison import ComparisonSpec
from foldrace.search.spec.distribution_base import Distribution
from foldrace.search.spec.fields import broken
from foldrace.search.spec.search_sections import LimitsSpec, SchedulerSpec, SearchSpec
from foldrace.search.spec.training_sections import EarlyStoppingSpec, FoldsSpec
from foldrace.trainables.training.ladder import Rung

__all__ = [
    "comparison_errors",
    "deterministic_errors",
    "ladder_errors",
    "objective_errors",
    "shared_space_errors",
]

Errors = Iterator[PydanticCustomError]

_SAMPLERS_OF_COMPARISONS = ("random", "qmc")
_SAMPLERS_OF_SEVERAL_OBJECTIVES = ("nsga2", "tpe", "random")
_FOLDS_OF_COMPARISONS = ("kfold", "stratified", "group")
_NOT_DETERMINISTIC = {
    "trial_timeout": "which fails a trial by the clock",
    "memory": "which fails a trial by what its worker process holds",
    "fail_fast": "which ends a sweep wherever the other trials are at that moment",
}


def objective_errors(search: SearchSpec, scheduler: SchedulerSpec) -> Errors:
    """What several objectives do not allow."""
    if len(search.objectives) == 1:
        return
    if search.sampler not in _SAMPLERS_OF_SEVERAL_OBJECTIVES:
        samplers = ", ".join(_SAMPLERS_OF_SEVERAL_OBJECTIVES)
        rule = f"must be one of {samplers} with more than one objective"
        yield broken(rule, at=("search", "sampler"), value=search.sampler)
    if scheduler.kind != "fifo":
        rule = (
            "must be fifo with more than one objective: a pruned trial cannot be part of a Pareto"
            " front"
        )
        hint = "scheduler: {kind: fifo}"
        yield broken(rule, hint, at=("scheduler", "kind"), value=scheduler.kind)


def comparison_errors(
    search: SearchSpec,
    scheduler: SchedulerSpec,
    folds: FoldsSpec,
    early_stopping: EarlyStoppingSpec,
) -> Errors:
    """What ``kind: comparison`` does not allow: it needs arms of equal cost and paired folds."""
    yield from _comparison_search_errors(search)
    if scheduler.kind != "fifo":
        rule = (
            "must be fifo in a comparison: arms with pruned trials do not get the same fold-epochs"
        )
        yield broken(rule, at=("scheduler", "kind"), value=scheduler.kind)
    if early_stopping.patience is not None:
        rule = (
            "is not for a comparison: arms whose folds stop early do not get the same fold-epochs"
        )
        yield broken(rule, at=("early_stopping", "patience"), value=early_stopping.patience)
    if folds.kind not in _FOLDS_OF_COMPARISONS:
        kinds = ", ".join(_FOLDS_OF_COMPARISONS)
        rule = f"must be one of {kinds} in a comparison: its test needs K folds, drawn per repeat"
        yield broken(rule, at=("folds", "kind"), value=folds.kind)
    if folds.seeds > 1:
        rule = "must be 1 in a comparison: its repeats train with new seeds"
        yield broken(rule, at=("folds", "seeds"), value=folds.seeds)
    if not folds.shuffle:
        rule = "must be true in a comparison: every repeat redraws the folds"
        yield broken(rule, at=("folds", "shuffle"), value=False)


def _comparison_search_errors(search: SearchSpec) -> Errors:
    if search.sampler not in _SAMPLERS_OF_COMPARISONS:
        rule = (
            "must be random or qmc in a comparison: the best of n trials can be estimated only if"
            " the draws are independent of the results"
        )
        yield broken(rule, at=("search", "sampler"), value=search.sampler)
    if len(search.objectives) > 1:
        rule = "must be [val_loss] in a comparison: its test compares losses"
        yield broken(rule, at=("search", "objectives"), value=list(search.objectives))
    if search.warm_start is not None:
        rule = "is not for a comparison: its draws do not depend on results"
        yield broken(rule, at=("search", "warm_start"), value=search.warm_start)
    if search.start_with:
        rule = "is not for a comparison: every arm begins with its defaults"
        hint = "see comparison.arms.LABEL.defaults"
        yield broken(rule, hint, at=("search", "start_with"), value=None)
    for name in ("time_budget", "fold_epochs", "target"):
        if (limit := getattr(search, name)) is not None:
            rule = "is not for a comparison: it would cut the arms off at different points"
            yield broken(rule, "search.trials sets the cost", at=("search", name), value=limit)


def shared_space_errors(shared: Mapping[str, Distribution], comparison: ComparisonSpec) -> Errors:
    """What the space that all arms share must not hold."""
    if "optimizer" in shared:
        rule, hint = (
            "is what the arms of a comparison differ in",
            "leave it out of the shared space",
        )
        yield broken(rule, hint, at=("space", "optimizer"), value=None)
    for label, arm in comparison.arms.items():
        for name in sorted(shared.keys() & arm.space.keys()):
            rule, hint = (
                "is in the space that all arms share as well",
                "keep it in one of them",
            )
            place = ("comparison", "arms", label, "space", name)
            yield broken(rule, hint, at=place, value=None)


def deterministic_errors(
    search: SearchSpec, limits: LimitsSpec, comparison: ComparisonSpec | None
) -> Errors:
    """What ``search.deterministic`` does not allow: anything that depends on a clock or a node."""
    place = ("search", "deterministic")
    if not search.deterministic:
        return
    if comparison is not None:
        yield broken("is not for a comparison", "leave it out", at=place, value=True)
    if search.max_concurrent_trials is None:
        rule = (
            "needs search.max_concurrent_trials: the results depend on how many trials train side"
            " by side"
        )
        yield broken(rule, "max_concurrent_trials: 4", at=place, value=True)
    if search.time_budget is not None:
        rule = "cannot be combined with search.time_budget, which ends a sweep by the clock"
        yield broken(rule, "search.fold_epochs", at=place, value=True)
    if "seconds" in search.objectives:
        rule = "cannot be combined with the objective seconds, which a clock measures"
        yield broken(rule, at=place, value=True)
    for name, why in _NOT_DETERMINISTIC.items():
        if getattr(limits, name):
            rule = f"cannot be combined with limits.{name}, {why}"
            yield broken(rule, f"leave limits.{name} out", at=place, value=True)


def ladder_errors(
    search: SearchSpec, scheduler: SchedulerSpec, top: Rung, ladder: Sequence[Rung]
) -> Errors:
    """What does not fit the ladder.

    Args:
        top: all folds and epochs.
        ladder: the rungs, given or by default.
    """
    if scheduler.ladder is not None:
        place = ("scheduler", "ladder")
        if scheduler.kind == "fifo":
            rule = "is not for kind: fifo, which trains every trial to the end"
            yield broken(rule, at=place, value=None)
        if scheduler.ladder[-1] != (top.folds, top.epochs):
            rule = f"must end with all {top.folds} folds and {top.epochs} epochs"
            hint = f"end it with [{top.folds}, {top.epochs}]"
            given = [list(rung) for rung in scheduler.ladder]
            yield broken(rule, hint, at=place, value=given)
    if scheduler.brackets > 1:
        place = ("scheduler", "brackets")
        if scheduler.kind != "promotion":
            rule = "is for kind: promotion alone"
            yield broken(rule, "leave it out", at=place, value=scheduler.brackets)
        if scheduler.brackets > len(ladder):
            rule = f"must be at most the number of rungs, {len(ladder)}"
            yield broken(rule, at=place, value=scheduler.brackets)
    budget, cost = search.fold_epochs, ladder[-1].cost
    if budget is not None and budget < cost:
        rule = (
            f"must be at least the cost of one completed trial, {top.folds} folds × {top.epochs}"
            " epochs"
        )
        yield broken(rule, str(cost), at=("search", "fold_epochs"), value=budget)
