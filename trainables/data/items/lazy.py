"""Map-style data sets whose items are read when a batch needs them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import DataError, first_line, printable
from foldrace.trainables.data.items.flat import drawn_from, named_leaves

__all__ = ["Items", "LazyField"]

_MODES = ("L", "RGB", "RGBA")


@dataclass(frozen=True, eq=False)
class Items:
    """A map-style data set. It is pickled as it is, and read wherever it arrives.

    Attributes:
        name: the reference that it was loaded by, for errors.
        data: it has ``__len__`` and ``__getitem__``.
        workers: the processes that read it for a trial; 0: the trial's own.
        collate: makes a batch of a list of items; None: their fields are stacked.
        unlike_samples: the fields of a collated batch whose first axis is not that of the samples,
            such as the nodes of graphs.
        with_role: the fields of an item that have a role. They are known of all items, to divide
            these, and yet a batch has those of its own items, which may be random.
        code: the digest of the code that makes the items, which are not all looked at.
    """

    name: str
    data: Any
    workers: int
    collate: Callable[[list[Any]], Any] | None = None
    with_role: tuple[str, ...] = ()
    unlike_samples: frozenset[str] = frozenset()
    code: str = ""

    def __len__(self) -> int:
        """The number of items."""
        return len(self.data)

    def item(self, index: int) -> Any:
        """One item as the data set gives it. Raises: DataError: it raised an exception."""
        try:
            return self.data[index]
        except (Exception, SystemExit) as error:
            rule = f"item {index} raised {type(error).__name__}: {first_line(error)}"
            raise DataError("dataset", self.name, printable(rule)) from error

    def fields(self, index: int, *, whole: bool = False) -> dict[str, NDArray[Any]]:
        """The fields of one item, as arrays; pictures are (C, H, W). Raises: DataError.

        With a collate function they are those of a batch of this item alone, without its first
        axis if that is the samples'.

        Args:
            whole: with the first axis of the batch.
        """
        if self.collate is None:
            found: dict[str, NDArray[Any]] = {}
            for of, leaf in named_leaves(self.item(index)):
                if of in found:
                    rule = f"item {index} has two fields {of}"
                    raise DataError("dataset", self.name, printable(rule), "rename one")
                found[of] = self._array(index, of, leaf)
            return found
        made = self.batch([self.item(index)])
        batch = {of: value.detach().cpu().numpy() for of, value in made.items()}
        return {
            of: array if whole or of in self.unlike_samples or len(array) != 1 else array[0]
            for of, array in batch.items()
        }

    def batch(self, items: list[Any]) -> dict[str, Any]:
        """What the collate function makes of items: tensors by the name of the field.

        Raises:
            DataError: it raised an exception, or returned something else.
        """
        assert self.collate is not None
        try:
            made = dict(named_leaves(self.collate(items)))
        except Exception as error:
            rule = f"collate_fn raised {type(error).__name__}: {first_line(error)}"
            raise DataError("dataset", self.name, printable(rule)) from error
        for of, value in made.items():
            if not hasattr(value, "detach") or not value.ndim:
                rule = f"collate_fn must return tensors: {of} is {type(value).__name__}"
                raise DataError("dataset", self.name, printable(rule))
            if "strided" not in str(value.layout):
                rule = f"collate_fn must return dense tensors: {of} is sparse"
                raise DataError("dataset", self.name, printable(rule), "return its .to_dense()")
        return made

    def _array(self, index: int, of: str, leaf: Any) -> NDArray[Any]:
        if hasattr(leaf, "getbands"):  # a picture of Pillow's
            if leaf.mode not in _MODES:
                rule = f"{of} of item {index} is a picture of mode {leaf.mode}"
                hint = "convert it in the data set: .convert('RGB')"
                raise DataError("dataset", self.name, rule, hint)
            pixels = np.asarray(leaf)
            return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        try:
            array = np.asarray(leaf.detach().cpu().numpy() if hasattr(leaf, "detach") else leaf)
        except Exception as error:  # of a sparse tensor, or of whatever calls itself an array
            rule = f"{of} of item {index} is no array: {first_line(error)}"
            raise DataError("dataset", self.name, printable(rule)) from error
        if array.dtype.kind not in "biufU":
            rule = f"{of} of item {index} must be numbers; it is {type(leaf).__name__}"
            raise DataError("dataset", self.name, printable(rule), "give it a collate_fn")
        return array


@dataclass(frozen=True, eq=False)
class LazyField:
    """A field of items that are not read yet.

    Attributes:
        items: what the field is of; all fields of a part share it.
        name: of the field.
        shape: of one sample; None is an axis of unequal length.
        dtype: of its values.
        seen: of the items that were looked at, by position, the digest of the field.
        rows: (N,), which item each sample is.
    """

    items: Items
    name: str
    shape_of_one: tuple[int | None, ...]
    dtype: np.dtype[Any]
    seen: Mapping[int, str] = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.rows)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """(N, …)."""
        return (len(self), *self.shape_of_one)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def take(self, chosen: NDArray[np.intp]) -> LazyField:
        """The samples at these positions, not read yet."""
        return LazyField(
            self.items, self.name, self.shape_of_one, self.dtype, self.seen, self.rows[chosen]
        )

    def first(self, count: int) -> NDArray[Any]:
        """The first samples, at most so many, read now; they have one shape."""
        with drawn_from(0):
            read = [self.items.fields(int(row))[self.name] for row in self.rows[:count]]
        return np.stack(read)

    def identity(self) -> Iterator[bytes]:
        """What tells two such fields apart, without reading them: the items that were looked at,
        the code that makes them, and which items the samples are."""
        yield f"{self.name} {self.shape} {self.dtype.str} {len(self.items)}\n".encode()
        yield self.items.code.encode()
        yield repr(sorted(self.seen.items())).encode()
        yield hashlib.sha256(np.ascontiguousarray(self.rows).view(np.uint8).data).digest()
