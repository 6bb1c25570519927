"""The kinds of value in a sweep file, as annotations for pydantic models.

Pydantic checks the constraints; `Worded` reports a broken one as one rule in plain words. Values
are checked more strictly than Python does: ``"3"`` is not a number, ``true`` is not 1. A whole
number is accepted where a float is wanted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)
from pydantic_core import PydanticCustomError, core_schema

from foldrace.trainables.tasks.parameters import Parameter, Value

__all__ = [
    "BARE_LIST",
    "BARE_VALUE",
    "Bare",
    "BareList",
    "Count",
    "Duration",
    "Line",
    "Name",
    "Seed",
    "Size",
    "SpecSection",
    "Worded",
    "among",
    "broken",
    "same",
]

# Optuna subtracts, squares and adds the numbers of a space; 1e308 would overflow on the way.
_LARGEST = 1e100
# Every whole number up to here is exact as a float, which is how samplers see it.
_LARGEST_WHOLE = 2**53
_NUMBER_IN_QUOTES = re.compile(r"\s*[-+]?[\d.]+(?:[eE][-+]?\d+)?\s*")


def broken(
    rule: str, hint: str = "", *, at: tuple[str | int, ...] = (), **value: object
) -> PydanticCustomError:
    """The error of a broken rule, which `foldrace.search.spec.errors` translates.

    Args:
        rule, hint: as in `InputError`.
        at: the path from the validated value to the wrong one.
        value: ``value=`` the wrong value, if it is not the validated value itself.
    """
    return PydanticCustomError("rule", "{rule}", {"rule": rule, "hint": hint, "at": at, **value})


def same(one: Value, other: Value) -> bool:
    """Whether two values are equal, where true and 1 are not.

    >>> same(1, 1.0), same(1, True)
    (True, False)
    """
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def among(value: Value, values: Iterable[Value]) -> bool:
    """Whether ``value`` is one of ``values``, where true and 1 are not the same.

    >>> among(4.0, range(2, 9)), among(True, [1, 2])
    (True, False)
    """
    if isinstance(values, range):
        return (
            not isinstance(value, bool | str)
            and value is not None
            and value == int(value)
            and int(value) in values
        )
    return any(same(value, other) for other in values)


@dataclass(frozen=True)
class Worded:
    """Annotation that states the rule in words when one of pydantic's constraints is broken.

    Stands behind the constraints: ``Annotated[int, Field(ge=1), Worded()]`` reports ``must be a
    whole number at least 1``, whichever part of it is broken. Text must be printable, and numbers
    small enough for Optuna.

    Args:
        rule: the rule; if empty, it is made from the type and the bounds of a number.
    """

    rule: str = ""

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        constrained = handler(source)
        rule = self.rule or _rule_of(constrained)

        def check(value: object, validate: ValidatorFunctionWrapHandler) -> Any:
            try:
                checked = validate(value)
            except ValidationError as error:
                if error.errors()[0]["type"] == "finite_number":
                    raise broken("must be a finite number", value=value) from None
                raise broken(rule, _quotes(rule, value), value=value) from None
            if isinstance(checked, str):
                if not checked.isprintable():
                    raise broken(rule)
            else:
                _check_magnitude(checked)
            return checked

        return core_schema.no_info_wrap_validator_function(check, constrained)


def _rule_of(schema: Mapping[str, Any]) -> str:
    """A number's rule, in the words that `Parameter` has for the same bounds."""
    zero = 0 if schema["type"] == "int" else 0.0
    low, high, above, below = (schema.get(key) for key in ("ge", "le", "gt", "lt"))
    return Parameter(zero, low=low, high=high, above=above, below=below).rule


def _quotes(rule: str, value: object) -> str:
    """A hint if the value would be right with quotes, or without them."""
    if isinstance(value, str):
        number = "number" in rule and _NUMBER_IN_QUOTES.fullmatch(value)
        return "without quotes" if number else ""
    text = "number" not in rule and isinstance(value, int | float)
    return "put it in quotes if it is a name" if text else ""


def _check_magnitude(number: float) -> None:
    if isinstance(number, float) and not math.isfinite(number):
        raise broken("must be a finite number", value=number)
    if abs(number) > (_LARGEST_WHOLE if isinstance(number, int) else _LARGEST):
        raise broken("is too large a number", value=number)


Count = Annotated[int, Field(ge=1), Worded()]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), Worded()]
Line = Annotated[
    str, Field(pattern=r"^(?:.+)$", max_length=4096), Worded("must be text, of one line")
]
"""One line of printable text."""
Name = Annotated[
    str,
    Field(pattern=r"^(?:[A-Za-z_][A-Za-z0-9_-]*)$", max_length=100),
    Worded("must be a parameter's name: letters, digits, '_' and '-'"),
]

_LONGEST_TEXT = 200

BARE_VALUE: dict[str, Any] = {"type": ["number", "string", "boolean", "null"]}
BARE_LIST: dict[str, Any] = {"type": "array", "items": BARE_VALUE, "minItems": 1}


def _bare(value: object) -> Value:
    """A parameter's value, in its own type. Raises: PydanticCustomError."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > _LONGEST_TEXT:
            raise broken(f"must have at most {_LONGEST_TEXT} characters; it has {len(value)}")
        if not value.isprintable():
            odd = next(character for character in value if not character.isprintable())
            raise broken(f"must be text of one line, of characters that print; it has {odd!r}")
        return str(value)
    if isinstance(value, int | float):
        _check_magnitude(value)
        return int(value) if isinstance(value, int) else float(value)
    raise broken("must be a number, text, true, false or null")


Bare = Annotated[Value, PlainValidator(_bare), WithJsonSchema(BARE_VALUE)]
"""A parameter's value: a number, one line of text, true, false or null; its type is kept."""


def _distinct(values: tuple[Value, ...]) -> tuple[Value, ...]:
    for place, value in enumerate(values):
        if among(value, values[:place]):
            raise broken(f"{value!r} is listed twice")
    return values


BareList = Annotated[
    tuple[Bare, ...], Field(min_length=1, strict=False), AfterValidator(_distinct)
]
"""One or more values, each once."""

_DURATION = re.compile(
    r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?", re.ASCII
)


def _seconds(value: object) -> float:
    """The seconds in ``90s``, ``30m``, ``1h30m``, or a number of seconds."""
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


_DURATION_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^(\d+(\.\d+)?h)?(\d+(\.\d+)?m)?(\d+(\.\d+)?s)?$"},
    ]
}
Duration = Annotated[float, PlainValidator(_seconds), WithJsonSchema(_DURATION_SCHEMA)]
"""A time in seconds."""

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmgt]?b)", re.ASCII | re.IGNORECASE)
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SMALLEST_SIZE = 64 * 10**6


def _bytes(value: object) -> int:
    """The bytes in ``4GB``, ``512MB``, or a number of bytes."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip()) if len(value) < 50 else None
        value = round(float(match["number"]) * _UNITS[match["unit"].upper()]) if match else None
    if isinstance(value, int) and value is not True and _SMALLEST_SIZE <= value <= 2**60:
        return int(value)
    raise broken("must be a size of at least 64MB", "512MB, 4GB, 1.5GB, or a number of bytes")


_SIZE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": _SMALLEST_SIZE},
        {"type": "string", "pattern": r"^\d+(\.\d+)?\s*([kKmMgGtT]?[bB])$"},
    ]
}
Size = Annotated[int, PlainValidator(_bytes), WithJsonSchema(_SIZE_SCHEMA)]
"""An amount of memory in bytes."""


class SpecSection(BaseModel):
    """A mapping in the sweep file: frozen, with no keys but the declared ones."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        regex_engine="python-re",  # pydantic's own has no look-ahead
        use_attribute_docstrings=True,
    )

    @model_serializer(mode="wrap")
    def _without_blanks(self, handler: SerializerFunctionWrapHandler) -> Any:
        dumped: Mapping[str, Any] = handler(self)
        return {key: value for key, value in dumped.items() if value is not None}
