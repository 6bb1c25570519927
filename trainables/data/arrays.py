"""Images as arrays: what is accepted, how it becomes (N, C, H, W) bytes, and how it is cut,
resized and digested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import DataError

__all__ = [
    "Dataset",
    "Images",
    "Labels",
    "Parts",
    "digest",
    "hold_out",
    "part_keys",
    "parts_from",
    "resize",
    "subset",
    "to_images",
    "to_labels",
]

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

HELD_OUT_SEED = 0
CHANNELS = (1, 3, 4)
_KEYS = {
    "images": ("images", "x_train"),
    "labels": ("labels", "y_train"),
    "groups": ("groups",),
    "test_images": ("test_images", "x_test"),
    "test_labels": ("test_labels", "y_test"),
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory: arrays of bytes that Ray shares without a copy (pickle protocol 5, out
    of band).

    Attributes:
        name: the reference it was loaded by.
        images: (N, C, H, W), C-contiguous: the training part, from which the folds are cut.
        labels: (N,), for stratified folds and reports only; None where there are none.
        groups: (N,), for grouped folds; None where there are none.
        test_images: (M, C, H, W): the test part.
        test_labels: (M,) or None.
        class_names: the name of label i at position i; empty where the labels have no names.
        digest: SHA-256, in hex, of what is actually used: the five arrays after `limit` and
            `size`.
        source: where it came from, for people: ``torchvision``, a package, a file.
        positions: (N,), where each image stands in the source, before a test part was held out of
            it and before the limit; None where nothing was taken out.
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
    """What a reader or a source gives: a `Dataset` before it is cut, resized and digested.

    The fields are those of `Dataset`; ``test_images`` is None where there is no test part yet.
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
    """Which of the ``available`` keys holds which part: ``{"images": "x_train"}``. Keys of no part
    are left out.

    Raises:
        DataError: no images, two keys for one part, or test labels without test images.
    """
    present = list(available)
    found: dict[str, str] = {}
    for part, keys in _KEYS.items():
        held = [key for key in keys if key in present]
        if len(held) > 1:
            raise DataError(
                "dataset", name, f"holds both {held[0]} and {held[1]}", "keep one of them"
            )
        if held:
            found[part] = held[0]
    if "images" not in found:
        holds = ", ".join(sorted(present)) or "nothing"
        raise DataError(
            "dataset", name, f"must hold an array images (or x_train); it holds: {holds}"
        )
    if "test_labels" in found and "test_images" not in found:
        raise DataError(
            "dataset", name, f"holds {found['test_labels']} but no test_images (or x_test)"
        )
    return found


def parts_from(name: str, values: Mapping[str, object], source: str) -> Parts:
    """The parts in a mapping with the keys of a ``.npz`` file (see
    `foldrace.trainables.data.datasets`), checked.

    Raises:
        DataError: a missing, empty or unusable array, or labels or groups of another length than
            their images.
    """
    keys = part_keys(name, [key for key, value in values.items() if value is not None])
    images = to_images(name, keys["images"], values[keys["images"]])
    test = (
        to_images(name, keys["test_images"], values[keys["test_images"]])
        if "test_images" in keys
        else None
    )

    def numbers(part: str, count: int) -> Labels | None:
        return to_labels(name, keys[part], values[keys[part]], count) if part in keys else None

    return Parts(
        images=images,
        source=source,
        labels=numbers("labels", len(images)),
        groups=numbers("groups", len(images)),
        test_images=test,
        test_labels=None if test is None else numbers("test_labels", len(test)),
    )


def to_images(name: str, part: str, value: object, *, channels_first: bool = False) -> Images:
    """``value`` as (N, C, H, W) bytes, C-contiguous.

    Three axes are (N, H, W), of one channel. Of four axes the second is the channels if its length
    is 1, 3 or 4 (whatever the last one's is), else the last if its length is 1, 3 or 4. Bytes are
    taken as they are; floating point numbers must lie in [0, 1] and are rounded to the nearest of
    256 levels.

    Args:
        value: an array, a tensor or nested lists.
        channels_first: the layout is known to be (N, C, H, W): nothing is guessed, any C will do.

    Raises:
        DataError: empty, of another number of axes, channels or type, not finite, or outside [0,
            1].
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
    elif not channels_first and array.shape[1] not in CHANNELS:
        if array.shape[3] not in CHANNELS:
            rule = (
                f"{part} must have 1, 3 or 4 channels on its second or last axis; its shape is"
                f" {array.shape}"
            )
            raise DataError("dataset", name, rule)
        array = array.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(array, dtype=np.uint8)


def to_labels(name: str, part: str, value: object, count: int) -> Labels:
    """``value`` as (count,) whole numbers.

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
        if hasattr(value, "detach"):  # a torch tensor, told without importing torch
            value = value.detach().cpu().numpy()
        array = np.asarray(value)
    except Exception as error:
        rule = f"{part} is no array: {type(error).__name__}: {error}"
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
        rule = f"{part} must lie in [0, 1] if floating point; it spans [{low:g}, {high:g}]"
        raise DataError("dataset", name, rule, "scale it, or store bytes (uint8)")
    return np.rint(array.astype(np.float32, copy=False) * 255).astype(np.uint8)


def hold_out(name: str, parts: Parts) -> Parts:
    """``parts`` with a test part: if it has none, a tenth of the images, the same ones every time.

    The images are those at the front of a permutation of fixed seed, back in their own order.
    Where there are groups, whole groups are held out until they make a tenth, so that no group
    stands on both sides.

    Raises:
        DataError: fewer than two images, or fewer than two groups.
    """
    if parts.test_images is not None:
        return parts
    units = np.arange(len(parts.images)) if parts.groups is None else parts.groups
    distinct, members = np.unique(units, return_inverse=True)
    if len(distinct) < 2:
        kind = "image" if parts.groups is None else "group"
        raise DataError(
            "dataset", name, f"one {kind} cannot be divided into a training and a test part"
        )
    order = _shuffled(len(distinct), HELD_OUT_SEED)
    wanted = max(1, round(len(units) / 10))
    cumulative = np.cumsum(np.bincount(members)[order])
    # One group always stays for training, however large the others are.
    cut = min(int(np.searchsorted(cumulative, wanted)) + 1, len(distinct) - 1)
    held = np.isin(members, order[:cut])
    labels = parts.labels
    test_labels = None if labels is None else labels[held]
    return replace(
        _take(parts, np.flatnonzero(~held)),
        test_images=parts.images[held],
        test_labels=test_labels,
    )


def subset(parts: Parts, limit: int, seed: int) -> Parts:
    """``limit`` training images chosen by ``seed``, in their own order; of two limits the
    smaller's are among the larger's. The test part stays whole."""
    return _take(parts, np.sort(_shuffled(len(parts.images), seed)[:limit]))


def resize(images: Images, size: tuple[int, int]) -> Images:
    """(N, C, H, W) at another (height, width): Pillow's bilinear filter, which antialiases when it
    shrinks."""
    if images.shape[2:] == size:
        return images
    from PIL import Image

    count, channels, height, width = images.shape
    # Channel by channel, so that any number of channels is treated alike and alpha does not weigh
    # the colours.
    planes = images.reshape(count * channels, height, width)
    resized = np.empty((count * channels, *size), dtype=np.uint8)
    for plane, target in zip(planes, resized, strict=True):
        target[:] = Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR)
    return resized.reshape(count, channels, *size)


def digest(parts: Parts | Dataset) -> str:
    """SHA-256, in hex, over name, shape and bytes of the five arrays; class names and source are
    left out."""
    total = hashlib.sha256()
    for part in _KEYS:
        array = getattr(parts, part)
        if array is not None:
            total.update(f"{part} {array.shape}\n".encode())
            little = array.astype(array.dtype.newbyteorder("<"), copy=False)
            total.update(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _take(parts: Parts, chosen: NDArray[np.intp]) -> Parts:
    return replace(
        parts,
        images=parts.images[chosen],
        labels=None if parts.labels is None else parts.labels[chosen],
        groups=None if parts.groups is None else parts.groups[chosen],
        positions=(chosen if parts.positions is None else parts.positions[chosen]).astype(
            np.int64
        ),
    )


def _shuffled(count: int, seed: int) -> NDArray[np.intp]:
    # The legacy generator on purpose: its stream never changes between versions of numpy, a
    # Generator's may.
    return np.random.RandomState(seed).permutation(count).astype(np.intp)
