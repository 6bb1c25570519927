"""The entries of a sweep file's ``space``: how each parameter's values are drawn.

| form | the parameter |
|---|---|
| ``{choice: [a, b, …]}`` | is one of these values |
| ``{uniform: [low, high], step: s}`` | is a number in this range; ``step`` is optional |
| ``{log: [low, high]}`` | is a number in this range, uniform in its logarithm |
| ``{int: [low, high], step: s}`` | is a whole number in this range; ``step`` is optional |
| ``{log_int: [low, high]}`` | is a whole number in this range, uniform in its logarithm |
| ``{value: x}`` or just ``x`` | is always x |

Both bounds belong to the range. Every form takes ``when: {parent: [values]}``: the parameter then
exists only in trials in which every parent has one of its listed values.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from foldrace.errors import InputError, nearest
from foldrace.search.spec.distribution_base import Distribution
from foldrace.search.spec.fields import Bare, BareList, Count, Worded, among, broken, same
from foldrace.trainables.tasks.parameters import Parameter, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

__all__ = [
    "FORMS",
    "TAG",
    "Choice",
    "Distribution",
    "Fixed",
    "Int",
    "Log",
    "LogInt",
    "SpaceEntry",
    "Uniform",
]

TAG = "form:"
"""Marks the part of an error's location that does not stand in the user's file."""

_MOST_STEPS = 1_000_000
_STEP_TOLERANCE = 1e-8  # Optuna's own


class _Listed(Distribution):
    """One of a few values that are listed."""

    @property
    @abstractmethod
    def values(self) -> Sequence[Value]: ...

    def read(self, text: str) -> Value:
        exact = [value for value in self.values if str(value) == text]
        # 1 in the file is 1.0 in the record, if the parameter is a number
        equal = [v for v in self.values if isinstance(v, int | float) and str(float(v)) == text]
        if not exact + equal:
            raise ValueError(f"{text}: not in {self}")
        return (exact + equal)[0]

    @property
    def upper(self) -> Value:
        return self.values[0]

    @property
    def middle(self) -> Value:
        return self.values[0]

    def to_optuna(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)


class Choice(_Listed):
    """One of the listed values."""

    choices: BareList = Field(alias="choice")
    """The values, one or more, each once."""

    @property
    def values(self) -> Sequence[Value]:
        return self.choices

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        choice: Value = trial.suggest_categorical(name, self.choices)
        return choice

    def check(self, field: str, value: Value) -> None:
        if not among(value, self.choices):
            hint = nearest(value, map(str, self.choices))
            raise InputError(field, value, "is not among the space's choices", hint)

    def fitted(self, field: str, parameter: Parameter) -> Self:
        choices = tuple(parameter.check(field, choice) for choice in self.choices)
        for i, choice in enumerate(choices):
            if among(choice, choices[:i]):
                raise InputError(field, choice, "is listed twice among the choices")
        return self.model_copy(update={"choices": choices})


class Fixed(_Listed):
    """Always the same value; the short form is the value alone."""

    value: Bare
    """The value."""

    @property
    def values(self) -> Sequence[Value]:
        return (self.value,)

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        return self.value

    def check(self, field: str, value: Value) -> None:
        if not same(value, self.value):
            raise InputError(field, value, f"is fixed to {self.value!r} in the space")

    def fitted(self, field: str, parameter: Parameter) -> Self:
        return self.model_copy(update={"value": parameter.check(field, self.value)})

    @model_serializer(mode="wrap")
    def _without_blanks(self, handler: SerializerFunctionWrapHandler) -> Any:
        dumped: Mapping[str, Any] = handler(self)
        return {"value": dumped["value"], "when": dumped["when"]} if self.when else dumped["value"]


def _two_numbers(value: object) -> object:
    if isinstance(value, list | tuple) and len(value) == 2:
        return value
    many = isinstance(value, list | tuple) and len(value) > 2
    hint = f"did you mean {{choice: {list(value)}}}?" if many else ""  # type: ignore[call-overload]
    raise broken("must be two numbers, [low, high]", hint)


def _ascending(bounds: tuple[Any, ...]) -> tuple[Any, ...]:
    low, high = (int(bound) if bound == int(bound) else bound for bound in bounds)
    if low == high:
        raise broken("its bounds are equal", f"did you mean the fixed value {low}?")
    if low > high:
        raise broken("its bounds are reversed", f"did you mean [{high}, {low}]?")
    return bounds


_TWO = Field(min_length=2, max_length=2, strict=False)
_SHAPE, _ORDER = BeforeValidator(_two_numbers), AfterValidator(_ascending)
_Number = Annotated[float, Worded()]
_Positive = Annotated[float, Field(gt=0), Worded()]
_Whole = Annotated[int, Worded()]


class _Range(Distribution):
    """A range of numbers; both bounds belong to it."""

    bounds: tuple[Any, ...]
    whole: ClassVar[bool] = False

    def read(self, text: str) -> Value:
        return int(text) if self.whole else float(text)

    @property
    def _spacing(self) -> dict[str, Any]:
        """Optuna's keyword arguments beside the bounds."""
        return {"log": True} if self.logarithmic else {}

    @property
    def upper(self) -> Value:
        upper: float = self.bounds[1]
        return upper

    @property
    def middle(self) -> Value:
        low, high = self.bounds
        middle = math.sqrt(low * high) if self.logarithmic else (low + high) / 2
        return round(middle) if self.whole else middle

    def check(self, field: str, value: Value) -> None:
        if isinstance(value, str) or value is None or not self._holds(value):
            raise InputError(field, value, f"is not in the space's range, {self}")

    def _holds(self, value: float) -> bool:
        low, high = self.bounds
        return bool(low <= value <= high)

    def fitted(self, field: str, parameter: Parameter) -> Self:
        if parameter.choices is not None or isinstance(parameter.default, bool | str):
            rule = f"{parameter.rule}, and has no range"
            raise InputError(field, str(self), rule, "list its values: {choice: [...]}")
        if isinstance(parameter.default, int) and not self.whole:
            form = "log_int" if self.logarithmic else "int"
            raise InputError(field, str(self), parameter.rule, f"use {{{form}: [low, high]}}")
        for bound in self.bounds:
            parameter.check(field, bound)
        return self


class _FloatRange(_Range):
    def suggest(self, trial: BaseTrial, name: str) -> Value:
        return trial.suggest_float(name, *self.bounds, **self._spacing)

    def to_optuna(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(*self.bounds, **self._spacing)


class _IntRange(_Range):
    whole: ClassVar[bool] = True

    @property
    def values(self) -> range:
        low, high = self.bounds
        return range(low, high + 1, self._spacing.get("step", 1))

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        return trial.suggest_int(name, *self.bounds, **self._spacing)

    def to_optuna(self) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        return IntDistribution(*self.bounds, **self._spacing)

    def _holds(self, value: float) -> bool:
        return among(value, self.values)


class _Stepped(_Range):
    step: float | None = None

    @property
    def _spacing(self) -> dict[str, Any]:
        return {} if self.step is None else {"step": self.step}

    @model_validator(mode="after")
    def _step_fits(self) -> Self:
        (low, high), step = self.bounds, self.step
        if step is None:
            return self
        # In decimals, as they are written: 0.3 - 0.1 is less than 0.2 in binary.
        width, exact = Decimal(str(high)) - Decimal(str(low)), Decimal(str(step))
        if exact > width:
            raise broken("is wider than the range", at=("step",), value=step)
        if width / exact > _MOST_STEPS:
            rule = f"gives more than {_MOST_STEPS:,} values"
            raise broken(rule, "leave it out", at=("step",), value=step)
        if rest := width % exact:
            last = type(high)(Decimal(str(high)) - rest)
            rule = f"does not divide the range from {low!r} to {high!r}"
            raise broken(rule, f"did you mean [{low!r}, {last!r}]?", at=("step",), value=step)
        return self


class Uniform(_Stepped, _FloatRange):
    """A number, uniform between two bounds."""

    bounds: Annotated[tuple[_Number, ...], _TWO, _SHAPE, _ORDER] = Field(alias="uniform")
    """Lower and upper bound; both belong to the range."""

    step: _Positive | None = None
    """Distance between the values. By default any value in the range can be drawn."""

    @property
    def grid(self) -> Sequence[Value] | None:
        if not self.step:
            return None
        low, high = self.bounds
        steps = round((high - low) / self.step)
        return [min(low + place * self.step, high) for place in range(steps + 1)]

    @property
    def middle(self) -> Value:
        low, high = self.bounds
        if not self.step:
            return (low + high) / 2
        return low + self.step * round((high - low) / self.step / 2)

    def _holds(self, value: float) -> bool:
        if not super()._holds(value):
            return False
        steps = (value - self.bounds[0]) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < _STEP_TOLERANCE


class Log(_FloatRange):
    """A number above 0, uniform in its logarithm between two bounds."""

    bounds: Annotated[tuple[_Positive, ...], _TWO, _SHAPE, _ORDER] = Field(alias="log")
    """Lower and upper bound; both belong to the range."""

    logarithmic: ClassVar[bool] = True


class Int(_Stepped, _IntRange):
    """A whole number, uniform between two bounds."""

    bounds: Annotated[tuple[_Whole, ...], _TWO, _SHAPE, _ORDER] = Field(alias="int")
    """Lower and upper bound; both belong to the range."""

    step: Count | None = None
    """Distance between the values. Default: 1."""

    @property
    def middle(self) -> Value:
        return self.values[(len(self.values) - 1) // 2]


class LogInt(_IntRange):
    """A whole number from 1, uniform in its logarithm between two bounds."""

    bounds: Annotated[tuple[Count, ...], _TWO, _SHAPE, _ORDER] = Field(alias="log_int")
    """Lower and upper bound; both belong to the range."""

    logarithmic: ClassVar[bool] = True


FORMS: Mapping[str, type[Distribution]] = {
    "choice": Choice,
    "uniform": Uniform,
    "log": Log,
    "int": Int,
    "log_int": LogInt,
    "value": Fixed,
}
"""The forms by the key that each is recognised by."""


def _one_form(value: object) -> object:
    """``value``, as ``{value: x}`` if it is bare. Raises: PydanticCustomError."""
    if isinstance(value, Distribution):
        return value
    if isinstance(value, list | tuple):
        hint = f"did you mean {{choice: {list(value)!r}}}?"
        raise broken("must be a value or a distribution", hint)
    if not isinstance(value, Mapping):
        return {"value": value}
    forms = [key for key in value if key in FORMS]
    if len(forms) > 1:
        raise broken(f"has {len(forms)} forms at once ({', '.join(forms)})", "keep one of them")
    if not forms:
        wrong = next((str(key) for key in value if key != "when"), "")
        raise broken("must have the form of a distribution", nearest(wrong, FORMS))
    return value


def _tag(value: object) -> str:
    if isinstance(value, Distribution):
        return TAG + next(key for key, form in FORMS.items() if isinstance(value, form))
    assert isinstance(value, Mapping)
    return TAG + next(key for key in FORMS if key in value)


SpaceEntry = Annotated[
    Annotated[Choice, Tag("form:choice")]
    | Annotated[Uniform, Tag("form:uniform")]
    | Annotated[Log, Tag("form:log")]
    | Annotated[Int, Tag("form:int")]
    | Annotated[LogInt, Tag("form:log_int")]
    | Annotated[Fixed, Tag("form:value")],
    Discriminator(_tag),
    BeforeValidator(
        _one_form,
        json_schema_input_type=Choice | Uniform | Log | Int | LogInt | Fixed | Bare,
    ),
]
"""A distribution as it is written in the file: a mapping, or a bare value."""
