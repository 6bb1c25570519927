"""The arms of a comparison: the checked space and the default configuration of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foldrace.errors import InputError, nearest
from foldrace.search.spec.comparison import ArmSpec
from foldrace.search.spec.distribution_base import Distribution
from foldrace.search.spec.distributions import Fixed
from foldrace.search.spec.fields import same
from foldrace.search.spec.space import SearchSpace
from foldrace.trainables.tasks.parameters import (
    DEFAULT_LEARNING_RATES,
    OPTIMIZER_PARAMETERS,
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
        label: its name in the file and in reports.
        space: the space of its trials: the shared space, its optimizer, and its own space.
        default: the parameters of its default trial.
    """

    label: str
    space: SearchSpace
    default: Mapping[str, Value]


def build_arms(spec: SweepSpec, task: LoadedTask) -> tuple[Arm, ...]:
    """The arms of ``spec``, in the order of the file; none if it is not a comparison.

    Raises:
        InputError: as `SearchSpace.build`, with the place in the file
            (``comparison.arms.sgd.space.lr``); a default with an unknown name, out of its range,
            or different from a value that the space fixes.
    """
    arms = spec.comparison.arms if spec.comparison else {}
    return tuple(_build(label, arm, spec.space, task) for label, arm in arms.items())


def _build(label: str, arm: ArmSpec, shared: Mapping[str, Distribution], task: LoadedTask) -> Arm:
    optimizer = str(arm.optimizer)
    # An arm that sets no learning rate trains with its optimizer's own default, not Adam's.
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
    """Within this block, errors about ``space.NAME`` also name the arm."""
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
    """Refuses a parameter that only other optimizers have. Raises: InputError."""
    owners = [owner for owner, own in OPTIMIZER_PARAMETERS.items() if name in own]
    if owners and optimizer not in owners:
        rule = f"{optimizer} has no parameter of that name"
        raise InputError(field, value, rule, f"it belongs into arms of {', '.join(owners)}")


def _check_defaults(
    given: Mapping[str, Value],
    space: SearchSpace,
    optimizer: str,
    shared: Mapping[str, Distribution],
    field: str,
) -> Mapping[str, Value]:
    """The given defaults in the types of their parameters. Raises: InputError."""
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

    Where ``given`` leaves a parameter out, the learning rate is PyTorch's default for the
    optimizer, and any other parameter has its declared default. A shared parameter whose default
    lies outside its range has the middle of the range, or the first of its choices, since the
    arms are compared within the shared space.
    """
    params: dict[str, Value] = {}
    for name, entry in space.entries.items():
        if name in given:
            params[name] = given[name]
        elif not entry.active(params):
            continue
        elif isinstance(entry, Fixed):
            params[name] = entry.value
        else:
            declared = space.declared[name]
            default = declared.default
            if name == "lr":
                own = DEFAULT_LEARNING_RATES[optimizer]
                default = own if name not in shared or space.holds(name, own) else default
            if name in shared and not space.holds(name, default):
                default = declared.check(name, entry.middle)
            if default is not None:
                params[name] = default
    return {**params, **given}


def differing(arms: Sequence[Arm]) -> tuple[str, ...]:
    """The names of the parameters that can differ between two trials of a comparison."""
    points: list[Mapping[str, Value]] = [arm.default for arm in arms]
    for arm in arms:
        entries = arm.space.entries.items()
        points.append({name: entry.value for name, entry in entries if isinstance(entry, Fixed)})
    names = dict.fromkeys(name for arm in arms for name in (*arm.space.entries, *arm.default))
    return tuple(
        name for name in names if len({repr(point.get(name, ...)) for point in points}) > 1
    )
