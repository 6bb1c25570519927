"""A sweep file, validated: what is trained on what, what varies, and how the search goes about it.

Reading one imports neither torch nor Optuna nor Ray, so that a mistake is reported in a blink.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from foldrace.errors import InputError
from foldrace.search.spec.comparison import (
    ComparisonSpec,
    check_kind,
    planned_trials,
    trials_text,
    with_defaults,
)
from foldrace.search.spec.distributions import Fixed, SpaceEntry
from foldrace.search.spec.fields import Name, Section, Text, broken
from foldrace.search.spec.messages import translate
from foldrace.search.spec.sections import (
    Count,
    DatasetSpec,
    EarlyStoppingSpec,
    FoldsSpec,
    LimitsSpec,
    Line,
    NamedDataset,
    ResourcesSpec,
    SchedulerSpec,
    SearchSpec,
    TrackingSpec,
    TrainingSpec,
    named_dataset,
)
from foldrace.search.spec.yaml_files import dump_yaml, plain, read_file, set_value
from foldrace.trainables.training.ladder import Rung, default_ladder, lockstep_ladder

if TYPE_CHECKING:
    from pydantic_core import PydanticCustomError

__all__ = [
    "ComparisonSpec",
    "DatasetSpec",
    "EarlyStoppingSpec",
    "FoldsSpec",
    "LimitsSpec",
    "ResourcesSpec",
    "SchedulerSpec",
    "SearchSpec",
    "SweepSpec",
    "TrackingSpec",
    "TrainingSpec",
    "json_schema",
    "load_spec",
    "parse_spec",
]

_DEFAULT_TASK = "autoencoder"


def _default_name(task: object) -> str:
    name = (
        re.sub(r"[^A-Za-z0-9_.-]+", "-", task.rpartition(":")[2]) if isinstance(task, str) else ""
    )
    return re.sub(r"\.{2,}", ".", name).lstrip("_.-")[:64] or "sweep"


class SweepSpec(Section):
    """A whole sweep. Made by `load_spec` and `parse_spec`, whose errors are `InputError`."""

    kind: Literal["sweep", "comparison"] = Field(
        default="sweep",
        description="sweep searches one space; comparison tunes several optimizers at equal cost",
    )
    name: Annotated[
        str,
        Text(
            "must be 1 to 64 letters, digits, '-', '_' or '.', a letter or digit first and no"
            " '..'",
            r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_.-]{0,63}",
            64,
        ),
    ] = Field(default=_DEFAULT_TASK, description="the sweep's name; by default the task's")
    task: Line = Field(
        default=_DEFAULT_TASK,
        description="a built-in task, ./file.py:ClassName, or package.module:ClassName",
    )
    dataset: NamedDataset = Field(description="the images, by name or with options")
    folds: FoldsSpec = Field(default=FoldsSpec(), description="cross-validation")
    epochs: Count = Field(default=9, description="epochs of each fold at most")
    early_stopping: EarlyStoppingSpec = Field(
        default=EarlyStoppingSpec(), description="ends a fold that has ceased to improve"
    )
    objective: Annotated[str, Text(longest=100)] | None = Field(
        default=None,
        description=(
            "per-sample term that trials are compared by, such as mse; null: the task's own"
        ),
    )
    space: dict[Name, SpaceEntry] = Field(
        default_factory=dict, description="parameters: a fixed value or a distribution each"
    )
    comparison: ComparisonSpec | None = Field(
        default=None, description="kind: comparison alone: the arms"
    )
    search: SearchSpec = Field(default=SearchSpec(), description="how trials are drawn")
    scheduler: SchedulerSpec = Field(default=SchedulerSpec(), description="which trials go on")
    resources: ResourcesSpec = Field(
        default=ResourcesSpec(), description="what one trial occupies"
    )
    limits: LimitsSpec = Field(default=LimitsSpec(), description="what a sweep puts up with")
    training: TrainingSpec = Field(
        default=TrainingSpec(), description="how a trial's folds are computed"
    )
    tracking: TrackingSpec = Field(
        default=TrackingSpec(), description="where results are recorded"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        name = data.get("name")
        return with_defaults(
            {
                **data,
                "name": _default_name(data.get("task", _DEFAULT_TASK)) if name is None else name,
            }
        )

    @model_validator(mode="after")
    def _parts_fit(self) -> SweepSpec:
        grace = self.scheduler.grace_epochs
        if grace > self.epochs:
            rule = f"must be at most the number of epochs, {self.epochs}"
            raise broken(rule, at=("scheduler", "grace_epochs"), value=grace)
        check_kind(self)
        for error in self._order_errors():
            raise error
        for error in self._ladder_errors():
            raise error
        return self

    def _order_errors(self) -> Iterator[PydanticCustomError]:
        """What a sweep that does not depend on time cannot have."""
        search, place = self.search, ("search", "deterministic")
        if not search.deterministic:
            return
        if self.comparison is not None:
            yield broken("is not for a comparison", "leave it out", at=place, value=True)
        if search.max_concurrent_trials is None:
            rule = (
                "needs search.max_concurrent_trials: the results depend on how many trials train"
                " side by side"
            )
            yield broken(rule, "max_concurrent_trials: 4", at=place, value=True)
        if search.time_budget is not None:
            rule = "cannot be with search.time_budget, which ends a sweep by the clock"
            yield broken(rule, "search.fold_epochs", at=place, value=True)
        if "seconds" in search.objectives:
            yield broken(
                "cannot be with the objective seconds, which a clock measures",
                at=place,
                value=True,
            )

    def _ladder_errors(self) -> Iterator[PydanticCustomError]:
        """What is wrong with the ladder, the brackets or the budget, for these folds and
        epochs."""
        scheduler, top = self.scheduler, [self.folds.count, self.epochs]
        if scheduler.ladder is not None:
            place = ("scheduler", "ladder")
            if scheduler.kind == "fifo":
                yield broken(
                    "is not for kind: fifo, which trains every trial to the end",
                    at=place,
                    value=None,
                )
            if list(scheduler.ladder[-1]) != top:
                rule = f"must end with all {top[0]} folds and {top[1]} epochs"
                yield broken(
                    rule,
                    f"end it with {top}",
                    at=place,
                    value=[list(rung) for rung in scheduler.ladder],
                )
        if scheduler.brackets > 1:
            place = ("scheduler", "brackets")
            if scheduler.kind != "promotion":
                yield broken(
                    "is for kind: promotion alone",
                    "leave it out",
                    at=place,
                    value=scheduler.brackets,
                )
            if scheduler.brackets > len(self.ladder):
                rule = f"must be at most the number of rungs, {len(self.ladder)}"
                yield broken(rule, at=place, value=scheduler.brackets)
        budget = self.search.fold_epochs
        if budget is not None and budget < self.ladder[-1].cost:
            rule = (
                f"must be at least what one trial costs to the end, {top[0]} folds × {top[1]}"
                " epochs"
            )
            yield broken(
                rule, str(self.ladder[-1].cost), at=("search", "fold_epochs"), value=budget
            )

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """The rungs that every trial climbs."""
        scheduler, folds = self.scheduler, self.folds.count
        if scheduler.ladder is not None:
            return tuple(Rung(*rung) for rung in scheduler.ladder)
        if scheduler.kind == "fifo":
            return (Rung(folds, self.epochs),)
        make = default_ladder if scheduler.kind == "promotion" else lockstep_ladder
        return make(
            self.epochs,
            folds,
            reduction_factor=scheduler.reduction_factor,
            grace_epochs=scheduler.grace_epochs,
        )

    @property
    def planned_trials(self) -> int:
        """How many trials there will be, if no arm of a comparison fails altogether."""
        return planned_trials(self)

    @property
    def trials_text(self) -> str:
        """The trials in words: ``20 trials``, or what each arm of a comparison gets."""
        return trials_text(self)

    @property
    def varying(self) -> tuple[str, ...]:
        """The parameters that differ between trials, in the file's order; the arms of a comparison
        count as one."""
        arms = self.comparison.arms.values() if self.comparison else ()
        spaces = [self.space, *(arm.space for arm in arms)]
        tuned = [
            name
            for space in spaces
            for name, entry in space.items()
            if not isinstance(entry, Fixed)
        ]
        return tuple(dict.fromkeys(["optimizer", *tuned] if arms else tuned))

    def to_yaml(self) -> str:
        """The spec as a sweep file with every default written out; reading it gives an equal
        spec."""
        return dump_yaml(self.model_dump(by_alias=True))


def load_spec(path: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """The sweep file at ``path``, with ``overrides`` (``search.trials=40``, values in YAML) put
    into it.

    Raises:
        InputError: the file cannot be read, or as `parse_spec`.
    """
    return parse_spec(read_file(path), path.absolute().parent, overrides)


def parse_spec(mapping: Mapping[str, Any], base: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """The spec that ``mapping`` (left as it is) describes, with ``overrides`` put into it.

    Args:
        base: folder that relative files in ``task`` and ``dataset`` are in; what is not there is
            looked for in the current directory. The spec has absolute paths.

    Raises:
        InputError: the field, its value, the rule and the nearest thing that would be right;
            several mistakes are one `foldrace.search.spec.messages.SpecError`.
    """
    if not isinstance(mapping, Mapping):
        raise InputError("spec", mapping, "must be a mapping of keys to values")
    tree = plain(mapping)
    for override in overrides:
        if "dataset" in tree:
            tree["dataset"] = named_dataset(tree["dataset"])
        set_value(tree, override)
    try:
        spec = SweepSpec.model_validate(tree)
    except ValidationError as error:
        raise translate(error, SweepSpec) from None
    dataset = spec.dataset.model_copy(
        update={"name": _located(spec.dataset.name, "dataset", base)}
    )
    return spec.model_copy(update={"task": _located(spec.task, "task", base), "dataset": dataset})


def json_schema() -> dict[str, Any]:
    """The JSON schema of a sweep file, for editors."""
    schema = SweepSpec.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _located(reference: str, field: str, base: Path) -> str:
    """``reference`` with its file part absolute; plain names, modules and URLs as they are."""
    where, colon, attribute = reference.rpartition(":")
    if not where.endswith(".py"):
        where, colon, attribute = reference, "", ""
    if "://" in where:
        return reference
    try:
        is_path = "/" in where or where.startswith("~") or where.endswith((".py", ".npz"))
        if not is_path and (not where or not (base / where).is_dir()):
            return reference
        path = Path(where).expanduser()
        beside = base / path
        found = (beside if beside.exists() else Path.cwd() / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(field, reference, f"is no path that can be followed: {error}") from error
    return f"{found}{colon}{attribute}"
