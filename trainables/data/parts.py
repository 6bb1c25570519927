"""The parts of a data set, its training and its test part: named, cut, digested."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable
from dataclasses import replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import Array, Images, Parts, Ragged, taken
from foldrace.trainables.data.items.lazy import LazyField
from foldrace.trainables.data.mapped import Mapped

__all__ = ["Part", "digest", "hold_out", "part_named", "parts_in", "resize", "subset"]

log = logging.getLogger(__name__)

_HELD_OUT_SEED = 0
_DIGESTED_AT_ONCE = 2**26


class Part(Enum):
    """A part of a data set as its maker has divided it.

    The validation part joins the training part, which is divided into folds.
    """

    TRAINING = "training"
    VALIDATION = "validation"
    TEST = "test"

    @property
    def prefix(self) -> str:
        """What the keys of its fields begin with: ``train``, ``val``, ``test``."""
        return {"training": "train", "validation": "val"}.get(self.value, self.value)


_PART_OF_WORD = {
    **dict.fromkeys(("train", "training", "trn", "tr"), Part.TRAINING),
    **dict.fromkeys(("val", "valid", "validation", "validate"), Part.VALIDATION),
    **dict.fromkeys(("test", "testing", "tst", "ts"), Part.TEST),
}
_FILLERS = frozenset(
    [
        "",
        "data",
        "image",
        "images",
        "img",
        "imgs",
        "part",
        "samples",
        "seg",
        "split",
        "subset",
        "x",
    ]
)


def part_named(name: str) -> Part | None:
    """The part that a folder is by its name, in any case and with words like ``set``; or None.

    >>> part_named("Training_Set"), part_named("valImages2017"), part_named("trains")
    (<Part.TRAINING: 'training'>, <Part.VALIDATION: 'validation'>, None)
    """
    telling = _telling_words(name)
    return _PART_OF_WORD.get(telling[0]) if len(telling) == 1 else None


def parts_in(name: str) -> set[Part]:
    """The parts that a name speaks of, beside whatever else.

    >>> parts_in("train_cats"), parts_in("testA"), parts_in("cats")
    ({<Part.TRAINING: 'training'>}, {<Part.TEST: 'test'>}, set())
    """
    return {_PART_OF_WORD[word] for word in _telling_words(name) if word in _PART_OF_WORD}


def _telling_words(name: str) -> list[str]:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
    words = [word.removesuffix("set") for word in re.findall(r"[^\W\d_]+", apart)]
    return [word for word in words if word not in _FILLERS]


def hold_out(name: str, parts: Parts, *, stratify: bool = False) -> Parts:
    """Split off a tenth of the samples as the test part, unless there is a test part.

    The choice is the same every time. Of data in time the last tenth is held out, and groups that
    it divides are said; else groups are held out whole. Samples keep their order.

    Args:
        name: the data set's name in an error.
        stratify: hold out a tenth of each class, if there are classes and neither time nor groups.

    Raises:
        DataError: fewer than two samples, or fewer than two groups.
    """
    if parts.test is not None:
        return parts
    held = _held_out(name, parts, stratify)
    groups = parts.of_role("groups")
    if groups is not None and (both := np.intersect1d(groups[held], groups[~held]).size):
        text = "%s: the last tenth in time is the test part, and %d groups are in both parts"
        log.warning(text, name, both)
    only_training = {parts.roles.groups, parts.roles.split}
    return replace(
        _take(parts, np.flatnonzero(~held)),
        test={
            field: taken(array, np.flatnonzero(held))
            for field, array in parts.training.items()
            if field not in only_training
        },
    )


def _held_out(name: str, parts: Parts, stratify: bool) -> NDArray[np.bool_]:
    """(N,) whether a sample is held out."""
    count = len(parts)
    units, target = parts.of_role("groups"), parts.of_role("target")
    if (time := parts.of_role("time")) is not None:
        wanted = max(1, round(count / 10))
        if count < 2 or time.min() == time.max():
            raise _undivided(name, "sample" if count < 2 else "moment in time")
        # All samples of a moment are in one part.
        first = np.sort(time)[count - wanted]
        held_from = first if first > time.min() else np.unique(time)[1]
        return np.asarray(time >= held_from, dtype=np.bool_)
    classes = target is not None and target.ndim == 1 and target.dtype.kind in "iub"
    if stratify and units is None and target is not None and classes:
        held = np.zeros(count, dtype=bool)
        for label in np.unique(target):
            members = np.flatnonzero(target == label)
            order = _permutation(len(members), _HELD_OUT_SEED)
            held[members[order[: round(len(members) / 10)]]] = True
        if held.any():
            return held
    distinct, members = np.unique(
        np.arange(count) if units is None else units, return_inverse=True
    )
    if len(distinct) < 2:
        raise _undivided(name, "sample" if units is None else "group")
    order = _permutation(len(distinct), _HELD_OUT_SEED)
    wanted = max(1, round(count / 10))
    cumulative = np.cumsum(np.bincount(members)[order])
    # One group stays in the training part, however large the others are.
    cut = min(int(np.searchsorted(cumulative, wanted)) + 1, len(distinct) - 1)
    return np.isin(members, order[:cut])


def _undivided(name: str, kind: str) -> DataError:
    rule = f"one {kind} cannot be divided into a training and a test part"
    return DataError("dataset", name, rule)


def subset(parts: Parts, limit: int, seed: int) -> Parts:
    """``limit`` training samples, chosen at random by ``seed``, in their original order.

    With the same seed a smaller limit chooses a subset of what a larger one chooses. The test part
    stays complete.
    """
    return _take(parts, np.sort(_permutation(len(parts), seed)[:limit]))


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
    """SHA-256, in hex, of the name, type, shape and bytes of the arrays; not of names and source.

    Of items that are read one by one, only those that were looked at count.
    Of bytes and of int64, the types of images and their labels, the type is left out.
    """
    total = hashlib.sha256()
    for field, array in parts.arrays.items():
        if isinstance(array, Ragged):
            _add(total, f"{field} lengths", array.lengths)
            _add(total, f"{field} values", array.values)
        elif isinstance(array, LazyField):
            for piece in array.identity():
                total.update(piece)
        else:
            _add(total, field, array)
    return total.hexdigest()


def _add(total: hashlib._Hash, field: str, array: NDArray[Any] | Mapped) -> None:
    usual = array.dtype == np.uint8 or array.dtype == np.int64
    dtype = "" if usual else f" {array.dtype.newbyteorder('<').str}"
    total.update(f"{field} {array.shape}{dtype}\n".encode())
    pieces: Iterable[NDArray[Any]] = (
        array.chunks()
        if isinstance(array, Mapped)
        else np.array_split(array, max(1, array.nbytes // _DIGESTED_AT_ONCE))
    )
    for piece in pieces:
        little = piece.astype(piece.dtype.newbyteorder("<"), copy=False)
        total.update(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)


def _take(parts: Parts, chosen: NDArray[np.intp]) -> Parts:
    positions = chosen if parts.positions is None else parts.positions[chosen]
    training: dict[str, Array] = {
        field: taken(array, chosen) for field, array in parts.training.items()
    }
    return replace(parts, training=training, positions=positions.astype(np.int64))


def _permutation(count: int, seed: int) -> NDArray[np.intp]:
    # NumPy's legacy generator: its stream never changes between versions, a Generator's may.
    return np.random.RandomState(seed).permutation(count).astype(np.intp)
