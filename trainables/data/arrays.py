"""Images and labels as arrays: which are accepted, and how they become (N, C, H, W) bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import DataError

__all__ = [
    "ARRAY_KEYS",
    "Dataset",
    "Images",
    "Labels",
    "Parts",
    "check_memory",
    "part_keys",
    "parts_from",
    "to_images",
    "to_labels",
]

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

ARRAY_KEYS = {
    "images": ("images", "x_train"),
    "labels": ("labels", "y_train"),
    "groups": ("groups",),
    "test_images": ("test_images", "x_test"),
    "test_labels": ("test_labels", "y_test"),
}
"""The arrays of a data set, each with its allowed keys in a ``.npz`` file or a mapping."""

_CHANNELS = (1, 3, 4)


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


def part_keys(name: str, available: Iterable[str]) -> dict[str, str]:
    """Find the key of each array: ``{"images": "x_train"}``. Other keys are left out.

    Args:
        name: the data set's name in an error.
        available: the keys of a ``.npz`` file or a mapping.

    Raises:
        DataError: no images, two keys for one array, or test labels without test images.

    >>> part_keys("mine", ["x_train", "notes"])
    {'images': 'x_train'}
    """
    present = list(available)
    found: dict[str, str] = {}
    for part, keys in ARRAY_KEYS.items():
        held = [key for key in keys if key in present]
        if len(held) > 1:
            rule = f"holds both {held[0]} and {held[1]}"
            raise DataError("dataset", name, rule, "keep one of them")
        if held:
            found[part] = held[0]
    if "images" not in found:
        holds = ", ".join(sorted(present)) or "nothing"
        rule = f"must hold an array images (or x_train); it holds: {holds}"
        raise DataError("dataset", name, rule)
    if "test_labels" in found and "test_images" not in found:
        rule = f"holds {found['test_labels']} but no test_images (or x_test)"
        raise DataError("dataset", name, rule)
    return found


def parts_from(
    name: str, values: Mapping[str, object], source: str, *, channels_first: bool = False
) -> Parts:
    """Check and convert the arrays in a mapping with the keys of a ``.npz`` file.

    Args:
        name: the data set's name in an error.
        values: arrays by key (see `ARRAY_KEYS`); None counts as missing.
        source: see `Dataset`.
        channels_first: see `to_images`.

    Raises:
        DataError: an array is missing, empty or unusable, or the number of labels or groups is not
            the number of images.
    """
    keys = part_keys(name, [key for key, value in values.items() if value is not None])
    images: dict[str, Images] = {
        part: to_images(name, keys[part], values[keys[part]], channels_first=channels_first)
        for part in ("images", "test_images")
        if part in keys
    }
    labels = {
        part: to_labels(name, keys[part], values[keys[part]], len(images[of]))
        for part, of in (
            ("labels", "images"),
            ("groups", "images"),
            ("test_labels", "test_images"),
        )
        if part in keys
    }
    return Parts(
        images["images"],
        source,
        labels.get("labels"),
        labels.get("groups"),
        images.get("test_images"),
        labels.get("test_labels"),
    )


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


def to_images(name: str, part: str, value: object, *, channels_first: bool = False) -> Images:
    """Convert images to (N, C, H, W) bytes, C-contiguous.

    Three axes are (N, H, W), with one channel. Of four axes the second is the channels if its
    length is 1, 3 or 4, else the last if its length is 1, 3 or 4. Bytes are kept; floating point
    numbers must be in [0, 1] and are rounded to the nearest of 256 levels.

    Args:
        name: the data set's name in an error.
        part: the array's name in an error.
        value: an array, a tensor or nested lists.
        channels_first: the layout is (N, C, H, W), with any C.

    Raises:
        DataError: empty; another number of axes or channels, or another type; not finite; or
            outside [0, 1].

    >>> to_images("mine", "images", [[[0.0, 0.5, 1.0]]]).tolist()
    [[[[0, 128, 255]]]]
    """
    array = _as_array(name, part, value)
    if array.size == 0:
        raise DataError("dataset", name, f"{part} is empty: shape {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        array = _to_bytes(name, part, array)
    elif array.dtype != np.uint8:
        rule = f"{part} must be uint8, or floating point in [0, 1]; it is {array.dtype}"
        raise DataError("dataset", name, rule, "convert it, for instance with .astype('uint8')")
    if array.ndim == 3 and not channels_first:
        array = array[:, None]
    elif array.ndim != 4:
        layouts = "(N, C, H, W)" if channels_first else "(N, H, W), (N, H, W, C) or (N, C, H, W)"
        raise DataError("dataset", name, f"{part} must be {layouts}; its shape is {array.shape}")
    elif not channels_first and array.shape[1] not in _CHANNELS:
        if array.shape[3] not in _CHANNELS:
            rule = (
                f"{part} must have 1, 3 or 4 channels on the second or the last axis; its shape is"
                f" {array.shape}"
            )
            raise DataError("dataset", name, rule)
        array = array.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(array, dtype=np.uint8)


def to_labels(name: str, part: str, value: object, count: int) -> Labels:
    """Convert labels to (count,) whole numbers.

    Raises:
        DataError: another shape, another length, or not whole numbers.
    """
    array = _as_array(name, part, value)
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError("dataset", name, f"{part} must be whole numbers; it is {array.dtype}")
    if array.shape != (count,):
        rule = (
            f"{part} must be one number for each of the {count} images; its shape is {array.shape}"
        )
        raise DataError("dataset", name, rule)
    return np.ascontiguousarray(array, dtype=np.int64)


def _as_array(name: str, part: str, value: object) -> NDArray[np.generic]:
    try:
        if hasattr(value, "detach"):  # a torch tensor, recognised without importing torch
            value = value.detach().cpu().numpy()
        array = np.asarray(value)
    except Exception as error:
        rule = f"{part} is not an array: {type(error).__name__}: {error}"
        raise DataError("dataset", name, rule) from error
    if array.dtype.hasobject:
        raise DataError("dataset", name, f"{part} is an array of Python objects, not of numbers")
    return array


def _to_bytes(name: str, part: str, array: NDArray[np.generic]) -> Images:
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        rule = (
            f"{part} must be finite; {int(bad.sum())} of {bad.size} values are not, the first at"
            f" index {first}"
        )
        raise DataError("dataset", name, rule)
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        rule = f"{part} must be in [0, 1] if floating point; it spans [{low:g}, {high:g}]"
        raise DataError("dataset", name, rule, "scale it, or store bytes (uint8)")
    return np.rint(array.astype(np.float32, copy=False) * 255).astype(np.uint8)
