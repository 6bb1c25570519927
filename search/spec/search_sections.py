"""The sections of a sweep file that say how the search runs: sampler, scheduler, resources."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from foldrace.errors import nearest, redacted
from foldrace.search.spec.fields import (
    Bare,
    Count,
    Duration,
    Line,
    Name,
    Seed,
    Size,
    SpecSection,
    Worded,
    broken,
)
from foldrace.trainables.training.ladder import REDUCTION_FACTOR

__all__ = ["LimitsSpec", "ResourcesSpec", "SchedulerSpec", "SearchSpec", "TrackingSpec"]

_OBJECTIVES = ("val_loss", "parameters", "seconds")


def _objectives(value: object) -> tuple[str, ...]:
    first, *others = _OBJECTIVES
    rule = f"must be a list: {first} first, then {' or '.join(others)}, each once"
    if not isinstance(value, list | tuple) or not value or value[0] != first:
        raise broken(rule, f"[{', '.join(_OBJECTIVES[:2])}]")
    for place, name in enumerate(value):
        if name not in _OBJECTIVES or name in value[:place]:
            hint = "it is listed twice" if name in _OBJECTIVES else nearest(name, _OBJECTIVES)
            raise broken(rule, hint, at=(place,), value=name)
    return tuple(value)


class SearchSpec(SpecSection):
    """The ``search`` section: how configurations are drawn and when the sweep ends."""

    sampler: Literal["tpe", "random", "qmc", "cmaes", "gp", "nsga2"] = "tpe"
    """Optuna's sampler that draws the configurations. Default: tpe; in a comparison random,
    where qmc is the only other choice."""

    objectives: Annotated[
        tuple[str, ...],
        BeforeValidator(_objectives),
        WithJsonSchema(
            {
                "type": "array",
                "prefixItems": [{"const": _OBJECTIVES[0]}],
                "items": {"enum": list(_OBJECTIVES)},
                "minItems": 1,
                "uniqueItems": True,
            }
        ),
    ] = _OBJECTIVES[:1]
    """What is minimised: val_loss, then optionally parameters (the number of trainable
    weights) and seconds (of training). Default: [val_loss]."""

    trials: Count = 20
    """Number of trials; in a comparison, per arm. Default: 20."""

    seed: Seed = 0
    """Seed of the sampler and of every trial's training. Default: 0."""

    time_budget: Duration | None = None
    """Time as 90s, 30m, 1h30m or a number of seconds, after which the sweep ends as soon as a
    trial is completed. By default there is no limit."""

    fold_epochs: Count | None = None
    """Fold-epochs (epochs of one fold) that all trials together may train. By default there is
    no limit."""

    target: Annotated[float, Worded()] | None = None
    """Value of the objective at which, or beyond which, a completed trial ends the sweep. By
    default there is none."""

    warm_start: Line | None = None
    """Name of an earlier sweep in the same tracking store, whose trials the sampler learns
    from. By default there is none."""

    start_with: Annotated[tuple[dict[Name, Bare], ...], Field(strict=False)] = ()
    """Configurations to try first; parameters that one leaves out are drawn. By default there
    are none."""

    max_concurrent_trials: Count | None = None
    """Most trials that train at the same time. By default as many as the resources allow."""

    deterministic: bool = False
    """Process results in an order that depends on max_concurrent_trials only: the same trials
    and the same best trial on any number of workers and after any interruption, at the cost of
    some waiting. Default: false."""


def _rungs(value: object) -> object:
    rule, hint = (
        "must be a list of rungs, [folds, epochs] each",
        "[[1, 1], [1, 3], [1, 9], [3, 9]]",
    )
    if not isinstance(value, list | tuple) or not value:
        raise broken(rule, hint)
    for place, rung in enumerate(value):
        if not isinstance(rung, list | tuple) or len(rung) != 2:
            raise broken(rule, hint, at=(place,), value=rung)
    return value


def _ascending(rungs: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    for place, (before, rung) in enumerate(pairwise(rungs), 1):
        if rung == before or rung[0] < before[0] or rung[1] < before[1]:
            rule = (
                f"must rise above the rung before it, {list(before)}, in folds or in epochs, and"
                " fall in neither"
            )
            raise broken(rule, at=(place,), value=list(rung))
    return rungs


_Rung = Annotated[tuple[Count, ...], Field(min_length=2, max_length=2, strict=False)]


class SchedulerSpec(SpecSection):
    """The ``scheduler`` section: which trials are trained further."""

    kind: Literal["promotion", "stopping", "fifo"] = "promotion"
    """promotion pauses trials at each rung and promotes the best; stopping prunes the others
    at once (Ray's ASHA); fifo trains every trial to the end. Default: promotion; in a
    comparison fifo."""

    reduction_factor: Annotated[float, Field(ge=1.1, le=1000), Worded()] = REDUCTION_FACTOR
    """One in this many trials is promoted from a rung, between 1.1 and 1000. Default: 3."""

    grace_epochs: Count = 1
    """Epochs of the lowest rung if no ladder is given. Default: 1."""

    ladder: (
        Annotated[
            tuple[_Rung, ...],
            Field(min_length=1, strict=False),
            BeforeValidator(_rungs),
            AfterValidator(_ascending),
        ]
        | None
    ) = None
    """Rungs as [folds, epochs], rising to all folds and epochs. By default promotion trains
    one fold to the end before the others, and stopping trains all folds side by side."""

    brackets: Count = 1
    """kind: promotion only: number of brackets; bracket b leaves out the b lowest rungs, which
    spares trials that start slowly. Default: 1."""


def _whole_above_one(value: object) -> object:
    if isinstance(value, float) and value > 1 and value % 1:
        raise broken("must be a whole number if it is above 1, as Ray requires")
    return value


def _zero_or_a_share(value: object) -> object:
    if isinstance(value, float) and 0 < value < 0.001:
        raise broken("must be 0, or at least 0.001")
    return value


class ResourcesSpec(SpecSection):
    """The ``resources`` section: what each trial reserves."""

    cpu: Annotated[float, Field(ge=0.001), Worded(), BeforeValidator(_whole_above_one)] = 1.0
    """CPU cores per trial. Default: 1."""

    gpu: Annotated[
        float,
        Field(ge=0),
        Worded(),
        BeforeValidator(_whole_above_one),
        BeforeValidator(_zero_or_a_share),
    ] = 0.0
    """GPUs per trial; 0.5 lets two trials share one GPU. Default: 0."""


class LimitsSpec(SpecSection):
    """The ``limits`` section: when a trial counts as failed."""

    max_failures: Annotated[int, Field(ge=0, le=1000), Worded()] = 3
    """How often a trial is resumed after its worker died, at most 1000, counted anew from each
    checkpoint with more training; an error that the task raises is final. Default: 3."""

    fail_fast: bool = False
    """Stop the sweep at the first failed trial; it can be resumed. Default: false."""

    trial_timeout: Duration | None = None
    """Training time as 90s, 30m, 1h30m or a number of seconds, after which a trial has failed.
    By default there is no limit."""

    memory: Size | None = None
    """Memory as 4GB, 512MB or a number of bytes, at least 64MB, that a trial may use beyond
    what its worker process started with. By default there is no limit."""


def _without_password(uri: str) -> str:
    if redacted(uri) != uri:
        hint = (
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a server, or"
            " MLFLOW_TRACKING_URI for a database"
        )
        raise broken(
            "must not contain a password, which would be recorded", hint, value=redacted(uri)
        )
    return uri


class TrackingSpec(SpecSection):
    """The ``tracking`` section: where results are recorded."""

    experiment: Line | None = None
    """MLflow experiment. By default the sweep's name."""

    uri: Annotated[Line, AfterValidator(_without_password)] | None = None
    """URI of the MLflow server, without a password: this file is recorded. By default
    MLFLOW_TRACKING_URI, or else a SQLite store in the folder of sweeps."""
