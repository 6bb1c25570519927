"""The sections of a sweep file that say what each trial trains: data set, folds, training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from foldrace.search.spec.fields import Count, Line, Seed, SpecSection, Worded, broken
from foldrace.trainables.data.sample import ROLES, Wanted

__all__ = [
    "DatasetSpec",
    "DivergenceSpec",
    "EarlyStoppingSpec",
    "FoldKindName",
    "FoldsSpec",
    "NamedDataset",
    "NamedObjective",
    "ObjectiveSpec",
    "TrainingSpec",
    "named_dataset",
]

FoldKindName = Literal[
    "kfold",
    "stratified",
    "group",
    "stratified_group",
    "leave_one_group_out",
    "repeated",
    "time_series",
    "predefined",
    "holdout",
    "group_holdout",
]
_DRAWN = ("kfold", "stratified", "group", "stratified_group", "repeated")
# Keys that only some kinds of folds have.
_KINDS_OF_KEY: Mapping[str, tuple[str, ...]] = {
    "repeats": _DRAWN,
    "fraction": ("holdout", "group_holdout"),
    "gap": ("time_series",),
    "max_train": ("time_series",),
}
_UNSHUFFLED = ("group", "stratified_group", "leave_one_group_out", "time_series", "predefined")
_LARGEST_SIDE = 4096
_MOST_WORKERS = 256


def _two_sides(value: object) -> object:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise broken("must be two whole numbers, [height, width]")
    return value


def _sides(sides: tuple[int, int]) -> tuple[int, int]:
    for place, side in enumerate(sides):
        if side > _LARGEST_SIDE:
            rule = f"must be a whole number at least 1 and at most {_LARGEST_SIDE}"
            raise broken(rule, at=(place,), value=side)
    return sides


_SIZE_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 1},
    "minItems": 2,
    "maxItems": 2,
}


RoleField = Line | Literal[False] | None


class DatasetSpec(SpecSection):
    """The ``dataset`` section; the short form is the data set's name alone."""

    name: Line
    """A built-in data set, a .npz file, a folder of images, or a function as
    ./file.py:function. Required."""

    inputs: Annotated[tuple[Line, ...], Field(strict=False, min_length=1)] | None = None
    """The fields to read as inputs. By default all without a role."""

    target: RoleField = None
    """The field to predict; false: none. By default target, label, labels or y, if there is
    one. A held-out test part is then stratified by its classes."""

    groups: RoleField = None
    """The field of groups, which are never on both sides of a split; false: none. By default
    groups or group."""

    split: RoleField = None
    """The field of fold numbers, for predefined folds; false: none. By default split, fold or
    folds."""

    time: RoleField = None
    """The field by which samples are in time; false: none. By default time or timestamp."""

    weight: RoleField = None
    """The field of weights, in training and in validation; false: none. By default weight,
    weights or sample_weight."""

    id: RoleField = None
    """The field of names of samples; false: none. By default id or ids."""

    limit: Count | None = None
    """Number of samples to use, drawn with the seed. By default all of them."""

    seed: Seed = 0
    """Seed of the draw when a limit is set. Default: 0."""

    size: (
        Annotated[
            tuple[Count, Count],
            Field(strict=False),
            BeforeValidator(_two_sides),
            AfterValidator(_sides),
            WithJsonSchema(_SIZE_SCHEMA),
        ]
        | None
    ) = None
    """Height and width in pixels to which the images are resized, at most 4096 each. By
    default they keep their size."""

    workers: Annotated[int, Field(ge=0, le=_MOST_WORKERS), Worded()] | None = None
    """Of a Dataset of torch that a function returns: the processes that read its items for each
    trial as batches need them; 0: the trial itself. By default all are read once, into memory."""

    @property
    def wanted(self) -> Wanted:
        """The fields and roles that are given, for `load_dataset`."""
        given = {role: getattr(self, role) for role in ROLES}
        roles = {role: name or None for role, name in given.items() if name is not None}
        return Wanted(self.inputs, roles)


def named_dataset(value: object) -> object:
    """A data set given by its name alone as a mapping; any other value unchanged."""
    return {"name": value} if isinstance(value, str) else value


def _dataset(value: object) -> object:
    value = named_dataset(value)
    if not isinstance(value, Mapping | DatasetSpec):
        rule = "must be a data set's name, or a mapping with its name"
        raise broken(rule, "dataset: fashion-mnist")
    return value


NamedDataset = Annotated[
    DatasetSpec, BeforeValidator(_dataset, json_schema_input_type=DatasetSpec | Line)
]
"""A data set by its name, or as a mapping."""


class ObjectiveSpec(SpecSection):
    """The ``objective`` section; the short form is the metric's name alone."""

    metric: (
        Annotated[
            str, Field(pattern=r"^(?:.+)$", max_length=100), Worded("must be text, of one line")
        ]
        | None
    ) = None
    """A term of the task, such as mse, or a metric. By default the one that the task declares."""

    direction: Literal["minimize", "maximize"] | None = None
    """Whether less of the metric is better, or more. By default as the task declares, else
    minimize."""

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> Any:
        """The metric's name alone, if there is no more."""
        return self.metric if self.direction is None else handler(self)


def _objective(value: object) -> object:
    if value is None or isinstance(value, str):
        return {"metric": value}
    if not isinstance(value, Mapping | ObjectiveSpec):
        raise broken("must be a metric's name, or a mapping with its name", "objective: mse")
    return value


NamedObjective = Annotated[
    ObjectiveSpec, BeforeValidator(_objective, json_schema_input_type=ObjectiveSpec | Line | None)
]
"""A metric by its name, or as a mapping."""


class FoldsSpec(SpecSection):
    """The ``folds`` section: how the training samples are split for cross-validation."""

    kind: FoldKindName = "kfold"
    """How the folds are drawn. kfold, stratified by class, by group, stratified_group; repeated:
    kfold, twice; one fold per group, by time, predefined; a single holdout, of samples or of
    groups. Default: kfold."""

    splits: Annotated[int, Field(ge=2), Worded()] = 3
    """Number of folds, in each repeat; a holdout ignores it. Default: 3."""

    repeats: Count | None = None
    """How often K folds are drawn. Default: 1; for kind: repeated 2."""

    seeds: Count = 1
    """Number of seeds with which each fold is trained; each counts as a fold. Default: 1."""

    shuffle: bool = True
    """Shuffle the samples before they are split. Default: true, and false for folds by group,
    which then have equal sizes."""

    seed: Seed = 0
    """Seed of the folds, the same for every trial. Default: 0."""

    fraction: Annotated[float, Field(gt=0, lt=1), Worded()] = 0.2
    """Of a holdout: share of the samples, or of the groups, in the validation part, between 0 and
    1. Default: 0.2."""

    gap: Annotated[int, Field(ge=0), Worded()] = 0
    """kind: time_series only: samples between training and validation. Default: 0."""

    max_train: Count | None = None
    """kind: time_series only: the most samples to train on, a sliding window. By default all
    earlier ones."""

    @model_validator(mode="before")
    @classmethod
    def _used(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        kind = data.get("kind", "kfold")
        for key, kinds in _KINDS_OF_KEY.items():
            if key in data and kind not in kinds and kind in get_args(FoldKindName):
                rule = f"is for kind: {', '.join(kinds)} alone, and this is kind: {kind}"
                raise broken(rule, "leave it out", at=(key,), value=data[key])
        splits = data.get("splits")
        if isinstance(splits, int) and splits == 1 and splits is not True:
            rule = "must be a whole number at least 2"
            hint = "use kind: holdout for a single split"
            raise broken(rule, hint, at=("splits",), value=splits)
        if kind == "repeated" and data.get("shuffle") is False:
            rule = "would repeat the same folds: kind: repeated draws them anew"
            raise broken(rule, "leave it out", at=("shuffle",), value=False)
        return {"shuffle": kind not in _UNSHUFFLED or bool(data.get("repeats", 1) != 1), **data}

    @property
    def repetitions(self) -> int:
        """How often the folds are drawn."""
        return self.repeats or (2 if self.kind == "repeated" else 1)

    @property
    def count(self) -> int:
        """Folds per trial."""
        single = self.kind in ("holdout", "group_holdout")
        return (1 if single else self.splits * self.repetitions) * self.seeds

    @model_serializer(mode="wrap")
    def _without_blanks(self, handler: SerializerFunctionWrapHandler) -> Any:
        dumped: Mapping[str, Any] = handler(self)
        unused = {key for key, kinds in _KINDS_OF_KEY.items() if self.kind not in kinds}
        return {key: value for key, value in dumped.items() if key not in unused}


class EarlyStoppingSpec(SpecSection):
    """The ``early_stopping`` section: ends a fold whose validation loss no longer improves."""

    patience: Annotated[int, Field(ge=0), Worded()] | None = None
    """Epochs without improvement after which a fold stops. By default folds never stop early."""

    min_delta: Annotated[float, Field(ge=0), Worded()] = 0.0
    """Smallest decrease of the loss that counts as an improvement, in units of the loss.
    Default: 0."""


class DivergenceSpec(SpecSection):
    """The ``divergence`` section: fails a fold that training keeps making worse.

    A loss, an objective or a weight that is not finite fails it at once, whatever stands here.
    """

    patience: Annotated[int, Field(ge=1), Worded()] | None = 3
    """Successive epochs far worse than the untrained network, or worse with a vanished gradient,
    after which a fold has diverged; null: never while its numbers are finite. Default: 3."""


class TrainingSpec(SpecSection):
    """The ``training`` section: how folds are computed; results change only by rounding."""

    fused: Literal["auto", True, False] = "auto"
    """Train folds that are at the same epoch as one batched program; auto does so on a GPU
    where the model allows it. Default: auto."""

    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Precision of training: float32; tf32, faster float32 products on a GPU (no effect on a
    CPU); or bfloat16, automatic mixed precision. Evaluation is in float32. Default: float32."""
