"""Pydantic's errors about a sweep file, translated into `InputError` in the words of the file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from foldrace.errors import InputError, closest, nearest
from foldrace.search.spec.distributions import FORMS, TAG

__all__ = ["SpecError", "dotted", "translate"]

_WORDS = {
    "bool_type": ("must be true or false", ""),
    "dict_type": ("must be a mapping", "key: value"),
    "missing": ("is missing", ""),
    "model_attributes_type": ("must be a mapping", "leave the key out for the defaults"),
    "model_type": ("must be a mapping", "leave the key out for the defaults"),
    "too_short": ("must hold at least one value", ""),
    "tuple_type": ("must be a list", "[a, b, ...]"),
}


class SpecError(InputError):
    """Several mistakes in one sweep file, one per line of the message.

    Attributes:
        errors: one for each mistake; ``field``, ``value``, ``rule`` and ``hint`` are the first's.
    """

    def __init__(self, errors: Sequence[InputError]) -> None:
        first = errors[0]
        super().__init__(first.field, first.value, first.rule, first.hint)
        self.errors = tuple(errors)
        self.args = ("\n".join(str(error) for error in errors),)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.errors,)


def dotted(location: Iterable[str | int]) -> str:
    """A location of pydantic's in the words of the file.

    >>> dotted(("search", "start_with", 0, "lr"))
    'search.start_with[0].lr'
    """
    field = ""
    for part in location:
        if isinstance(part, int):
            field += f"[{part}]"
        elif part != "[key]" and not part.startswith(TAG):
            shown = part if part and part.isprintable() and len(part) <= 60 else repr(part)[:60]
            field += f".{shown}" if field else shown
    return field


def translate(error: ValidationError, model: type[BaseModel]) -> InputError:
    """Pydantic's errors about ``model``'s input as one `InputError`; several as a `SpecError`."""
    details = error.errors(include_url=False)
    found = [_one(dict(each), model) for each in details if not _follows(each, details)]
    return found[0] if len(found) == 1 else SpecError(found)


def _follows(details: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a list is too short only because one of its items is wrong."""
    depth = len(details["loc"])
    return details["type"] == "too_short" and any(
        len(other["loc"]) > depth and other["loc"][:depth] == details["loc"] for other in others
    )


def _one(details: Mapping[str, Any], model: type[BaseModel]) -> InputError:
    kind, location, value = details["type"], details["loc"], details["input"]
    context = details.get("ctx", {})
    if kind == "rule":
        value = None if location[-1:] == ("[key]",) else context.get("value", value)
        return InputError(
            dotted((*location, *context["at"])), value, context["rule"], context["hint"]
        )
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1], model)
        return InputError(dotted(location), value, "unknown key", nearest(location[-1], known))
    if kind == "literal_error":
        quoted = re.findall(r"'([^']*)'|(True|False)", context["expected"])
        choices = [text or flag.lower() for text, flag in quoted]  # as a YAML file has them
        return InputError(
            dotted(location),
            value,
            "must be one of " + ", ".join(choices),
            closest(value, choices),
        )
    rule, hint = _WORDS.get(kind, (str(details["msg"]), ""))
    return InputError(dotted(location), None if kind == "missing" else value, rule, hint)


def _known_keys(location: Sequence[str | int], model: type[BaseModel]) -> list[str]:
    """The keys that the mapping at ``location`` may have."""
    for part in location:
        if isinstance(part, str) and part.startswith(TAG):
            model = FORMS[part.removeprefix(TAG)]
        elif part in model.model_fields:
            inner = set(_sections(model.model_fields[part].annotation))
            model = inner.pop() if len(inner) == 1 else model
    return [field.alias or name for name, field in model.model_fields.items()]


def _sections(annotation: object) -> Iterator[type[BaseModel]]:
    """The models in an annotation, such as ``ArmSpec`` in ``dict[str, ArmSpec] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)
