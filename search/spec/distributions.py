"""What may stand behind a parameter's name in a sweep file's ``space``.

| form | the parameter |
|---|---|
| ``{choice: [a, b, …]}`` | is one of these |
| ``{uniform: [low, high], step: s}`` | is a number between these; ``step`` may be left out |
| ``{log: [low, high]}`` | is a number between these, its logarithm spread evenly |
| ``{int: [low, high], step: s}`` | is a whole number between these |
| ``{log_int: [low, high]}`` | is a whole number between these, its logarithm spread evenly |
| ``{value: x}`` or just ``x`` | is always x |

Bounds belong to the range. Any form takes ``when: {parent: [values]}``: the parameter then exists
only in trials in which every parent has one of its values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    Tag,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from foldrace.errors import nearest
from foldrace.search.spec.fields import BARE_VALUE, NAME, Bare, Number, Section, broken, check_bare
from foldrace.search.spec.yaml_files import inline_yaml
from foldrace.trainables.tasks.parameters import Value

__all__ = [
    "FORMS",
    "TAG",
    "Choice",
    "Distribution",
    "Fixed",
    "Int",
    "Log",
    "LogInt",
    "Range",
    "SpaceEntry",
    "Uniform",
    "same",
]

TAG = "form:"
"""Marks the part of an error's location that the user's file does not have."""

_MOST_STEPS = 1_000_000
_BARE_LIST: dict[str, Any] = {"type": "array", "items": BARE_VALUE, "minItems": 1}


def same(one: Value, other: Value) -> bool:
    """Equal, and not just because Python takes true for 1."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _bare_list(value: object) -> tuple[Value, ...]:
    if not isinstance(value, list | tuple):
        raise broken("must be a list of values", "[a, b, ...]", value=value)
    if not value:
        raise broken("must hold at least one value")
    values = tuple(check_bare(item) for item in value)
    for i, item in enumerate(values):
        if any(same(item, earlier) for earlier in values[:i]):
            raise broken(f"{item!r} stands twice")
    return values


def _conditions(value: object) -> Mapping[str, tuple[Value, ...]]:
    if not isinstance(value, Mapping) or not value:
        raise broken("must name a parent and its values", "when: {optimizer: [sgd, rmsprop]}")
    for parent in value:
        NAME.check(parent)
    return {p: _bare_list(v if isinstance(v, list | tuple) else [v]) for p, v in value.items()}


def _bounds(number: Number) -> tuple[Callable[[object], tuple[Any, Any]], WithJsonSchema]:
    """The check of ``[low, high]``, and its schema."""

    def check(value: object) -> tuple[Any, Any]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            many = isinstance(value, list | tuple) and len(value) > 2
            hint = f"did you mean {{choice: {list(value)}}}?" if many else ""  # type: ignore[call-overload]
            raise broken("must be two numbers, [low, high]", hint, value=value)
        low, high = (number.check(bound) for bound in value)
        if low == high:
            raise broken("its bounds are equal", f"did you mean the fixed value {value[0]!r}?")
        if low > high:
            raise broken("its bounds are reversed", f"did you mean [{value[1]!r}, {value[0]!r}]?")
        return low, high

    return check, WithJsonSchema(
        {
            "type": "array",
            "items": number.json_schema,
            "minItems": 2,
            "maxItems": 2,
            "description": "low, high",
        }
    )


_FLOATS, _FLOATS_SCHEMA = _bounds(Number())
_POSITIVE, _POSITIVE_SCHEMA = _bounds(Number(above=0))
_WHOLES, _WHOLES_SCHEMA = _bounds(Number(whole=True))
_COUNTS, _COUNTS_SCHEMA = _bounds(Number(low=1, whole=True))


class _Form(Section):
    when: Annotated[
        Mapping[str, tuple[Value, ...]],
        PlainValidator(_conditions),
        WithJsonSchema(
            {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {"anyOf": [BARE_VALUE, _BARE_LIST]},
                "description": "parents and the values of theirs with which this parameter exists",
            }
        ),
    ] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_blanks(self, handler: SerializerFunctionWrapHandler) -> Any:
        dumped: Mapping[str, Any] = handler(self)
        shown = {k: v for k, v in dumped.items() if k != "when" and (k != "step" or v is not None)}
        return {**shown, "when": dumped["when"]} if self.when else shown

    def __str__(self) -> str:
        """As it stands in a sweep file."""
        return inline_yaml(self.model_dump(by_alias=True))


class Choice(_Form):
    """One of the listed values."""

    choices: Annotated[
        tuple[Value, ...], PlainValidator(_bare_list), WithJsonSchema(_BARE_LIST)
    ] = Field(alias="choice")


class Fixed(_Form):
    """Always the same value; short: the value alone."""

    value: Bare

    @model_serializer(mode="wrap")
    def _without_blanks(self, handler: SerializerFunctionWrapHandler) -> Any:
        dumped: Mapping[str, Any] = handler(self)
        return {"value": dumped["value"], "when": dumped["when"]} if self.when else dumped["value"]


class _Stepped(_Form):
    @model_validator(mode="after")
    def _step_fits(self) -> _Stepped:
        low, high = self.bounds  # type: ignore[attr-defined]
        step = self.step  # type: ignore[attr-defined]
        if step is None:
            return self
        width = Decimal(str(high)) - Decimal(str(low))
        if step > high - low:
            raise broken("is wider than the range", at=("step",), value=step)
        if (high - low) / step > _MOST_STEPS:
            raise broken(
                f"gives more than {_MOST_STEPS:,} values", "leave it out", at=("step",), value=step
            )
        rest = width % Decimal(str(step))
        if rest:
            last = type(high)(Decimal(str(high)) - rest)
            rule = f"does not divide the range from {low!r} to {high!r}"
            raise broken(rule, f"did you mean [{low!r}, {last!r}]?", at=("step",), value=step)
        return self


class Uniform(_Stepped):
    """A number, spread evenly between two bounds."""

    bounds: Annotated[tuple[float, float], PlainValidator(_FLOATS), _FLOATS_SCHEMA] = Field(
        alias="uniform"
    )
    step: Annotated[float, Number(above=0)] | None = Field(
        default=None, description="distance between the values"
    )


class Log(_Form):
    """A number above 0, its logarithm spread evenly between two bounds."""

    bounds: Annotated[tuple[float, float], PlainValidator(_POSITIVE), _POSITIVE_SCHEMA] = Field(
        alias="log"
    )


class Int(_Stepped):
    """A whole number, spread evenly between two bounds."""

    bounds: Annotated[tuple[int, int], PlainValidator(_WHOLES), _WHOLES_SCHEMA] = Field(
        alias="int"
    )
    step: Annotated[int, Number(low=1, whole=True)] | None = Field(
        default=None, description="distance between the values"
    )


class LogInt(_Form):
    """A whole number from 1, its logarithm spread evenly between two bounds."""

    bounds: Annotated[tuple[int, int], PlainValidator(_COUNTS), _COUNTS_SCHEMA] = Field(
        alias="log_int"
    )


Range = Uniform | Log | Int | LogInt
Distribution = Choice | Uniform | Log | Int | LogInt | Fixed

FORMS: Mapping[str, type[_Form]] = {
    "choice": Choice,
    "uniform": Uniform,
    "log": Log,
    "int": Int,
    "log_int": LogInt,
    "value": Fixed,
}
"""The key that says which form it is."""


def _one_form(value: object) -> object:
    """A bare value as ``{value: x}``; refuses what is no form or several."""
    if isinstance(value, _Form):
        return value
    if isinstance(value, list | tuple):
        raise broken(
            "must be a value or a distribution", f"did you mean {{choice: {list(value)!r}}}?"
        )
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
    if isinstance(value, _Form):
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
"""A distribution as the file has it: a mapping, or a bare value."""
