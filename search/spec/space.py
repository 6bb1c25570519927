"""The space that a sweep searches, checked against the parameters of the task and the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foldrace.errors import InputError, nearest
from foldrace.search.spec.distribution_base import Distribution
from foldrace.search.spec.distributions import Fixed
from foldrace.search.spec.fields import among
from foldrace.search.spec.space_checks import (
    check_average,
    check_nesterov,
    check_optimizer,
    fit_conditions,
    parents_first,
)
from foldrace.trainables.tasks.parameters import Parameter, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

__all__ = ["SearchSpace"]


@dataclass(frozen=True)
class SearchSpace:
    """Distributions, conditions and fixed values of a trial's parameters. Made by `build`.

    Attributes:
        entries: by parameter; parents come before the parameters that depend on them.
        declared: the declaration of every parameter of the task and the training.
    """

    entries: Mapping[str, Distribution]
    declared: Mapping[str, Parameter]

    @classmethod
    def build(
        cls, space: Mapping[str, Distribution], declared: Mapping[str, Parameter]
    ) -> SearchSpace:
        """The checked space.

        Args:
            space: the ``space`` of a spec.
            declared: every name that it may hold (`LoadedTask.declared`).

        Raises:
            InputError: an unknown name, a value or bound that the parameter cannot have, a
                condition that can never hold, or a parameter of one optimizer that would be used
                with another optimizer.
        """
        fitted = {name: _fit(name, entry, declared) for name, entry in space.items()}
        conditioned = {name: fit_conditions(name, fitted, declared) for name in fitted}
        entries = parents_first(conditioned)
        check_optimizer(entries)
        check_nesterov(entries)
        check_average(entries)
        return cls(entries, dict(declared))

    @property
    def parameters(self) -> tuple[str, ...]:
        """All names, fixed ones included, parents first."""
        return tuple(self.entries)

    @property
    def tunable(self) -> tuple[str, ...]:
        """The names of the parameters that are not fixed, parents first."""
        return tuple(name for name, entry in self.entries.items() if not isinstance(entry, Fixed))

    @property
    def always(self) -> tuple[str, ...]:
        """The tunable names that exist in every trial, whatever values the others have."""
        # The parameters that always exist, with the value of each that is fixed.
        settled: dict[str, Value | None] = {}
        for name, entry in self.entries.items():
            fixed = (settled.get(parent) for parent in entry.when)
            if all(
                v is not None and among(v, vs)
                for v, vs in zip(fixed, entry.when.values(), strict=True)
            ):
                settled[name] = entry.value if isinstance(entry, Fixed) else None
        return tuple(name for name in self.tunable if name in settled)

    def point(self, pick: Callable[[str, Distribution], Value]) -> dict[str, Value]:
        """A trial's active parameters, fixed ones included, in their declared types.

        Args:
            pick: gives the value of a parameter, from its name and its entry.
        """
        params: dict[str, Value] = {}
        for name, entry in self.entries.items():
            if entry.active(params):
                params[name] = self.declared[name].check(name, pick(name, entry))
        return params

    def suggest(self, trial: BaseTrial) -> dict[str, Value]:
        """A trial's active parameters, drawn by an Optuna trial (a define-by-run function).

        Each tunable parameter is drawn under its own name; fixed ones are added.
        """
        return self.point(lambda name, entry: entry.suggest(trial, name))

    def to_optuna(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of every tunable parameter, active or not."""
        return {name: self.entries[name].to_optuna() for name in self.tunable}

    def holds(self, name: str, value: Value) -> bool:
        """Whether the parameter ``name`` can have this value in the space."""
        try:
            self._within(name, value, name)
        except InputError:
            return False
        return True

    def check_point(self, point: Mapping[str, Value], field: str) -> dict[str, Value]:
        """The tunable part of a starting point, as ``study.enqueue_trial`` takes it.

        Parameters that ``point`` leaves out are drawn by the sampler.

        Args:
            field: the point's name in errors, such as ``search.start_with[0]``.

        Raises:
            InputError: a name that is not in the space, a value outside its range, or a parameter
                that does not exist with the other values of the point.
        """
        for name in point:
            if name not in self.entries:
                hint = nearest(name, self.entries)
                raise InputError(f"{field}.{name}", point[name], "is not in the space", hint)
        settled: dict[str, Value] = {}
        for name, entry in self.entries.items():
            active = entry.active(settled)
            if name in point:
                if not active:
                    raise _inactive(f"{field}.{name}", point[name], entry, settled)
                settled[name] = self._within(name, point[name], f"{field}.{name}")
            elif active and isinstance(entry, Fixed):
                settled[name] = entry.value
        return {name: settled[name] for name in self.tunable if name in settled}

    def is_complete(self, point: Mapping[str, Value]) -> bool:
        """Whether a point of `check_point` leaves nothing to the sampler."""
        try:
            self.point(lambda name, e: e.value if isinstance(e, Fixed) else point[name])
        except KeyError:
            return False
        return True

    def _within(self, name: str, value: Value, field: str) -> Value:
        """``value`` in the parameter's type, if the space has it. Raises: InputError."""
        value = self.declared[name].check(field, value)
        self.entries[name].check(field, value)
        return value


def _fit(name: str, entry: Distribution, declared: Mapping[str, Parameter]) -> Distribution:
    """``entry`` with its values in the type of the parameter. Raises: InputError."""
    field = f"space.{name}"
    if name not in declared:
        raise InputError(field, str(entry), "unknown parameter", nearest(name, declared))
    return entry.fitted(field, declared[name])


def _inactive(
    field: str, value: Value, entry: Distribution, settled: Mapping[str, Value]
) -> InputError:
    """Why a parameter of a point does not exist there."""
    for parent, values in entry.when.items():
        if parent not in settled:
            rule = f"depends on {parent}, which this point does not set"
            return InputError(field, value, rule, f"add {parent}, or leave this one out")
        if not among(settled[parent], values):
            allowed = " or ".join(map(str, values))
            rule = f"exists only if {parent} is {allowed}; here it is {settled[parent]}"
            return InputError(field, value, rule)
    raise AssertionError("the parameter is active")
