"""A data set in memory: its arrays, and what readers and sources return."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import DataError

__all__ = [
    "ARRAYS",
    "Dataset",
    "Images",
    "Labels",
    "Parts",
    "check_memory",
]

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

ARRAYS = ("images", "labels", "groups", "test_images", "test_labels")
"""The arrays of a data set, as `Dataset` and `Parts` name them."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory.

    Its arrays are pickled out of band (pickle protocol 5), so that Ray's workers share them
    without a copy.

    Attributes:
        name: the reference it was loaded by.
        images: (N, C, H, W), C-contiguous: the training part, which is divided into folds.
        labels: (N,), for stratified folds and reports; None if there are none.
        groups: (N,), for grouped folds; None if there are none.
        test_images: (M, C, H, W): the test part.
        test_labels: (M,), or None.
        class_names: the name of label i at position i; empty if the labels have no names.
        digest: SHA-256, in hex, of the five arrays as they are here: after limit and size.
        source: where the data came from, for people: ``torchvision``, a package, a file.
        positions: (N,), the index of each image in the source; None if the training part is
            complete: no test part was held out of it and no limit was set.
    """

    name: str
    images: Images = field(repr=False)
    labels: Labels | None = field(repr=False)
    groups: Labels | None = field(repr=False)
    test_images: Images = field(repr=False)
    test_labels: Labels | None = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    digest: str
    source: str
    positions: Labels | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """The number of training images."""
        return len(self.images)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width


@dataclass(frozen=True, eq=False)
class Parts:
    """What a reader or a source returns: a `Dataset` before it is cut, resized and digested.

    The fields are those of `Dataset`; ``test_images`` is None if there is no test part yet.
    """

    images: Images
    source: str
    labels: Labels | None = None
    groups: Labels | None = None
    test_images: Images | None = None
    test_labels: Labels | None = None
    class_names: tuple[str, ...] = ()
    positions: Labels | None = None


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
