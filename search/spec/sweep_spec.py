"""A sweep file, validated: what is trained on which data, what is tuned, and how.

Reading a sweep file imports neither torch nor Optuna nor Ray, so that mistakes are reported at
once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from foldrace.errors import InputError
from foldrace.search.spec.comparison import ComparisonSpec, with_defaults
from foldrace.search.spec.consistency import (
    comparison_errors,
    deterministic_errors,
    ladder_errors,
    objective_errors,
    shared_space_errors,
)
from foldrace.search.spec.distributions import Fixed, SpaceEntry
from foldrace.search.spec.errors import translate
from foldrace.search.spec.fields import Count, Line, Name, SpecSection, Worded, broken
from foldrace.search.spec.search_sections import (
    LimitsSpec,
    ResourcesSpec,
    SchedulerSpec,
    SearchSpec,
    TrackingSpec,
)
from foldrace.search.spec.training_sections import (
    DivergenceSpec,
    EarlyStoppingSpec,
    FoldsSpec,
    NamedDataset,
    NamedObjective,
    ObjectiveSpec,
    TrainingSpec,
    named_dataset,
)
from foldrace.search.spec.yaml_files import dump_yaml, plain, read_file, set_value
from foldrace.trainables.data.references import is_data_file
from foldrace.trainables.training.ladder import Rung, default_ladder, lockstep_ladder
from foldrace.trainables.user_code import place_and_name

__all__ = ["SweepSpec", "json_schema", "load_spec", "parse_spec", "written_references"]

_DEFAULT_TASK = "autoencoder"


def _default_name(task: object) -> str:
    """The sweep's name if the file has none: the task's, without what a name cannot hold."""
    text = task.rpartition(":")[2] if isinstance(task, str) else ""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text)
    return re.sub(r"\.{2,}", ".", name).lstrip("_.-")[:64] or "sweep"


_SweepName = Annotated[
    str,
    Field(pattern=r"^(?:(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9_.-]{0,63})$", max_length=64),
    Worded(
        "must be 1 to 64 letters, digits, '-', '_' or '.', a letter or digit first and no '..'"
    ),
]


class SweepSpec(SpecSection):
    """A sweep file. Made by `load_spec` and `parse_spec`, which raise `InputError`."""

    kind: Literal["sweep", "comparison"] = "sweep"
    """sweep searches one space; comparison tunes several optimizers at equal cost. Default:
    sweep."""

    name: _SweepName = _DEFAULT_TASK
    """Name of the sweep. By default the task's name."""

    task: Line = _DEFAULT_TASK
    """What is trained: a built-in task, ./file.py:ClassName, or package.module:ClassName.
    Default: autoencoder."""

    dataset: NamedDataset
    """The data set, by its name or as a mapping with options. Required."""

    folds: FoldsSpec = FoldsSpec()
    """Cross-validation. By default 3 shuffled folds with seed 0."""

    epochs: Count = 9
    """Most epochs per fold. Default: 9."""

    early_stopping: EarlyStoppingSpec = EarlyStoppingSpec()
    """When a fold stops before its last epoch. By default never."""

    divergence: DivergenceSpec = DivergenceSpec()
    """When a fold has diverged. By default after 3 epochs that are worse than no training."""

    objective: NamedObjective = ObjectiveSpec()
    """The metric by which trials are compared, by its name or with its direction. By default
    the one that the task declares."""

    metrics: Annotated[tuple[Line, ...], Field(strict=False)] = ()
    """Metrics of the whole validation part to record as well: accuracy, balanced_accuracy, f1,
    precision, recall, auroc, average_precision, log_loss, calibration_error, mse, rmse, mae, r2,
    or one of your own as ./file.py:name. They are computed from the task's predictions and the
    target."""

    space: dict[Name, SpaceEntry] = Field(default_factory=dict)
    """Parameters of the task and the training: a fixed value or a distribution each. By
    default all have their declared defaults."""

    comparison: ComparisonSpec | None = None
    """The arms of a comparison; for kind: comparison only."""

    search: SearchSpec = SearchSpec()
    """How configurations are drawn, how many, and when the sweep ends."""

    scheduler: SchedulerSpec = SchedulerSpec()
    """Which trials are trained further."""

    resources: ResourcesSpec = ResourcesSpec()
    """What each trial reserves. By default one CPU core."""

    limits: LimitsSpec = LimitsSpec()
    """When a trial counts as failed, and what the sweep does then."""

    training: TrainingSpec = TrainingSpec()
    """How a trial's folds are computed."""

    tracking: TrackingSpec = TrackingSpec()
    """Where results are recorded."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        name = data.get("name")
        if name is None:
            name = _default_name(data.get("task", _DEFAULT_TASK))
        return with_defaults({**data, "name": name})

    @model_validator(mode="after")
    def _sections_fit(self) -> SweepSpec:
        for error in self._errors():
            raise error
        return self

    def _errors(self) -> Iterator[PydanticCustomError]:
        """What is wrong between the sections; only the first is reported, so order matters."""
        search, scheduler, comparison = self.search, self.scheduler, self.comparison
        if scheduler.grace_epochs > self.epochs:
            rule = f"must be at most the number of epochs, {self.epochs}"
            place = ("scheduler", "grace_epochs")
            yield broken(rule, at=place, value=scheduler.grace_epochs)
        if self.kind == "sweep":
            if comparison is not None:
                rule = "is for kind: comparison alone, and this is kind: sweep"
                yield broken(rule, "add kind: comparison", at=("comparison",), value=None)
            yield from objective_errors(search, scheduler)
        elif comparison is None:
            rule = "is missing: kind: comparison compares its arms"
            hint = "comparison: {arms: {adam: {}, sgd: {}}}"
            yield broken(rule, hint, at=("comparison",), value=None)
        else:
            yield from comparison_errors(search, scheduler, self.folds, self.early_stopping)
            yield from shared_space_errors(self.space, comparison)
        yield from deterministic_errors(search, self.limits, comparison)
        top = Rung(self.folds.count, self.epochs)
        yield from ladder_errors(search, scheduler, top, self.ladder)

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """The rungs that every trial climbs; the last has all folds and epochs."""
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
        """Number of trials, if no arm of a comparison fails altogether."""
        trials = self.search.trials
        return self.comparison.trials(trials) if self.comparison else trials

    @property
    def trials_text(self) -> str:
        """The trials in words: ``20 trials``, or how many each arm of a comparison has."""
        trials, sampler = self.search.trials, self.search.sampler
        if self.comparison is None:
            return f"{trials} trials"
        return self.comparison.trials_text(trials, sampler)

    @property
    def varying(self) -> tuple[str, ...]:
        """The parameters that differ between trials, in the order of the file.

        In a comparison the first is ``optimizer``.
        """
        arms = self.comparison.arms.values() if self.comparison else ()
        spaces = [self.space, *(arm.space for arm in arms)]
        tuned = [
            name
            for space in spaces
            for name, entry in space.items()
            if not isinstance(entry, Fixed)
        ]
        return tuple(dict.fromkeys(["optimizer", *tuned] if arms else tuned))

    @property
    def references(self) -> dict[str, str]:
        """What is named of code and data, by field."""
        found = {"task": self.task, "dataset": self.dataset.name}
        return found | {f"metrics[{place}]": one for place, one in enumerate(self.metrics)}

    def to_yaml(self) -> str:
        """The spec as a sweep file with all defaults; reading it gives an equal spec."""
        return dump_yaml(self.model_dump(by_alias=True))


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """The spec in the sweep file at ``path``, with its relative files resolved beside it.

    Args:
        overrides: ``key=value``, such as ``search.trials=40``; values are YAML.

    Raises:
        InputError: the file cannot be read, or as `parse_spec`.
    """
    path = Path(path)
    return parse_spec(read_file(path), path.absolute().parent, overrides)


def written_references(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, str]:
    """What a sweep file names of code and data, as it is written there, by field.

    Raises:
        InputError: as `load_spec`.
    """
    return _validated(read_file(Path(path)), overrides).references


def parse_spec(mapping: Mapping[str, Any], base: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """The spec that ``mapping`` describes; the mapping is not changed.

    Args:
        base: folder of relative files in ``task`` and ``dataset``. Files that are not there are
            looked for in the current directory. The spec has absolute paths.
        overrides: as in `load_spec`.

    Raises:
        InputError: names the field, its value, the rule and the nearest valid value. Several
            mistakes are one `foldrace.search.spec.errors.SpecError`.

    >>> parse_spec({"dataset": "digits", "epochs": 4}, Path()).ladder[-1]
    Rung(folds=3, epochs=4)
    """
    spec = _validated(mapping, overrides)
    dataset = spec.dataset.model_copy(
        update={"name": _located(spec.dataset.name, "dataset", base)}
    )
    metrics = tuple(
        _located(one, f"metrics[{place}]", base) for place, one in enumerate(spec.metrics)
    )
    return spec.model_copy(
        update={
            "task": _located(spec.task, "task", base),
            "dataset": dataset,
            "metrics": metrics,
        }
    )


def _validated(mapping: Mapping[str, Any], overrides: Sequence[str]) -> SweepSpec:
    """The spec with its references as they are written. Raises: InputError."""
    if not isinstance(mapping, Mapping):
        raise InputError("spec", mapping, "must be a mapping of keys to values")
    tree = plain(mapping)
    for override in overrides:
        if "dataset" in tree:
            tree["dataset"] = named_dataset(tree["dataset"])
        set_value(tree, override)
    try:
        return SweepSpec.model_validate(tree)
    except ValidationError as error:
        raise translate(error, SweepSpec) from None


def json_schema() -> dict[str, Any]:
    """The JSON schema of a sweep file, for editors and for the reference.

    Every key has a description: one sentence with the unit, and the default.
    """
    schema: dict[str, Any] = _on_one_line(SweepSpec.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _on_one_line(schema: Any) -> Any:
    """A schema whose descriptions, which are docstrings, have no line breaks."""
    if isinstance(schema, list):
        return [_on_one_line(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: " ".join(value.split())
        if key == "description" and isinstance(value, str)
        else _on_one_line(value)
        for key, value in schema.items()
    }


def _located(reference: str, field: str, base: Path) -> str:
    """``reference`` with its file part absolute; names, modules and URLs are unchanged."""
    where, name = place_and_name(reference)
    if "://" in where:
        return reference
    try:
        is_path = "/" in where or where.startswith("~") or where.endswith(".py")
        is_path = is_path or is_data_file(where)
        if not is_path and (not where or not (base / where).is_dir()):
            return reference
        path = Path(where).expanduser()
        beside = base / path
        found = (beside if beside.exists() else Path.cwd() / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(field, reference, f"is not a usable path: {error}") from error
    return f"{found}{name}"
