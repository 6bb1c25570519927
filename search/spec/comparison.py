"""The ``comparison`` section of a sweep file: optimizers tuned side by side, each in its own
space, at equal cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

from foldrace.errors import nearest
from foldrace.search.spec.distributions import SpaceEntry
from foldrace.search.spec.fields import NAME, Bare, Name, Section, Text, broken
from foldrace.search.spec.sections import Count
from foldrace.trainables.tasks.parameters import OPTIMIZER_PARAMETERS

if TYPE_CHECKING:
    from pydantic_core import PydanticCustomError

    from foldrace.search.spec.sweep_spec import SweepSpec

__all__ = [
    "ArmSpec",
    "ComparisonSpec",
    "check_kind",
    "planned_trials",
    "trials_text",
    "with_defaults",
]

_SAMPLERS = {"random": "random", "qmc": "quasi-random"}
_FOR_SEVERAL = ("nsga2", "tpe", "random")
_FOLDS = ("kfold", "stratified", "group")
_DEFAULTS = {"scheduler": ("kind", "fifo"), "search": ("sampler", "random")}
_PLACE = ("comparison", "arms")

Label = Annotated[
    str, Text("must be an arm's label: letters, digits, '_' and '-'", NAME.pattern, NAME.longest)
]


def _optimizer(value: object) -> str:
    if value not in OPTIMIZER_PARAMETERS:
        raise broken("is no optimizer", nearest(value, OPTIMIZER_PARAMETERS))
    return str(value)


class ArmSpec(Section):
    """One optimizer of a comparison, with what is tuned for it alone."""

    optimizer: (
        Annotated[
            str,
            PlainValidator(_optimizer),
            WithJsonSchema({"type": "string", "enum": list(OPTIMIZER_PARAMETERS)}),
        ]
        | None
    ) = Field(default=None, description="the optimizer; by default the one that the label names")
    space: dict[Name, SpaceEntry] = Field(
        default_factory=dict,
        description="parameters of this arm: a fixed value or a distribution each",
    )
    defaults: dict[Name, Bare] = Field(
        default_factory=dict,
        description="values of the arm's default trial, where the optimizer's own will not do",
    )


def _arms(arms: dict[str, ArmSpec]) -> dict[str, ArmSpec]:
    """``arms`` with the optimizers that labels name; refuses what no comparison can be made of."""
    if len(arms) < 2:
        raise broken("must hold at least two arms", "arms: {adam: {}, sgd: {}}")
    for label, arm in arms.items():
        if arm.optimizer is None and label not in OPTIMIZER_PARAMETERS:
            rule = f"is missing, and {label} is no optimizer's name"
            raise broken(
                rule, nearest(label, OPTIMIZER_PARAMETERS), at=(label, "optimizer"), value=None
            )
        for part, names in (("space", arm.space), ("defaults", arm.defaults)):
            if "optimizer" in names:
                raise broken(
                    "is the arm's own, and stands beside its space",
                    at=(label, part, "optimizer"),
                    value=None,
                )
    return {
        label: arm.model_copy(update={"optimizer": arm.optimizer or label})
        for label, arm in arms.items()
    }


class ComparisonSpec(Section):
    """What is compared."""

    arms: Annotated[dict[Label, ArmSpec], AfterValidator(_arms)] = Field(
        description="the optimizers, two or more, each under a label"
    )
    repeats: Count = Field(
        default=3,
        description=(
            "trainings of each arm's best configuration, with new seeds on newly drawn folds"
        ),
    )


def with_defaults(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sweep file's mapping with the defaults that a comparison has and a sweep has not."""
    if tree.get("kind") != "comparison":
        return tree
    given = {section: tree.get(section, {}) for section in _DEFAULTS}
    filled = {
        section: {key: default, **given[section]}
        for section, (key, default) in _DEFAULTS.items()
        if isinstance(given[section], Mapping)
    }
    return {**tree, **filled}


def check_kind(spec: SweepSpec) -> None:
    """Refuses what does not go with the spec's ``kind``.

    Raises:
        PydanticCustomError: the first rule that is broken.
    """
    for error in _comparison_errors(spec) if spec.kind == "comparison" else _sweep_errors(spec):
        raise error


def _sweep_errors(spec: SweepSpec) -> Iterator[PydanticCustomError]:
    if spec.comparison is not None:
        rule = "is for kind: comparison alone, and this is kind: sweep"
        yield broken(rule, "add kind: comparison", at=("comparison",), value=None)
    yield from _objective_errors(spec)


def _objective_errors(spec: SweepSpec) -> Iterator[PydanticCustomError]:
    """What does not go with more than one objective."""
    search = spec.search
    if len(search.objectives) == 1:
        return
    if search.sampler not in _FOR_SEVERAL:
        rule = f"must be one of {', '.join(_FOR_SEVERAL)} with more than one objective"
        yield broken(rule, at=("search", "sampler"), value=search.sampler)
    if spec.scheduler.kind != "fifo":
        rule = (
            "must be fifo with more than one objective: a trial that was given up has no place in"
            " a Pareto front"
        )
        yield broken(
            rule, "scheduler: {kind: fifo}", at=("scheduler", "kind"), value=spec.scheduler.kind
        )


def _comparison_errors(spec: SweepSpec) -> Iterator[PydanticCustomError]:
    if spec.comparison is None:
        rule, hint = (
            "is missing: kind: comparison compares its arms",
            "comparison: {arms: {adam: {}, sgd: {}}}",
        )
        yield broken(rule, hint, at=("comparison",), value=None)
        return
    search, folds = spec.search, spec.folds
    if search.sampler not in _SAMPLERS:
        rule = (
            "must be random or qmc in a comparison: the best of n trials can be told of draws that"
            " do not learn"
        )
        yield broken(rule, at=("search", "sampler"), value=search.sampler)
    if len(search.objectives) > 1:
        rule = "must be [val_loss] in a comparison: its test compares losses"
        yield broken(rule, at=("search", "objectives"), value=list(search.objectives))
    if search.warm_start is not None:
        rule = "is not for a comparison: its draws do not learn"
        yield broken(rule, at=("search", "warm_start"), value=search.warm_start)
    if search.start_with:
        rule, hint = (
            "is not for a comparison: every arm begins with its defaults",
            "see comparison.arms.LABEL.defaults",
        )
        yield broken(rule, hint, at=("search", "start_with"), value=None)
    for name in ("time_budget", "fold_epochs", "target"):
        if (limit := getattr(search, name)) is not None:
            rule = "is not for a comparison: it would cut the arms off at different points"
            yield broken(rule, "search.trials is what it costs", at=("search", name), value=limit)
    if spec.scheduler.kind != "fifo":
        rule = (
            "must be fifo in a comparison: arms whose trials are stopped do not get the same"
            " fold-epochs"
        )
        yield broken(rule, at=("scheduler", "kind"), value=spec.scheduler.kind)
    if spec.early_stopping.patience is not None:
        rule = (
            "is not for a comparison: arms whose folds stop early do not get the same fold-epochs"
        )
        yield broken(rule, at=("early_stopping", "patience"), value=spec.early_stopping.patience)
    if folds.kind not in _FOLDS:
        rule = (
            "must be one of "
            + ", ".join(_FOLDS)
            + " in a comparison: its test needs K folds, drawn once a repeat"
        )
        yield broken(rule, at=("folds", "kind"), value=folds.kind)
    if folds.seeds > 1:
        rule = "must be 1 in a comparison: its repeats train with new seeds"
        yield broken(rule, at=("folds", "seeds"), value=folds.seeds)
    if not folds.shuffle:
        rule = "must be true in a comparison: every repeat redraws the folds"
        yield broken(rule, at=("folds", "shuffle"), value=False)
    yield from _space_errors(spec, spec.comparison)


def _space_errors(spec: SweepSpec, comparison: ComparisonSpec) -> Iterator[PydanticCustomError]:
    if "optimizer" in spec.space:
        rule, hint = (
            "is what the arms of a comparison differ in",
            "leave it out of the space that they share",
        )
        yield broken(rule, hint, at=("space", "optimizer"), value=None)
    for label, arm in comparison.arms.items():
        for name in sorted(spec.space.keys() & arm.space.keys()):
            rule = "stands in the space that all arms share as well"
            yield broken(
                rule, "keep it in one of them", at=(*_PLACE, label, "space", name), value=None
            )


def planned_trials(spec: SweepSpec) -> int:
    """How many trials there are if no arm fails altogether."""
    if spec.comparison is None:
        return spec.search.trials
    return len(spec.comparison.arms) * (1 + spec.search.trials + spec.comparison.repeats)


def trials_text(spec: SweepSpec) -> str:
    """``20 trials``, or ``2 arms × (1 default + 8 random trials + 3 repeats)``."""
    trials = spec.search.trials
    if spec.comparison is None:
        return f"{trials} trials"
    arms, repeats = len(spec.comparison.arms), spec.comparison.repeats
    drawn = f"{trials} {_SAMPLERS[spec.search.sampler]} trials"
    return f"{arms} arms × (1 default + {drawn} + {repeats} repeats)"
