"""The arms of a comparison: each one's own space, checked, and its default configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foldrace.errors import InputError, nearest
from foldrace.search.spec.comparison import ArmSpec
from foldrace.search.spec.distributions import (
    Choice,
    Distribution,
    Fixed,
    Int,
    Log,
    LogInt,
    Uniform,
    same,
)
from foldrace.search.spec.space import SearchSpace
from foldrace.search.spec.space_checks import among
from foldrace.trainables.tasks.parameters import (
    DEFAULT_LEARNING_RATES,
    OPTIMIZER_PARAMETERS,
    Parameter,
    Value,
)

if TYPE_CHECKING:
    from foldrace.search.spec.sweep_spec import SweepSpec
    from foldrace.trainables.tasks.loading import LoadedTask

__all__ = ["Arm", "build_arms", "differing"]


@dataclass(frozen=True)
class Arm:
    """One optimizer of a comparison.

    Attributes:
        space: what its trials are drawn from: the shared space, its optimizer, and its own.
        default: the parameters of its default trial.
    """

    label: str
    space: SearchSpace
    default: Mapping[str, Value]


def build_arms(spec: SweepSpec, task: LoadedTask) -> tuple[Arm, ...]:
    """The arms of ``spec``, in its order; none for a sweep that is no comparison.

    Raises:
        InputError: as `SearchSpace.build`, with the place in the file
            (``comparison.arms.sgd.space.lr``); or a default that is no parameter's, out of its
            range, or against a value that the space fixes.
    """
    arms = spec.comparison.arms if spec.comparison else {}
    return tuple(_build(label, arm, spec.space, task) for label, arm in arms.items())


def _build(label: str, arm: ArmSpec, shared: Mapping[str, Distribution], task: LoadedTask) -> Arm:
    optimizer = str(arm.optimizer)
    # without a rate of its own an arm trains at its optimizer's, not at the one that suits adam
    rate = {"lr": Fixed(value=DEFAULT_LEARNING_RATES[optimizer])}
    merged = {"optimizer": Fixed(value=optimizer), **rate, **shared, **arm.space}
    with _named(label, arm):
        for name, entry in merged.items():
            _check_owner(f"space.{name}", name, str(entry), optimizer)
        space = SearchSpace.build(merged, task.declared)
    field = f"comparison.arms.{label}.defaults"
    given = _check_defaults(arm.defaults, space, optimizer, shared, field)
    default = _default_point(given, space, optimizer, frozenset(shared))
    task.complete(default, field)
    return Arm(label, space, default)


@contextmanager
def _named(label: str, arm: ArmSpec) -> Iterator[None]:
    """Within this block, errors about ``space.NAME`` say where in the arm, or in which arm, it is
    wrong."""
    try:
        yield
    except InputError as error:
        name = error.field.split(".")[1]
        if name in arm.space:
            raise InputError(
                f"comparison.arms.{label}.{error.field}", error.value, error.rule, error.hint
            ) from None
        raise InputError(
            error.field, error.value, f"{error.rule} (in the arm {label})", error.hint
        ) from None


def _check_owner(field: str, name: str, value: Value, optimizer: str) -> None:
    """Refuses another optimizer's own parameter. Raises: InputError."""
    owners = [owner for owner, own in OPTIMIZER_PARAMETERS.items() if name in own]
    if owners and optimizer not in owners:
        rule, hint = (
            f"{optimizer} has no parameter of that name",
            f"it belongs into arms of {', '.join(owners)}",
        )
        raise InputError(field, value, rule, hint)


def _check_defaults(
    given: Mapping[str, Value],
    space: SearchSpace,
    optimizer: str,
    shared: Mapping[str, Distribution],
    field: str,
) -> Mapping[str, Value]:
    """``given`` in the parameters' types. Raises: InputError."""
    checked: dict[str, Value] = {}
    for name, value in given.items():
        where = f"{field}.{name}"
        if name not in space.declared:
            raise InputError(where, value, "unknown parameter", nearest(name, space.declared))
        _check_owner(where, name, value, optimizer)
        checked[name] = space.declared[name].check(where, value)
        entry = space.entries.get(name)
        if name in shared and isinstance(entry, Fixed) and not same(checked[name], entry.value):
            raise InputError(where, value, f"is fixed to {entry.value!r} for all arms")
    return checked


def _default_point(
    given: Mapping[str, Value], space: SearchSpace, optimizer: str, shared: frozenset[str]
) -> dict[str, Value]:
    """The parameters of an arm's default trial.

    What ``given`` leaves out: the learning rate is the optimizer's own in PyTorch, any other
    parameter has the default that is declared for it. A shared parameter whose default lies
    outside its range has the middle of it, or the first of its choices: the arms are compared
    within the shared space.
    """
    params: dict[str, Value] = {}
    for name, entry in space.entries.items():
        if name in given:
            params[name] = given[name]
        elif all(
            parent in params and among(params[parent], values)
            for parent, values in entry.when.items()
        ):
            if isinstance(entry, Fixed):
                params[name] = entry.value
            elif name == "lr" and (
                name not in shared or space.holds(name, DEFAULT_LEARNING_RATES[optimizer])
            ):
                params[name] = DEFAULT_LEARNING_RATES[optimizer]
            else:
                params |= _default(name, entry, space, shared)
    return {**params, **given}


def _default(
    name: str, entry: Distribution, space: SearchSpace, shared: frozenset[str]
) -> dict[str, Value]:
    parameter: Parameter = space.declared[name]
    if name in shared and not space.holds(name, parameter.default):
        return {name: parameter.check(name, _middle(entry))}
    return {} if parameter.default is None else {name: parameter.default}


def _middle(entry: Distribution) -> Value:
    if isinstance(entry, Choice):
        return entry.choices[0]
    assert not isinstance(entry, Fixed)
    low, high = entry.bounds
    if isinstance(entry, Log):
        return math.sqrt(low * high)
    if isinstance(entry, LogInt):
        return round(math.sqrt(low * high))
    if isinstance(entry, Int):
        step = entry.step or 1
        return int(low) + step * ((int(high) - int(low)) // step // 2)
    assert isinstance(entry, Uniform)
    return (
        low + entry.step * round((high - low) / entry.step / 2) if entry.step else (low + high) / 2
    )


def differing(arms: Sequence[Arm]) -> tuple[str, ...]:
    """The parameters that two trials of a comparison may differ in."""
    points: list[Mapping[str, Value]] = [arm.default for arm in arms]
    for arm in arms:
        points.append(
            {
                name: entry.value
                for name, entry in arm.space.entries.items()
                if isinstance(entry, Fixed)
            }
        )
    names = dict.fromkeys(name for arm in arms for name in (*arm.space.entries, *arm.default))
    return tuple(
        name for name in names if len({repr(point.get(name, ...)) for point in points}) > 1
    )
