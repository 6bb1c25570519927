"""Checks of a space as a whole: its conditions, and parameters that belong to one optimizer."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping

from foldrace.errors import InputError, nearest
from foldrace.search.spec.distribution_base import Distribution
from foldrace.search.spec.fields import among
from foldrace.trainables.tasks.parameters import (
    OPTIMIZER_PARAMETERS,
    TRAINING_PARAMETERS,
    Parameter,
    Value,
)

__all__ = ["check_average", "check_nesterov", "check_optimizer", "fit_conditions", "parents_first"]

Space = Mapping[str, Distribution]


def fit_conditions(name: str, space: Space, declared: Mapping[str, Parameter]) -> Distribution:
    """The entry of that name, with the values of its conditions in the types of the parents.

    Raises:
        InputError: a parent that is unknown, continuous, the parameter itself, or never has the
            value.
    """
    when: dict[str, tuple[Value, ...]] = {}
    for parent, wanted in space[name].when.items():
        field = f"space.{name}.when.{parent}"
        if parent == name:
            raise InputError(field, None, "a parameter cannot depend on itself")
        if parent not in space:
            known = parent in declared
            rule = (
                f"{parent} is not in the space and stays {declared[parent].default!r}"
                if known
                else "unknown parent"
            )
            hint = f"add {parent} to the space" if known else nearest(parent, set(space) - {name})
            raise InputError(field, None, rule, hint)
        possible = space[parent].values
        if possible is None:
            rule = "is continuous; a parent must be a choice, a whole number or a fixed value"
            raise InputError(field, str(space[parent]), rule)
        when[parent] = tuple(declared[parent].check(field, value) for value in wanted)
        for value in when[parent]:
            if not among(value, possible):
                hint = (
                    str(space[parent])
                    if isinstance(possible, range)
                    else nearest(value, map(str, possible))
                )
                raise InputError(field, value, f"{parent} never has this value", hint)
    return space[name].model_copy(update={"when": when})


def parents_first(space: Space) -> dict[str, Distribution]:
    """``space`` in an order in which every parent comes before the parameters that depend on it.

    Raises:
        InputError: parameters that depend on each other in a circle.
    """
    order = graphlib.TopologicalSorter({name: list(entry.when) for name, entry in space.items()})
    try:
        return {name: space[name] for name in order.static_order()}
    except graphlib.CycleError as error:
        circle = [str(name) for name in error.args[1]]
        shown = " -> ".join(circle)
        raise InputError(
            f"space.{circle[-1]}.when", shown, "these depend on each other in a circle"
        ) from error


def _requirements(name: str, space: Space) -> dict[str, tuple[Value, ...]]:
    """The values that each ancestor must have for ``name`` to exist."""
    required: dict[str, tuple[Value, ...]] = {}
    for parent, values in space[name].when.items():
        for who, allowed in ((parent, values), *_requirements(parent, space).items()):
            required[who] = tuple(v for v in required.get(who, allowed) if among(v, allowed))
    return required


def _optimizers(name: str, space: Space) -> list[str]:
    """Every optimizer with which ``name`` can exist."""
    default = TRAINING_PARAMETERS["optimizer"].default
    entry = space.get("optimizer")
    if entry is None:
        return [str(default)]
    required = _requirements(name, space).get("optimizer")
    if required is not None:
        return [str(value) for value in required]
    possible = [str(value) for value in entry.values or ()]
    return [*possible, str(default)] if entry.when and default not in possible else possible


def check_optimizer(space: Space) -> None:
    """Refuses a parameter of one optimizer that can exist with an optimizer that lacks it.

    Raises:
        InputError: names the optimizers that lack it and the ``when`` to write.
    """
    for name, entry in space.items():
        owners = [optimizer for optimizer, own in OPTIMIZER_PARAMETERS.items() if name in own]
        possible = _optimizers(name, space) if owners else []
        lacking = [optimizer for optimizer in possible if optimizer not in owners]
        if not lacking:
            continue
        fitting = [optimizer for optimizer in possible if optimizer in owners]
        conditions = {**entry.when, "optimizer": fitting or owners}
        shown = ", ".join(
            f"{parent}: [{', '.join(map(str, values))}]" for parent, values in conditions.items()
        )
        line = f"`when: {{{shown}}}`"
        rule = (
            f"{' and '.join(lacking)} {'have' if len(lacking) > 1 else 'has'} no parameter of that"
            " name"
        )
        if "optimizer" not in space:
            rule += f", and {lacking[0]} is the optimizer by default"
        let = (
            f"{name} belongs to {', '.join(owners)}: put one of them in optimizer's choices, and"
            " here "
        )
        raise InputError(
            f"space.{name}", str(entry), rule, ("" if fitting else let) + f"add {line}"
        )


def check_average(space: Space) -> None:
    """Refuses two ways of averaging the weights. Raises: InputError."""
    if "ema_decay" in space and "swa_start" in space:
        shown, rule = str(space["swa_start"]), "weights are averaged in one way: ema_decay is set"
        raise InputError("space.swa_start", shown, rule, "leave one out")


def check_nesterov(space: Space) -> None:
    """Refuses Nesterov momentum that can exist without a momentum above 0.

    Raises:
        InputError: ``momentum`` is not in the space, can be 0, or can be absent where ``nesterov``
            exists.
    """
    if "nesterov" not in space or not among(True, space["nesterov"].values or ()):
        return
    field, shown = "space.nesterov", str(space["nesterov"])
    if "momentum" not in space:
        raise InputError(
            field, shown, "needs a momentum above 0", "add `momentum: {uniform: [0.5, 0.99]}`"
        )
    required = _requirements("nesterov", space)
    momentum = space["momentum"]
    values = required.get("momentum", momentum.values)
    # Every momentum is at least 0, so the lower bound of a range of floats decides.
    can_be_zero = momentum.contains(0.0) if values is None else among(0, values)
    if can_be_zero:
        hint = "let momentum start above 0"
        raise InputError(
            field, shown, f"needs a momentum above 0, and momentum can be 0 ({momentum})", hint
        )
    for parent, allowed in _requirements("momentum", space).items():
        here = required.get(parent, space[parent].values or ())
        if not all(among(value, allowed) for value in here):
            hint = f"give it momentum's own conditions: {dict(momentum.when)}"
            raise InputError(
                field,
                shown,
                f"needs a momentum, which exists only for some values of {parent}",
                hint,
            )
