"""An array in a ``.npy`` file, of which only what is asked for is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import DataError

__all__ = ["Mapped"]

_READ_AT_ONCE = 2**26


@dataclass(frozen=True, eq=False)
class Mapped:
    """The samples of a ``.npy`` file, or some of them. Pickled, it is the path: a worker opens it.

    Attributes:
        path: absolute.
        shape: (N, …) of the samples.
        dtype: of the file, in the byte order of this machine.
        rows: (N,), where in the file each sample is; None: all, in its order.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, path: Path) -> Mapped:
        """All samples of a file. Raises: OSError, ValueError: it cannot be read."""
        file = np.load(path, mmap_mode="r", allow_pickle=False)
        return cls(path.absolute(), file.shape, file.dtype.newbyteorder("="))

    def __len__(self) -> int:
        """The number of samples."""
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        """The size of the samples in bytes, in the file."""
        return self.size * self.dtype.itemsize

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_file"}

    @cached_property
    def _file(self) -> NDArray[Any]:
        try:
            file: NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            rule = f"cannot be read on this node: {type(error).__name__}: {error}"
            raise DataError("dataset", str(self.path), rule) from error
        native = file.dtype.newbyteorder("=")
        if (file.shape[1:], native) != (self.shape[1:], self.dtype):
            raise DataError("dataset", str(self.path), "has changed since it was first read")
        return file

    def take(self, chosen: NDArray[np.intp]) -> Mapped:
        """The samples at these positions, not read yet."""
        rows = chosen if self.rows is None else self.rows[chosen]
        shape = (len(rows), *self.shape[1:])
        return Mapped(self.path, shape, self.dtype, rows.astype(np.int64))

    def read(self, chosen: NDArray[np.intp] | slice) -> NDArray[Any]:
        """The samples at these positions, in memory."""
        found = self._file[chosen if self.rows is None else self.rows[chosen]]
        return np.array(found, dtype=self.dtype, order="C")

    def chunks(self) -> Iterator[NDArray[Any]]:
        """All samples in order, some at a time."""
        step = max(1, _READ_AT_ONCE // max(1, self.nbytes // max(1, len(self))))
        return (self.read(slice(at, at + step)) for at in range(0, len(self), step))
