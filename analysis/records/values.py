"""Recorded parameters as values: read by the sweep file, not by the look of their text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from foldrace.analysis.records.tables import number
from foldrace.errors import InputError
from foldrace.search.spec.distribution_base import Distribution
from foldrace.search.spec.sweep_spec import SweepSpec, parse_spec
from foldrace.search.spec.yaml_files import read_yaml
from foldrace.trainables.tasks.parameters import Value

__all__ = ["distributions", "read_spec", "read_value", "read_values"]


def read_spec(text: str | None) -> SweepSpec | None:
    """The recorded sweep file; None if it is not recorded, or this version cannot read it."""
    try:
        return parse_spec(read_yaml(text or "", "the recorded sweep file"), Path())
    except InputError:
        return None


def distributions(spec: SweepSpec | None, name: str) -> tuple[Distribution, ...]:
    """What a sweep file says of a parameter; several if the arms of a comparison differ."""
    if spec is None:
        return ()
    arms = spec.comparison.arms.values() if spec.comparison else ()
    spaces = (spec.space, *(arm.space for arm in arms))
    given = [space[name] for space in spaces if name in space]
    return tuple(entry for at, entry in enumerate(given) if entry not in given[:at])


def read_value(text: str, entries: Sequence[Distribution]) -> Value:
    """A recorded value by the first distribution that has it; else a number, if it looks like one.

    A parameter that is not in the sweep file has its task's default, and only the task, which a
    reader of records does not have, knows its type.
    """
    for entry in entries:
        try:
            return entry.read(text)
        except ValueError:
            continue
    return int(text) if text.lstrip("-").isdecimal() else number(text)


def read_values(texts: Mapping[str, str], spec: SweepSpec | None) -> dict[str, Value]:
    """A trial's recorded parameters as values, see `read_value`."""
    return {name: read_value(text, distributions(spec, name)) for name, text in texts.items()}
