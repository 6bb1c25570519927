"""Images and labels as arrays: which are accepted, and how they become (N, C, H, W) bytes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import DataError, printable
from foldrace.trainables.data.arrays import Images, Labels, Parts

__all__ = ["DARK", "holds_images", "number_classes", "part_keys", "parts_from", "to_images"]

log = logging.getLogger(__name__)

_KEYS = {
    "images": ("images", "x_train", "train_images"),
    "labels": ("labels", "y_train", "train_labels"),
    "groups": ("groups", "train_groups"),
    "val_images": ("val_images", "x_val"),
    "val_labels": ("val_labels", "y_val"),
    "val_groups": ("val_groups",),
    "test_images": ("test_images", "x_test"),
    "test_labels": ("test_labels", "y_test"),
}
"""The arrays that are read, each with its allowed keys in a ``.npz`` file or a mapping."""

_CHANNELS = (1, 3, 4)
_LABELS = ("labels", "test_labels")
DARK = 16
"""Of 255: in an image that is nowhere brighter, nothing is seen."""


def holds_images(axes: Mapping[str, int]) -> bool:
    """Whether a mapping's arrays are a set of images: one of them is called so and looks so.

    Args:
        axes: the number of axes of each array by its key.

    >>> holds_images({"x_train": 4, "y_train": 1}), holds_images({"x_train": 2, "y_train": 1})
    (True, False)
    """
    return any(axes.get(key, 0) >= 3 for key in _KEYS["images"]) or "images" in axes


def part_keys(name: str, available: Iterable[str]) -> dict[str, str]:
    """Find the key of each array: ``{"images": "x_train"}``; a warning names all other keys.

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
    for part, keys in _KEYS.items():
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
    for part, of in (
        ("val_labels", "val_images"),
        ("val_groups", "val_images"),
        ("test_labels", "test_images"),
    ):
        if part in found and of not in found:
            rule = f"holds {found[part]} but no {' (or '.join(_KEYS[of])})"
            raise DataError("dataset", name, rule)
    if unread := sorted(set(present) - set(found.values())):
        listed = printable(", ".join(unread))
        log.warning("%s: arrays that are not read (%d): %s", name, len(unread), listed)
    return found


def parts_from(
    name: str, values: Mapping[str, object], source: str, *, channels_first: bool = False
) -> Parts:
    """Check and convert the arrays in a mapping with the keys of a ``.npz`` file.

    Args:
        name: the data set's name in an error.
        values: arrays by key (see `part_keys`); None counts as missing. A validation part joins
            the training part.
        source: see `Dataset`.
        channels_first: see `to_images`.

    Raises:
        DataError: an array is missing, empty or unusable, or the number of labels or groups is not
            the number of images.
    """
    keys = part_keys(name, [key for key, value in values.items() if value is not None])
    images: dict[str, Images] = {
        part: to_images(name, keys[part], values[keys[part]], channels_first=channels_first)
        for part in ("images", "val_images", "test_images")
        if part in keys
    }
    numbers = {
        part: _to_labels(name, keys[part], values[keys[part]], len(images[of]))
        for part, of in (
            ("labels", "images"),
            ("groups", "images"),
            ("val_labels", "val_images"),
            ("val_groups", "val_images"),
            ("test_labels", "test_images"),
        )
        if part in keys
    }
    if "val_images" in images:
        _join_validation(name, keys, images, numbers)
    labels, test_labels, class_names = _numbered(name, keys, numbers)
    groups = numbers.get("groups")
    if groups is not None and groups.dtype.kind == "U":
        groups = np.unique(groups, return_inverse=True)[1]
    return Parts.of_images(
        images["images"],
        source,
        labels,
        None if groups is None else groups.astype(np.int64),
        images.get("test_images"),
        test_labels,
        class_names,
    )


def _join_validation(
    name: str,
    keys: Mapping[str, str],
    images: dict[str, Images],
    numbers: dict[str, NDArray[np.generic]],
) -> None:
    """Append the validation part to the training part, which is divided into folds."""
    shapes = images["images"].shape[1:], images["val_images"].shape[1:]
    if shapes[0] != shapes[1]:
        rule = (
            f"{keys['images']} have shape {shapes[0]} (C, H, W), {keys['val_images']} {shapes[1]}"
        )
        raise DataError("dataset", name, rule, "give them the same shape")
    for part, other in (("labels", "val_labels"), ("groups", "val_groups")):
        if (part in numbers) != (other in numbers):
            held = keys.get(part) or keys[other]
            rule = f"holds {held}, but {part} of only one of the training and validation parts"
            raise DataError("dataset", name, rule, "give both parts theirs, or neither")
        if part in numbers:
            pair = [numbers[part], numbers.pop(other)]
            _check_alike(name, [keys[part], keys[other]], pair)
            numbers[part] = np.concatenate(pair)
    count = len(images["val_images"])
    images["images"] = np.concatenate([images["images"], images.pop("val_images")])
    log.warning("%s: the %d %s join the training part", name, count, keys["val_images"])


def _numbered(
    name: str, keys: Mapping[str, str], numbers: Mapping[str, NDArray[np.generic]]
) -> tuple[Labels | None, Labels | None, tuple[str, ...]]:
    """Labels as whole numbers, and the class names if they are text."""
    present = [part for part in ("labels", "test_labels") if part in numbers]
    arrays = [numbers[part] for part in present]
    _check_alike(name, [keys[part] for part in present], arrays)
    if arrays and arrays[0].dtype.kind == "U":
        texts = [numbers[part].tolist() if part in present else [] for part in _LABELS]
        return number_classes(name, *texts)
    labels, test_labels = (
        numbers[part].astype(np.int64) if part in present else None for part in _LABELS
    )
    return labels, test_labels, ()


def _check_alike(name: str, keys: Sequence[str], arrays: Sequence[NDArray[np.generic]]) -> None:
    if len({array.dtype.kind == "U" for array in arrays}) > 1:
        rule = f"{' and '.join(keys)} must all be text or all be whole numbers"
        raise DataError("dataset", name, rule)


def number_classes(
    name: str, training: Sequence[str], test: Sequence[str]
) -> tuple[Labels | None, Labels | None, tuple[str, ...]]:
    """Number classes in the order of their sorted names; no names, no labels.

    Raises:
        DataError: a class in the test part that the training part does not have.

    >>> number_classes("mine", ["dog", "cat", "dog"], ["cat"])
    (array([1, 0, 1]), array([0]), ('cat', 'dog'))
    """
    classes = sorted(set(training))
    for extra in sorted(set(test) - set(classes)):
        rule = f"the test part has a class {extra} that the training part does not have"
        raise DataError("dataset", name, rule)
    number_of = {label: number for number, label in enumerate(classes)}
    labels, test_labels = (
        np.array([number_of[label] for label in part], dtype=np.int64) if len(part) else None
        for part in (training, test)
    )
    return labels, test_labels, tuple(classes)


def to_images(name: str, part: str, value: object, *, channels_first: bool = False) -> Images:
    """Convert images to (N, C, H, W) bytes, C-contiguous.

    Three axes are (N, H, W), with one channel. Of four axes the second is the channels if its
    length is 1, 3 or 4, else the last if its length is 1, 3 or 4. Bytes are kept; floating point
    numbers must be in [0, 1], but for less than half a level, and are rounded to the nearest of
    256 levels.

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
        raise DataError("dataset", name, rule, _scaling(part, array))
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


def _to_labels(name: str, part: str, value: object, count: int) -> NDArray[np.generic]:
    """Labels or groups as (count,) whole numbers or texts; (count, 1) is accepted too.

    Raises:
        DataError: another shape, another length, or of another type.
    """
    array = _as_array(name, part, value, objects=True)
    if array.dtype.kind == "S":
        array = np.char.decode(array.astype(np.bytes_), "utf-8", "backslashreplace")
    elif array.dtype.hasobject and all(isinstance(item, str) for item in array.flat):
        array = array.astype(np.str_)
    if array.dtype.hasobject:
        raise _of_objects(name, part)
    if array.dtype.kind not in "iuU":
        whole = array.dtype.kind == "b" or (
            array.dtype.kind == "f" and bool((array == np.rint(array.astype(np.float64))).all())
        )
        hint = f"convert them: {part}.astype('int64')" if whole else ""
        rule = f"{part} must be whole numbers or texts; it is {array.dtype}"
        raise DataError("dataset", name, rule, hint)
    if array.shape == (count, 1):
        array = array[:, 0]
    if array.shape != (count,):
        rule = (
            f"{part} must be one number for each of the {count} images; its shape is {array.shape}"
        )
        raise DataError("dataset", name, rule)
    return np.ascontiguousarray(array)


def _as_array(
    name: str, part: str, value: object, *, objects: bool = False
) -> NDArray[np.generic]:
    try:
        if hasattr(value, "detach"):  # a torch tensor, recognised without importing torch
            value = value.detach().cpu().numpy()
        array = np.asarray(value)
    except Exception as error:
        rule = f"{part} is not an array: {type(error).__name__}: {error}"
        raise DataError("dataset", name, rule) from error
    if array.dtype.hasobject and not objects:
        raise _of_objects(name, part)
    return array


def _of_objects(name: str, part: str) -> DataError:
    return DataError("dataset", name, f"{part} is an array of Python objects, not of numbers")


def _to_bytes(name: str, part: str, array: NDArray[np.generic]) -> Images:
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        rule = (
            f"{part} must be finite; {int(bad.sum())} of {bad.size} values are not, the first at"
            f" index {first}"
        )
        raise DataError("dataset", name, rule)
    low, high = array.min(), array.max()
    if not (float(low) * 255 > -0.5 and float(high) * 255 < 255.5):  # rounds to another level
        rule = f"{part} must be in [0, 1] if floating point; it spans [{low!s}, {high!s}]"
        raise DataError("dataset", name, rule, _scaling(part, array))
    levels = np.rint(array.astype(np.float32, copy=False) * 255)
    return levels.clip(0, 255).astype(np.uint8)


def _scaling(part: str, array: NDArray[np.generic]) -> str:
    """How to make bytes, or floats in [0, 1], of an array so that its values keep their order."""
    if array.dtype.kind not in "biuf":
        return ""
    low, high = array.min().item(), array.max().item()
    if array.dtype.kind != "f" and low >= 0 and high <= 1:
        code = f"{part}.astype('uint8') * 255"
    elif array.dtype.kind != "f" and low >= 0 and high <= 255:
        code = f"{part}.astype('uint8')"
    elif array.dtype.kind == "f" and low >= 0 and DARK < high <= 255:
        code = f"{part} / 255"
    elif array.dtype.kind == "f" or low < 0:
        minus = f"+ {-float(low)!r}" if low < 0 else f"- {float(low)!r}"
        code = f"({part} {minus}) / {float(high) - float(low) or 1.0!r}"
    else:
        code = f"{part} / {2 ** high.bit_length() - 1}"
    return f"scale it, every part alike: {code}"
