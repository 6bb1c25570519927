"""The parts of a data set, training and test images and their labels: named, cut, digested."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import ARRAYS, Images, Parts

__all__ = ["Part", "digest", "hold_out", "part_named", "resize", "subset"]

_HELD_OUT_SEED = 0


class Part(Enum):
    """A part of a data set as its maker has divided it.

    The validation part joins the training part, which is divided into folds.
    """

    TRAINING = "training"
    VALIDATION = "validation"
    TEST = "test"


_PART_OF_WORD = {
    **dict.fromkeys(("train", "training", "trn"), Part.TRAINING),
    **dict.fromkeys(("val", "valid", "validation", "validate"), Part.VALIDATION),
    **dict.fromkeys(("test", "testing", "tst"), Part.TEST),
}
_FILLERS = frozenset(("", "data", "image", "images", "img", "imgs", "part", "seg", "split"))


def part_named(name: str) -> Part | None:
    """The part that a folder is by its name, in any case and with words like ``set``; or None.

    >>> part_named("Training_Set"), part_named("val2017"), part_named("trains")
    (<Part.TRAINING: 'training'>, <Part.VALIDATION: 'validation'>, None)
    """
    words = [word.removesuffix("set") for word in re.findall(r"[^\W\d_]+", name.casefold())]
    telling = [word for word in words if word not in _FILLERS]
    return _PART_OF_WORD.get(telling[0]) if len(telling) == 1 else None


def hold_out(name: str, parts: Parts) -> Parts:
    """Split off a tenth of the images as the test part, unless there is a test part.

    The choice is the same every time. Groups are held out whole, so that no group is in both
    parts. Images keep their order.

    Args:
        name: the data set's name in an error.

    Raises:
        DataError: fewer than two images, or fewer than two groups.
    """
    if parts.test_images is not None:
        return parts
    units = np.arange(len(parts.images)) if parts.groups is None else parts.groups
    distinct, members = np.unique(units, return_inverse=True)
    if len(distinct) < 2:
        kind = "image" if parts.groups is None else "group"
        rule = f"one {kind} cannot be divided into a training and a test part"
        raise DataError("dataset", name, rule)
    order = _permutation(len(distinct), _HELD_OUT_SEED)
    wanted = max(1, round(len(units) / 10))
    cumulative = np.cumsum(np.bincount(members)[order])
    # One group stays in the training part, however large the others are.
    cut = min(int(np.searchsorted(cumulative, wanted)) + 1, len(distinct) - 1)
    held = np.isin(members, order[:cut])
    return replace(
        _take(parts, np.flatnonzero(~held)),
        test_images=parts.images[held],
        test_labels=None if parts.labels is None else parts.labels[held],
    )


def subset(parts: Parts, limit: int, seed: int) -> Parts:
    """``limit`` training images, chosen at random by ``seed``, in their original order.

    With the same seed a smaller limit chooses a subset of what a larger one chooses. The test part
    stays complete.
    """
    return _take(parts, np.sort(_permutation(len(parts.images), seed)[:limit]))


def resize(images: Images, size: tuple[int, int]) -> Images:
    """(N, C, H, W) → (N, C, *size), with Pillow's antialiased bilinear filter.

    Args:
        size: (height, width).
    """
    if images.shape[2:] == size:
        return images
    from PIL import Image

    count, channels, height, width = images.shape
    # Channel by channel: any number of channels works, and alpha does not weight the colours.
    planes = images.reshape(count * channels, height, width)
    resized = np.empty((count * channels, *size), dtype=np.uint8)
    for plane, target in zip(planes, resized, strict=True):
        target[:] = Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR)
    return resized.reshape(count, channels, *size)


def digest(parts: Parts) -> str:
    """SHA-256, in hex, of the name, shape and bytes of the arrays; not of names and source."""
    total = hashlib.sha256()
    for part in ARRAYS:
        array = getattr(parts, part)
        if array is not None:
            total.update(f"{part} {array.shape}\n".encode())
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            total.update(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _take(parts: Parts, chosen: NDArray[np.intp]) -> Parts:
    positions = chosen if parts.positions is None else parts.positions[chosen]
    return replace(
        parts,
        images=parts.images[chosen],
        labels=None if parts.labels is None else parts.labels[chosen],
        groups=None if parts.groups is None else parts.groups[chosen],
        positions=positions.astype(np.int64),
    )


def _permutation(count: int, seed: int) -> NDArray[np.intp]:
    # NumPy's legacy generator: its stream never changes between versions, a Generator's may.
    return np.random.RandomState(seed).permutation(count).astype(np.intp)
