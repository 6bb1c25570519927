"""What one sample of a data set holds: its fields, and what each of them is for.

Imports nothing heavy: a task's ``build`` gets this description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

__all__ = ["BY_NAME", "LENGTH", "ROLES", "FieldInfo", "Roles", "Sample", "Wanted"]

LENGTH = "_length"
"""A field of sequences is padded in a batch; a field of this suffix then holds their lengths."""


@dataclass(frozen=True)
class Roles:
    """The field, if any, that has each role. Every other field is an input.

    Attributes:
        target: what is to be predicted.
        groups: what belongs together, and is never on both sides of a split.
        split: the number of the fold that validates on the sample; -1: none does.
        time: when a sample was taken; earlier ones never validate later ones.
        weight: how much a sample counts, in training and in validation.
        id: what a sample is called.
    """

    target: str | None = None
    groups: str | None = None
    split: str | None = None
    time: str | None = None
    weight: str | None = None
    id: str | None = None


ROLES: tuple[str, ...] = tuple(one.name for one in fields(Roles))
"""The names of the roles."""


@dataclass(frozen=True)
class FieldInfo:
    """What a field of a sample is.

    Attributes:
        name: the field's.
        shape: of one sample; () for a number. None is an axis of unequal length, which is padded
            in a batch.
        dtype: of the array, as NumPy names it: ``uint8``, ``float32``, ``int64``.
        low, high: the range of its values, over all samples; NaN where they are read one by one.
        classes: the number of classes, if its values are the numbers of classes; else None.
        names: the name of value i at position i, if the field was text.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    low: float = 0.0
    high: float = 0.0
    classes: int | None = None
    names: tuple[str, ...] = ()

    @property
    def image(self) -> bool:
        """Whether it is an image, (C, H, W) bytes: in a batch it is float32 in [0, 1]."""
        return self.dtype == "uint8" and len(self.shape) == 3 and None not in self.shape

    @property
    def ragged(self) -> bool:
        """Whether it is a sequence, of a length that differs between samples."""
        return None in self.shape


@dataclass(frozen=True)
class Sample:
    """What one sample holds: its fields by name.

    >>> sample = Sample(
    ...     {"x": FieldInfo("x", (13,), "float32"), "y": FieldInfo("y", (), "int64", 0, 2, 3)},
    ...     Roles(target="y"),
    ... )
    >>> sample["x"].shape, sample.shape, sample.target.classes
    ((13,), (13,), 3)
    """

    fields: Mapping[str, FieldInfo]
    roles: Roles = field(default_factory=Roles)

    def __getitem__(self, name: str) -> FieldInfo:
        return self.fields[name]

    @property
    def inputs(self) -> tuple[FieldInfo, ...]:
        """The fields without a role."""
        taken = {getattr(self.roles, role) for role in ROLES}
        return tuple(info for name, info in self.fields.items() if name not in taken)

    @property
    def target(self) -> FieldInfo | None:
        """What is to be predicted, or None."""
        return None if self.roles.target is None else self.fields[self.roles.target]

    @property
    def input(self) -> FieldInfo:
        """The only input.

        Raises:
            ValueError: there is none, or more than one.
        """
        if len(self.inputs) != 1:
            named = ", ".join(info.name for info in self.inputs) or "none"
            raise ValueError(f"a sample has not one input; it has: {named}")
        return self.inputs[0]

    @property
    def holds_an_image(self) -> bool:
        """Whether the only input is an image of bytes."""
        return len(self.inputs) == 1 and self.inputs[0].image

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the only input. Raises: ValueError: see `input`."""
        return self.input.shape


@dataclass(frozen=True)
class Wanted:
    """What a sweep file says of the fields.

    Attributes:
        inputs: the fields to read as inputs; None: all without a role.
        roles: the field of each role, None for no field; a role that is not among the keys goes by
            the names of the fields.
    """

    inputs: tuple[str, ...] | None = None
    roles: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def named(self) -> tuple[str, ...]:
        """All fields that it names."""
        return (*(self.inputs or ()), *(name for name in self.roles.values() if name is not None))


BY_NAME = Wanted()
"""All fields, with the roles that go by their names."""
