"""The kinds of value that a sweep file holds: each with its rule in plain words and its JSON
schema.

They are stricter than Python is: ``"3"`` is no number and ``true`` is no 1; a whole number serves
as a float.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainValidator,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)
from pydantic_core import PydanticCustomError, core_schema

from foldrace.trainables.tasks.parameters import Parameter, Value

__all__ = [
    "BARE_VALUE",
    "NAME",
    "Bare",
    "Name",
    "Number",
    "Section",
    "Text",
    "broken",
    "check_bare",
]

_LARGEST = (
    1e100  # Optuna subtracts, squares and adds what is given here; 1e308 would overflow on the way
)
_LARGEST_WHOLE = (
    2**53
)  # every whole number up to here is a float as well, which is how samplers see it


def broken(
    rule: str, hint: str = "", *, at: tuple[str | int, ...] = (), **value: object
) -> PydanticCustomError:
    """The error of a broken rule, for `foldrace.search.spec.messages` to translate.

    Args:
        rule, hint: as in `InputError`.
        at: where below the validated value the culprit is.
        value: ``value=`` the culprit, if it is not the validated value itself.
    """
    return PydanticCustomError("rule", "{rule}", {"rule": rule, "hint": hint, "at": at, **value})


@dataclass(frozen=True)
class _Kind:
    """Base of the annotations: ``check`` validates, ``json_schema`` describes."""

    def check(self, value: object) -> Any:
        raise NotImplementedError

    @property
    def json_schema(self) -> dict[str, Any]:
        raise NotImplementedError

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return self.json_schema


@dataclass(frozen=True)
class Number(_Kind):
    """A finite number between closed (``low``, ``high``) or open (``above``, ``below``) bounds."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    whole: bool = False

    @property
    def _parameter(self) -> Parameter:
        """The same as a `Parameter`, whose words and bounds these are."""
        return Parameter(
            0 if self.whole else 0.0,
            low=self.low,
            high=self.high,
            above=self.above,
            below=self.below,
        )

    @property
    def rule(self) -> str:
        """In the words that `Parameter` has for the same."""
        return self._parameter.rule

    def check(self, value: object) -> Any:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            quoted = isinstance(value, str) and re.fullmatch(
                r"\s*[-+]?[\d.]+(?:[eE][-+]?\d+)?\s*", value
            )
            raise broken(self.rule, "without quotes" if quoted else "", value=value)
        if isinstance(value, float) and not math.isfinite(value):
            raise broken("must be a finite number", value=value)
        if abs(value) > (_LARGEST_WHOLE if self.whole else _LARGEST):
            raise broken("is too large a number", value=value)
        if not self._parameter.bounds_hold(value):
            raise broken(self.rule, value=value)
        return int(value) if self.whole else float(value)

    @property
    def json_schema(self) -> dict[str, Any]:
        bounds = {
            "minimum": self.low,
            "maximum": self.high,
            "exclusiveMinimum": self.above,
            "exclusiveMaximum": self.below,
        }
        return {
            "type": "integer" if self.whole else "number",
            **{k: b for k, b in bounds.items() if b is not None},
        }


@dataclass(frozen=True)
class Text(_Kind):
    """One line of printable text that ``pattern`` matches as a whole."""

    rule: str = "must be text, of one line"
    pattern: str = r".+"
    longest: int = 4096

    def check(self, value: object) -> Any:
        if not isinstance(value, str):
            scalar = isinstance(value, int | float)
            raise broken(self.rule, "put it in quotes if it is a name" if scalar else "")
        if (
            len(value) > self.longest
            or not value.isprintable()
            or not re.fullmatch(self.pattern, value)
        ):
            raise broken(self.rule)
        return str(value)

    @property
    def json_schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^(?:{self.pattern})$", "maxLength": self.longest}


NAME = Text(
    "must be a parameter's name: letters, digits, '_' and '-'", r"[A-Za-z_][A-Za-z0-9_-]*", 100
)
Name = Annotated[str, NAME]

_LINE = Text(longest=200)
_NUMBER = Number()
_WHOLE = Number(whole=True)


def check_bare(value: object) -> Value:
    """A parameter's value: a number, one line of text, true, false or null; its type is kept.

    Raises:
        PydanticCustomError: anything else, NaN and infinity among it.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value and str(_LINE.check(value))
    if isinstance(value, int):
        return int(_WHOLE.check(value))
    if isinstance(value, float):
        return float(_NUMBER.check(value))
    raise broken("must be a number, text, true, false or null", value=value)


BARE_VALUE: dict[str, Any] = {"type": ["number", "string", "boolean", "null"]}
Bare = Annotated[Value, PlainValidator(check_bare), WithJsonSchema(BARE_VALUE)]


class Section(BaseModel):
    """A mapping of the sweep file: frozen, and no key but the declared ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_blanks(self, handler: SerializerFunctionWrapHandler) -> Any:
        dumped: Mapping[str, Any] = handler(self)
        return {key: value for key, value in dumped.items() if value is not None}
