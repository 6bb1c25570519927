"""A data set in memory: named fields of equal length, and what each is for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import DataError
from foldrace.trainables.data.items.lazy import LazyField
from foldrace.trainables.data.mapped import Mapped
from foldrace.trainables.data.sample import FieldInfo, Roles, Sample

__all__ = [
    "Array",
    "Dataset",
    "Fields",
    "Images",
    "Labels",
    "Parts",
    "Ragged",
    "check_memory",
    "chunks",
    "describe",
    "first",
    "taken",
]

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

_MOST_CLASSES = 10_000
"""Of a target of whole numbers: with more distinct values it is not a class."""


@dataclass(frozen=True, eq=False)
class Ragged:
    """N sequences of unequal length, one after the other.

    Attributes:
        values: (T, …), the elements of all sequences.
        offsets: (N + 1,), where each sequence begins and the last one ends.
    """

    values: NDArray[Any]
    offsets: Labels

    def __post_init__(self) -> None:
        steps = np.diff(self.offsets)
        assert self.offsets.ndim == 1 and len(self.offsets) and self.offsets[0] == 0
        assert (steps >= 0).all() and self.offsets[-1] == len(self.values)

    @classmethod
    def of(cls, sequences: Sequence[NDArray[Any]]) -> Ragged:
        """From N arrays of shape (Tᵢ, …), which agree in dtype and in all axes but the first.

        >>> Ragged.of([np.array([1, 2]), np.array([3])]).lengths.tolist()
        [2, 1]
        """
        lengths = [len(one) for one in sequences]
        return cls(np.concatenate(list(sequences)), np.cumsum([0, *lengths], dtype=np.int64))

    def __len__(self) -> int:
        """The number of sequences."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Labels:
        """(N,), the number of elements of each sequence."""
        return np.diff(self.offsets)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the elements."""
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        """The memory of its arrays."""
        return self.values.nbytes + self.offsets.nbytes

    def take(self, chosen: NDArray[np.intp]) -> Ragged:
        """The sequences at these positions."""
        lengths = self.lengths[chosen]
        offsets = np.cumsum(np.concatenate([[0], lengths]), dtype=np.int64)
        # the place of each element: where its sequence begins, and how far it is into it
        into = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], lengths)
        return Ragged(self.values[np.repeat(self.offsets[chosen], lengths) + into], offsets)


Array = NDArray[Any] | Ragged | Mapped | LazyField
Fields = Mapping[str, Array]
"""Arrays of equal length by the name of the field."""


def taken(array: Array, chosen: NDArray[np.intp]) -> Array:
    """The samples of a field at these positions."""
    return array[chosen] if isinstance(array, np.ndarray) else array.take(chosen)


def first(array: Array, count: int) -> NDArray[Any]:
    """The first samples of a field, at most so many, in memory; they have one shape."""
    if isinstance(array, LazyField):
        return array.first(count)
    if isinstance(array, Mapped):
        return array.read(slice(0, count))
    assert isinstance(array, np.ndarray)
    return array[:count]


def chunks(array: Array) -> Iterator[NDArray[Any]]:
    """All values of a field, some samples at a time if they are in a file; none of a lazy one."""
    if isinstance(array, LazyField):
        return iter(())
    if isinstance(array, Mapped):
        return array.chunks()
    return iter((array.values if isinstance(array, Ragged) else array,))


@dataclass(frozen=True, eq=False)
class Parts:
    """What a reader or a source returns: a `Dataset` before it is cut, resized and digested.

    Attributes:
        training: fields of N samples.
        source: see `Dataset`.
        test: the same fields of M samples; None if there is no test part yet.
        roles: what each field is for.
        names: the names of the values of a field that was text: value i is ``names[field][i]``.
        positions: see `Dataset`.
        notes: see `Dataset`.
    """

    training: Fields
    source: str
    test: Fields | None = None
    roles: Roles = field(default_factory=Roles)
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    positions: Labels | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of_images(
        cls,
        images: Images,
        source: str,
        labels: Labels | None = None,
        groups: Labels | None = None,
        test_images: Images | None = None,
        test_labels: Labels | None = None,
        class_names: tuple[str, ...] = (),
    ) -> Parts:
        """Images of (N, C, H, W) bytes with classes and groups, each (N,)."""
        training: dict[str, Array] = {"images": images}
        test: dict[str, Array] | None = None if test_images is None else {"images": test_images}
        if labels is not None:
            training["labels"] = labels
        if groups is not None:
            training["groups"] = groups
        if test is not None and test_labels is not None:
            test["labels"] = test_labels
        roles = Roles(
            target=None if labels is None and test_labels is None else "labels",
            groups=None if groups is None else "groups",
        )
        return cls(training, source, test, roles, {"labels": class_names} if class_names else {})

    def __len__(self) -> int:
        """The number of training samples."""
        return len(next(iter(self.training.values())))

    @property
    def arrays(self) -> dict[str, Array]:
        """All arrays: those of the training part, then those of the test part, as ``test_…``."""
        test = {f"test_{name}": array for name, array in (self.test or {}).items()}
        return {**self.training, **test}

    @property
    def fields(self) -> set[str]:
        """The names of all fields."""
        return {*self.training, *(self.test or {})}

    def of_role(self, role: str) -> NDArray[Any] | None:
        """The training part of the field of a role, or None."""
        name = getattr(self.roles, role)
        array = self.training.get(name)
        return array if isinstance(array, np.ndarray) else None


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory: named fields, each with one entry per sample.

    Its arrays are pickled out of band (pickle protocol 5), so that Ray's workers share them
    without a copy.

    Attributes:
        name: the reference it was loaded by.
        training: the fields of the training part, N samples, which is divided into folds.
        test: the same fields of the test part, M samples; those that only divide the training
            part (groups, split) may be missing.
        roles: what each field is for.
        names: the names of the values of a field that was text: value i is ``names[field][i]``.
        digest: SHA-256, in hex, of the arrays as they are here: after limit and size.
        source: where the data came from, for people: ``torchvision``, a package, a file.
        positions: (N,), the index of each sample in the source; None if the training part is
            complete: no test part was held out of it and no limit was set.
        notes: how fields were made of what was read, for people.
    """

    name: str
    training: Fields = field(repr=False)
    test: Fields = field(repr=False)
    roles: Roles = field(repr=False)
    names: Mapping[str, tuple[str, ...]] = field(repr=False)
    digest: str
    source: str
    positions: Labels | None = field(default=None, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of_images(
        cls,
        name: str,
        images: Images,
        labels: Labels | None,
        groups: Labels | None,
        test_images: Images,
        test_labels: Labels | None,
        class_names: tuple[str, ...],
        digest: str,
        source: str,
        positions: Labels | None = None,
    ) -> Dataset:
        """Of images, (N, C, H, W) and (M, C, H, W), with their classes and groups."""
        parts = Parts.of_images(
            images, source, labels, groups, test_images, test_labels, class_names
        )
        test = parts.test or {}
        return cls(name, parts.training, test, parts.roles, parts.names, digest, source, positions)

    def __len__(self) -> int:
        """The number of training samples."""
        return len(next(iter(self.training.values())))

    @property
    def test_count(self) -> int:
        """The number of test samples."""
        return len(next(iter(self.test.values())))

    @cached_property
    def sample(self) -> Sample:
        """What one sample holds."""
        return describe(self.training, self.test, self.roles, self.names)

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """The shape of the only input: of an image, (channels, height, width).

        Raises:
            ValueError: a sample has not one input.
        """
        return self.sample.shape

    def of_role(self, role: str, *, test: bool = False) -> NDArray[Any] | None:
        """The field of a role (``target``, ``groups``, ``time``, …), or None."""
        name = getattr(self.roles, role)
        array = (self.test if test else self.training).get(name)
        return array if isinstance(array, np.ndarray) else None

    @property
    def labels(self) -> Labels | None:
        """(N,) the target, if it is one whole number per sample; else None."""
        return self._labels(test=False)

    @property
    def test_labels(self) -> Labels | None:
        """(M,) the test part's target, if it is one whole number per sample; else None."""
        return self._labels(test=True)

    def _labels(self, *, test: bool) -> Labels | None:
        target = self.of_role("target", test=test)
        if target is None or target.ndim != 1 or target.dtype.kind not in "iub":
            return None
        return target.astype(np.int64, copy=False)

    @property
    def groups(self) -> NDArray[Any] | None:
        """(N,) group numbers, or None."""
        return self.of_role("groups")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of class i at position i; empty if the classes have no names."""
        return self.names.get(self.roles.target or "", ())

    @property
    def images(self) -> Images | None:
        """(N, C, H, W), if the input of a sample is one image, in memory; else None."""
        return self._images(self.training)

    @property
    def test_images(self) -> Images | None:
        """(M, C, H, W), if the input of a sample is one image, in memory; else None."""
        return self._images(self.test)

    def first_test_images(self, count: int) -> Images | None:
        """(M, C, H, W), at most so many, wherever they are; None if a sample is not one image."""
        if not self.sample.holds_an_image:
            return None
        return first(self.test[self.sample.input.name], count)

    def _images(self, part: Fields) -> Images | None:
        if not self.sample.holds_an_image:
            return None
        array = part[self.sample.input.name]
        return array if isinstance(array, np.ndarray) else None


def describe(
    training: Fields, test: Fields, roles: Roles, names: Mapping[str, tuple[str, ...]]
) -> Sample:
    """What one sample of these fields holds."""
    only_tested = {name: array for name, array in test.items() if name not in training}
    return Sample(
        {
            name: _field_info(name, array, test.get(name), roles, names.get(name, ()))
            for name, array in {**training, **only_tested}.items()
        },
        roles,
    )


def _field_info(
    name: str, array: Array, test: Array | None, roles: Roles, names: tuple[str, ...]
) -> FieldInfo:
    shape: tuple[int | None, ...] = (
        (None, *array.values.shape[1:]) if isinstance(array, Ragged) else array.shape[1:]
    )
    parts = [part for part in (array, test) if part is not None]
    ranges = [
        (part.min().item(), part.max().item())
        for each in parts
        for part in chunks(each)
        if part.size
    ]
    unknown = math.nan if isinstance(array, LazyField) else 0
    low, high = (
        min((low for low, _ in ranges), default=unknown),
        max((top for _, top in ranges), default=unknown),
    )
    whole = array.dtype.kind in "iub"
    classes = None
    if names:
        classes = len(names)
    elif name == roles.target and whole and not shape and low >= 0 and high < _MOST_CLASSES:
        classes = int(high) + 1
    return FieldInfo(name, shape, str(array.dtype), float(low), float(high), classes, names)


def check_memory(name: str, size: int) -> None:
    """Refuse a data set that does not fit into memory, before it is read.

    Args:
        size: in bytes.

    Raises:
        DataError: it needs more memory than there is.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        rule = f"needs {size / 1e9:,.1f} GB of memory, and there are {memory / 1e9:,.1f} GB"
        raise DataError("dataset", name, rule)
