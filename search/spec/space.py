"""The space that a sweep searches: checked against what task and training declare, and drawn from
by Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foldrace.errors import InputError, nearest
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
from foldrace.search.spec.space_checks import (
    among,
    check_nesterov,
    check_optimizer,
    fit_conditions,
    parents_first,
    possible_values,
)
from foldrace.trainables.tasks.parameters import Parameter, Value

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

__all__ = ["SearchSpace"]


@dataclass(frozen=True)
class SearchSpace:
    """Distributions, conditions and fixed values, parents before what depends on them. Made by
    `build`."""

    entries: Mapping[str, Distribution]
    declared: Mapping[str, Parameter]

    @classmethod
    def build(
        cls, space: Mapping[str, Distribution], declared: Mapping[str, Parameter]
    ) -> SearchSpace:
        """The space, checked.

        Args:
            space: a spec's ``space``.
            declared: every name that may stand in it (`LoadedTask.declared`).

        Raises:
            InputError: an unknown name, a value or bound out of the parameter's range, conditions
                that cannot be, or an optimizer's own parameter that can stand beside an optimizer
                that lacks it.
        """
        fitted = {name: _fit(name, entry, declared) for name, entry in space.items()}
        conditioned = {name: fit_conditions(name, fitted, declared) for name in fitted}
        entries = parents_first(conditioned)
        check_optimizer(entries)
        check_nesterov(entries)
        return cls(entries, dict(declared))

    @property
    def parameters(self) -> tuple[str, ...]:
        """All names, fixed ones included, parents first."""
        return tuple(self.entries)

    @property
    def tunable(self) -> tuple[str, ...]:
        """The names that vary, parents first."""
        return tuple(name for name, entry in self.entries.items() if not isinstance(entry, Fixed))

    @property
    def always(self) -> tuple[str, ...]:
        """The names that vary in every trial: no other parameter's value decides whether they are
        there."""
        settled: dict[
            str, Value | None
        ] = {}  # of those that are always there: the value if it is fixed
        for name, entry in self.entries.items():
            fixed = (settled.get(parent) for parent in entry.when)
            if all(
                v is not None and among(v, vs)
                for v, vs in zip(fixed, entry.when.values(), strict=True)
            ):
                settled[name] = entry.value if isinstance(entry, Fixed) else None
        return tuple(name for name in self.tunable if name in settled)

    def suggest(self, trial: BaseTrial) -> dict[str, Value]:
        """A trial's parameters: the active ones, fixed ones included, in the types that are
        declared.

        Each tunable one is drawn from ``trial`` under its own name, so this is an Optuna
        define-by-run function.
        """
        params: dict[str, Value] = {}
        for name, entry in self.entries.items():
            if all(
                parent in params and among(params[parent], values)
                for parent, values in entry.when.items()
            ):
                params[name] = self.declared[name].check(name, _draw(trial, name, entry))
        return params

    def draw_all(self, trial: BaseTrial) -> None:
        """Draws every tunable parameter from ``trial``, active or not, so that it knows all
        distributions."""
        for name in self.tunable:
            _draw(trial, name, self.entries[name])

    def holds(self, name: str, value: Value) -> bool:
        """Whether a parameter of the space can have this value there."""
        try:
            self._within(name, value, name)
        except InputError:
            return False
        return True

    def check_point(self, point: Mapping[str, Value], field: str) -> dict[str, Value]:
        """The tunable part of a point to start with, as ``study.enqueue_trial`` takes it; what
        ``point`` leaves out is left to the sampler.

        Args:
            field: what the point is called in errors: ``search.start_with[0]``.

        Raises:
            InputError: a name that is not in the space, a value outside it, a parameter that does
                not exist with the point's other values, or whose parents the point leaves open.
        """
        for name in point:
            if name not in self.entries:
                raise InputError(
                    f"{field}.{name}",
                    point[name],
                    "is not in the space",
                    nearest(name, self.entries),
                )
        settled: dict[str, Value] = {}
        for name, entry in self.entries.items():
            active = all(
                p in settled and among(settled[p], values) for p, values in entry.when.items()
            )
            if name in point:
                if not active:
                    raise _inactive(f"{field}.{name}", point[name], entry, settled)
                settled[name] = self._within(name, point[name], f"{field}.{name}")
            elif active and isinstance(entry, Fixed):
                settled[name] = entry.value
        return {name: settled[name] for name in self.tunable if name in settled}

    def _within(self, name: str, value: Value, field: str) -> Value:
        """``value`` in the parameter's type, if the space has it. Raises: InputError."""
        entry = self.entries[name]
        value = self.declared[name].check(field, value)
        if isinstance(entry, Fixed):
            if not same(value, entry.value):
                raise InputError(field, value, f"is fixed to {entry.value!r} in the space")
        elif isinstance(entry, Choice):
            if not among(value, entry.choices):
                raise InputError(
                    field,
                    value,
                    "is not among the space's choices",
                    nearest(value, map(str, entry.choices)),
                )
        elif not _in_range(value, entry):
            raise InputError(field, value, f"is not in the space's range, {entry}")
        return value


def _fit(name: str, entry: Distribution, declared: Mapping[str, Parameter]) -> Distribution:
    """``entry`` with its values in the type of the parameter. Raises: InputError."""
    field = f"space.{name}"
    if name not in declared:
        raise InputError(field, str(entry), "unknown parameter", nearest(name, declared))
    parameter = declared[name]
    if isinstance(entry, Fixed):
        return entry.model_copy(update={"value": parameter.check(field, entry.value)})
    if isinstance(entry, Choice):
        choices = tuple(parameter.check(field, choice) for choice in entry.choices)
        for i, choice in enumerate(choices):
            if among(choice, choices[:i]):
                raise InputError(field, choice, "stands twice among the choices")
        return entry.model_copy(update={"choices": choices})
    if parameter.choices is not None or isinstance(parameter.default, bool | str):
        raise InputError(
            field,
            str(entry),
            parameter.rule + ", and has no range",
            "list its values: {choice: [...]}",
        )
    if isinstance(parameter.default, int) and isinstance(entry, Uniform | Log):
        form = "int" if isinstance(entry, Uniform) else "log_int"
        raise InputError(field, str(entry), parameter.rule, f"use {{{form}: [low, high]}}")
    for bound in entry.bounds:
        parameter.check(field, bound)
    return entry


def _draw(trial: BaseTrial, name: str, entry: Distribution) -> Value:
    if isinstance(entry, Fixed):
        return entry.value
    if isinstance(entry, Choice):
        choice: Value = trial.suggest_categorical(name, entry.choices)
        return choice
    if isinstance(entry, Uniform):
        return trial.suggest_float(name, *entry.bounds, step=entry.step)
    if isinstance(entry, Log):
        return trial.suggest_float(name, *entry.bounds, log=True)
    if isinstance(entry, Int):
        return trial.suggest_int(name, *entry.bounds, step=entry.step or 1)
    return trial.suggest_int(name, *entry.bounds, log=True)


def _in_range(value: Value, entry: Uniform | Log | Int | LogInt) -> bool:
    if isinstance(entry, Int | LogInt):
        return among(value, possible_values(entry) or ())
    low, high = entry.bounds
    if isinstance(value, str) or value is None or not low <= value <= high:
        return False
    steps = (value - low) / entry.step if isinstance(entry, Uniform) and entry.step else 0.0
    return abs(steps - round(steps)) < 1e-8  # Optuna's own tolerance


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
            return InputError(
                field, value, f"exists only if {parent} is {allowed}; here it is {settled[parent]}"
            )
    raise AssertionError("an active parameter")
