"""The sections of a sweep file, each a mapping in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from foldrace.errors import nearest
from foldrace.search.spec.fields import Bare, Name, Number, Section, Text, broken
from foldrace.trainables.training.ladder import REDUCTION_FACTOR

__all__ = [
    "Count",
    "DatasetSpec",
    "EarlyStoppingSpec",
    "FoldsSpec",
    "Line",
    "NamedDataset",
    "ResourcesSpec",
    "SchedulerSpec",
    "SearchSpec",
    "TrackingSpec",
    "TrainingSpec",
    "named_dataset",
]

Count = Annotated[int, Number(low=1, whole=True)]
_Seed = Annotated[int, Number(low=0, high=2**32 - 1, whole=True)]
Line = Annotated[str, Text()]
_DURATION = re.compile(
    r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?", re.ASCII
)
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmgt]?b)", re.ASCII | re.IGNORECASE)
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_LEAST_MEMORY = 64 * 10**6
OBJECTIVES = ("val_loss", "parameters", "seconds")
_FoldKind = Literal["kfold", "stratified", "group", "repeated", "holdout"]
_ONE_KIND = {"repeats": "repeated", "fraction": "holdout"}


def _seconds(value: object) -> float:
    """``90s``, ``30m``, ``1h30m``, or a number of seconds."""
    rule, hint = "must be a time above 0", "90s, 30m, 2h, 1h30m, or a number of seconds"
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip()) if len(value) < 50 else None
        if not match or not any(match.groups()):
            raise broken(rule, hint)
        h, m, s = (float(match[unit] or 0) for unit in "hms")
        value = h * 3600 + m * 60 + s
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e9:
        raise broken(rule, hint)
    return float(value)


_Duration = Annotated[
    float,
    PlainValidator(_seconds),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": r"^(\d+(\.\d+)?h)?(\d+(\.\d+)?m)?(\d+(\.\d+)?s)?$"},
            ]
        }
    ),
]


def _bytes(value: object) -> int:
    """``4GB``, ``512MB``, or a number of bytes."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip()) if len(value) < 50 else None
        value = round(float(match["number"]) * _UNITS[match["unit"].upper()]) if match else None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not _LEAST_MEMORY <= value <= 2**60:  # type: ignore[operator]
        raise broken("must be a size of at least 64MB", "512MB, 4GB, 1.5GB, or a number of bytes")
    return int(value)  # type: ignore[call-overload, no-any-return]


_Bytes = Annotated[
    int,
    PlainValidator(_bytes),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": _LEAST_MEMORY},
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s*([kKmMgGtT]?[bB])$"},
            ]
        }
    ),
]


def _height_width(value: object) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise broken("must be two whole numbers, [height, width]")
    side = Number(low=1, high=4096, whole=True)
    return side.check(value[0]), side.check(value[1])


def _objectives(value: object) -> tuple[str, ...]:
    first, *others = OBJECTIVES
    rule = f"must be a list: {first} first, then {' or '.join(others)}, each once"
    if not isinstance(value, list | tuple) or not value or value[0] != first:
        raise broken(rule, f"[{', '.join(OBJECTIVES[:2])}]")
    for place, name in enumerate(value):
        if name not in OBJECTIVES or name in value[:place]:
            hint = "it stands there twice" if name in OBJECTIVES else nearest(name, OBJECTIVES)
            raise broken(rule, hint, at=(place,), value=name)
    return tuple(value)


def _ladder(value: object) -> tuple[tuple[int, int], ...]:
    """Rungs [folds, epochs], each above the one before."""
    rule, hint = (
        "must be a list of rungs, [folds, epochs] each",
        "[[1, 1], [1, 3], [1, 9], [3, 9]]",
    )
    if not isinstance(value, list | tuple) or not value:
        raise broken(rule, hint)
    count = Number(low=1, high=10**6, whole=True)
    rungs: list[tuple[int, int]] = []
    for place, rung in enumerate(value):
        if not isinstance(rung, list | tuple) or len(rung) != 2:
            raise broken(rule, hint, at=(place,), value=rung)
        folds, epochs = (count.check(number) for number in rung)
        if rungs and (
            folds < rungs[-1][0] or epochs < rungs[-1][1] or (folds, epochs) == rungs[-1]
        ):
            below = f"[{rungs[-1][0]}, {rungs[-1][1]}]"
            rule = (
                f"must rise above the rung before it, {below}, in folds or in epochs, and fall in"
                " neither"
            )
            raise broken(rule, at=(place,), value=[folds, epochs])
        rungs.append((folds, epochs))
    return tuple(rungs)


def _point_list(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class DatasetSpec(Section):
    """The images."""

    name: Line = Field(
        description="a built-in data set, a .npz file, a folder of images, or ./file.py:function"
    )
    limit: Count | None = Field(
        default=None, description="use that many images only, drawn with `seed`"
    )
    seed: _Seed = Field(default=0, description="draws the images under `limit`")
    size: (
        Annotated[
            tuple[int, int],
            PlainValidator(_height_width),
            WithJsonSchema(
                {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 1},
                    "minItems": 2,
                    "maxItems": 2,
                }
            ),
        ]
        | None
    ) = Field(
        default=None, description="height and width, in pixels, that the images are resized to"
    )


def named_dataset(value: object) -> object:
    """A data set given by its name alone, as a mapping; anything else as it is."""
    return {"name": value} if isinstance(value, str) else value


def _dataset(value: object) -> object:
    value = named_dataset(value)
    if not isinstance(value, Mapping | DatasetSpec):
        raise broken(
            "must be a data set's name, or a mapping with its name", "dataset: fashion-mnist"
        )
    return value


NamedDataset = Annotated[
    DatasetSpec, BeforeValidator(_dataset, json_schema_input_type=DatasetSpec | Line)
]
"""A data set by its name, or as a mapping."""


class FoldsSpec(Section):
    """How the training images are split for cross-validation."""

    kind: _FoldKind = Field(default="kfold", description="how the folds are drawn")
    splits: Annotated[int, Number(low=2, whole=True)] = Field(
        default=3, description="number of folds (of each repeat); a holdout ignores it"
    )
    repeats: Count = Field(default=2, description="kind: repeated draws the folds that often")
    seeds: Count = Field(
        default=1, description="each fold is trained with so many seeds, and each counts as a fold"
    )
    shuffle: bool = Field(default=True, description="shuffle the images before they are split")
    seed: _Seed = Field(default=0, description="draws the folds, the same for every trial")
    fraction: Annotated[float, Number(above=0, below=1)] = Field(
        default=0.2, description="kind: holdout validates on this share of the images"
    )

    @model_validator(mode="before")
    @classmethod
    def _used(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            kind = data.get("kind", "kfold")
            for key, only in _ONE_KIND.items():
                if key in data and kind != only and kind in get_args(_FoldKind):
                    rule = f"is for kind: {only} alone, and this is kind: {kind}"
                    raise broken(rule, "leave it out", at=(key,), value=data[key])
            splits = data.get("splits")
            if isinstance(splits, int) and splits == 1 and splits is not True:
                rule = "must be a whole number at least 2"
                raise broken(
                    rule, "use kind: holdout for a single split", at=("splits",), value=splits
                )
        return data

    @property
    def count(self) -> int:
        """How many folds a trial has."""
        split = {"repeated": self.splits * self.repeats, "holdout": 1}.get(self.kind, self.splits)
        return split * self.seeds

    @model_serializer(mode="wrap")
    def _without_blanks(self, handler: SerializerFunctionWrapHandler) -> Any:
        dumped: Mapping[str, Any] = handler(self)
        unused = {key for key, kind in _ONE_KIND.items() if kind != self.kind}
        return {key: value for key, value in dumped.items() if key not in unused}


class EarlyStoppingSpec(Section):
    """Ends a fold's training when it has ceased to improve."""

    patience: Annotated[int, Number(low=0, whole=True)] | None = Field(
        default=None, description="epochs without improvement before a fold stops; null: never"
    )
    min_delta: Annotated[float, Number(low=0)] = Field(
        default=0.0, description="what counts as an improvement"
    )


class SearchSpec(Section):
    """How trials are drawn."""

    sampler: Literal["tpe", "random", "qmc", "cmaes", "gp", "nsga2"] = Field(
        default="tpe",
        description="where new points come from; a comparison's: random (its default) or qmc",
    )
    objectives: Annotated[
        tuple[str, ...],
        BeforeValidator(_objectives),
        WithJsonSchema(
            {
                "type": "array",
                "prefixItems": [{"const": OBJECTIVES[0]}],
                "items": {"enum": list(OBJECTIVES)},
                "minItems": 1,
                "uniqueItems": True,
            }
        ),
    ] = Field(
        default=OBJECTIVES[:1],
        description=(
            "all minimised: val_loss, then parameters (trainable weights) or seconds (of"
            " training), or both"
        ),
    )
    trials: Count = Field(
        default=20, description="how many points are tried; in a comparison, for each arm"
    )
    seed: _Seed = Field(default=0, description="of the sampler and of every trial's training")
    time_budget: _Duration | None = Field(
        default=None,
        description=(
            "90s, 30m, 1h30m or seconds, after which nothing goes on once there is a winner"
        ),
    )
    fold_epochs: Count | None = Field(
        default=None,
        description="epochs of single folds, all trials together, that the sweep may train",
    )
    target: Annotated[float, Number()] | None = Field(
        default=None,
        description=(
            "the sweep ends when a trial evaluated to the end has this loss or a lower one"
        ),
    )
    warm_start: Line | None = Field(
        default=None,
        description="an earlier sweep of the same store, whose trials the sampler learns from",
    )
    start_with: Annotated[
        tuple[dict[Name, Bare], ...],
        BeforeValidator(_point_list, json_schema_input_type=list[dict[Name, Bare]]),
    ] = Field(default=(), description="points to try first; what a point leaves out is drawn")
    max_concurrent_trials: Count | None = Field(
        default=None, description="null: as many as the resources allow"
    )
    deterministic: bool = Field(
        default=False,
        description=(
            "results are taken in an order that follows from max_concurrent_trials alone: the same"
            " trials and the same winner on any number of workers, whatever is interrupted, at the"
            " cost of some waiting"
        ),
    )


class SchedulerSpec(Section):
    """Which trials go on."""

    kind: Literal["promotion", "stopping", "fifo"] = Field(
        default="promotion",
        description=(
            "promotion pauses trials at the rungs of a ladder, and the best go on; stopping ends"
            " the others for good (Ray's ASHA); fifo trains every trial to the end (a comparison's"
            " default)"
        ),
    )
    reduction_factor: Annotated[float, Number(low=1.1, high=1000)] = Field(
        default=REDUCTION_FACTOR, description="one in so many trials passes a rung"
    )
    grace_epochs: Count = Field(
        default=1, description="epochs of the lowest rung, where no ladder is given"
    )
    ladder: (
        Annotated[
            tuple[tuple[int, int], ...],
            PlainValidator(_ladder),
            WithJsonSchema(
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "array",
                        "items": {"type": "integer", "minimum": 1},
                        "minItems": 2,
                        "maxItems": 2,
                    },
                }
            ),
        ]
        | None
    ) = Field(
        default=None,
        description=(
            "rungs [folds, epochs], rising to all folds and epochs; null: promotion trains one"
            " fold to the end first, then the others; stopping all side by side"
        ),
    )
    brackets: Count = Field(
        default=1,
        description=(
            "promotion: bracket b of so many leaves out the b lowest rungs, against slow starters"
        ),
    )


def _whole_above_one(value: object) -> object:
    if isinstance(value, float) and value > 1 and value % 1:
        raise broken("must be a whole number if it is above 1, as Ray has it")
    return value


def _none_or_a_share(value: object) -> object:
    if isinstance(value, float) and 0 < value < 0.001:
        raise broken("must be 0, or at least 0.001")
    return _whole_above_one(value)


class ResourcesSpec(Section):
    """What one trial occupies."""

    cpu: Annotated[float, Number(low=0.001), BeforeValidator(_whole_above_one)] = Field(
        default=1.0, description="processor cores"
    )
    gpu: Annotated[float, Number(low=0), BeforeValidator(_none_or_a_share)] = Field(
        default=0.0, description="GPUs; 0.5 lets two trials share one"
    )


class LimitsSpec(Section):
    """What a sweep puts up with."""

    max_failures: Annotated[int, Number(low=0, high=1000, whole=True)] = Field(
        default=3,
        description=(
            "how often a trial whose worker died goes on from its last checkpoint; what a task"
            " raises is final"
        ),
    )
    fail_fast: bool = Field(
        default=False,
        description="the first trial that fails stops the sweep, which can be resumed then",
    )
    trial_timeout: _Duration | None = Field(
        default=None,
        description="90s, 30m, 1h30m or seconds of training, after which a trial has failed",
    )
    memory: _Bytes | None = Field(
        default=None,
        description=(
            "4GB, 512MB or bytes that a trial may hold beyond what its worker process began with"
        ),
    )


class TrainingSpec(Section):
    """How a trial's folds are computed; what they learn is not changed by it, but for rounding."""

    fused: Literal["auto", True, False] = Field(
        default="auto",
        description=(
            "train folds that stand at the same epoch as one batched program; auto: on a GPU,"
            " where it can be"
        ),
    )
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        default="float32",
        description=(
            "tf32: a GPU's faster products of float32, without effect on a CPU; "
            "bfloat16: automatic mixed precision"
        ),
    )


class TrackingSpec(Section):
    """Where results are recorded."""

    experiment: Line | None = Field(
        default=None, description="MLflow experiment; null: the sweep's name"
    )
    uri: Line | None = Field(default=None, description="MLflow server; null: a local store")
