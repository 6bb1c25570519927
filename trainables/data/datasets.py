"""Loads data sets as named fields.

A data set is referred to by:

``fashion-mnist``, ``mnist``, ``kmnist``, ``cifar10``
    a name; fetched once into the data folder.
``digits``
    scikit-learn's digits, resized to 28×28 unless a size is set.
a ``.npz`` file
    with ``images`` (or ``x_train``, ``train_images``), and optionally ``labels`` (``y_train``,
    ``train_labels``), ``groups``, ``test_images`` (``x_test``) and ``test_labels`` (``y_test``).
    Images are (N, H, W), (N, C, H, W) or (N, H, W, C) with 1, 3 or 4 channels (if both fit, (N,
    C, H, W)); bytes, or floating point numbers in [0, 1]. Labels are whole numbers or texts.
    ``val_images`` (``x_val``) and their ``val_labels`` join the training part.
a ``.npy`` file
    one array: images if it is of bytes with three axes or more, else ``x``.
a ``.csv`` or ``.parquet`` file
    whose columns are named: see `tables`.
a folder of ``.npy`` files
    ``x.npy``, ``y.npy``, ``test_x.npy``, or ``train/`` and ``test/`` with ``x.npy`` and so on.
    They stay in their files, of which a batch at a time is read.
a folder
    of images, or of one folder of images per class; or ``train/`` and ``test/`` (in any common
    spelling) of either kind; ``val/`` joins the training part.
``./file.py:function`` or ``package.module:function``
    a function without arguments that returns what `read_function` says.

If there is no test part, a tenth of the images is held out as one, the same ones every time (whole
groups, if there are groups). Importing this module imports neither torch, torchvision,
scikit-learn nor Ray.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np

from foldrace.errors import DataError, nearest
from foldrace.trainables.data.arrays import Array, Dataset, Fields, Parts, Ragged
from foldrace.trainables.data.conversion import DARK
from foldrace.trainables.data.fields import chosen_fields
from foldrace.trainables.data.image_folders import read_folder
from foldrace.trainables.data.named.catalogue import CATALOGUE
from foldrace.trainables.data.named.fetching import obtain
from foldrace.trainables.data.named.store import stored_path
from foldrace.trainables.data.parts import digest, hold_out, resize, subset
from foldrace.trainables.data.readers import (
    holds_arrays,
    read_arrays,
    read_function,
    read_npy,
    read_npz,
)
from foldrace.trainables.data.references import ReferenceKind, check_reference, reference_kind
from foldrace.trainables.data.sample import BY_NAME, Wanted
from foldrace.trainables.data.tables import read_csv, read_parquet

__all__ = [
    "Dataset",
    "DatasetInfo",
    "State",
    "check_reference",
    "fetch",
    "list_datasets",
    "load_dataset",
]

log = logging.getLogger(__name__)

_MAX_SEED = 2**32 - 1
_LISTED = 10


class State(Enum):
    """Whether a named data set has to be fetched before it can be used."""

    READY = "ready"
    BUILT_IN = "built in"
    NOT_FETCHED = "not fetched"


@dataclass(frozen=True)
class DatasetInfo:
    """A row in the list of named data sets.

    Attributes:
        training, test: numbers of images.
        sample_shape: (channels, height, width), as it is loaded by default.
        where: the stored file, or the package that contains it; empty if it is not fetched.
    """

    name: str
    description: str
    training: int
    test: int
    sample_shape: tuple[int, int, int]
    state: State
    where: str


def load_dataset(
    name: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    wanted: Wanted = BY_NAME,
    workers: int | None = None,
    data_dir: Path,
) -> Dataset:
    """Load a data set; a named one is fetched if it is not in the data folder.

    Args:
        name: what to load (see the top of this module).
        limit: use this many of the training images, chosen at random by ``seed``; the test part
            stays complete. None: all.
        seed: from 0 to 2³² - 1.
        size: (height, width) to resize images to, bilinear with antialiasing; None: keep their
            size (digits: 28×28).
        wanted: the fields to read, and what each is for; by default all, by their names.
        workers: of a map-style data set of torch: the processes that read its items for each
            trial as batches need them, 0 being the trial's own; None: read all of them once.
        data_dir: the folder that fetched data sets are kept in; made if needed.

    Raises:
        DataError: no such data set; it cannot be fetched, read or used; or a limit, seed or size
            is out of range.

    >>> digits = load_dataset("digits", limit=100, data_dir=Path("data"))
    >>> digits.images.shape, digits.test_images.shape
    ((100, 1, 28, 28), (180, 1, 28, 28))
    """
    _check_whole("dataset.seed", seed, 0, _MAX_SEED)
    if limit is not None:
        _check_whole("dataset.limit", limit, 1)
    if size is not None:
        size = _checked_size(size)
    kind = reference_kind(name)
    if workers is not None and kind is not ReferenceKind.FUNCTION:
        rule = f"is for a Dataset of torch that a function returns, and {name} is none"
        raise DataError("dataset.workers", workers, rule, "leave it out")
    if size is None and kind is ReferenceKind.NAMED and CATALOGUE[name].built_in:
        size = CATALOGUE[name].sample_shape[1:]
    read = _read(kind, name, size, wanted, workers, data_dir)
    is_image_set = "images" in read.training and "target" not in wanted.roles
    parts = hold_out(name, read, stratify=not is_image_set)
    if limit is not None:
        if limit > len(parts):
            rule = f"must be at most the number of training samples, {len(parts)}"
            raise DataError("dataset.limit", limit, rule)
        parts = subset(parts, limit, seed)
    return _assemble(name, parts, size)


def _read(
    kind: ReferenceKind,
    name: str,
    size: tuple[int, int] | None,
    wanted: Wanted,
    workers: int | None,
    data_dir: Path,
) -> Parts:
    match kind:
        case ReferenceKind.NAMED:
            parts = obtain(CATALOGUE[name], data_dir)
        case ReferenceKind.NPZ:
            return read_npz(name, wanted)
        case ReferenceKind.NPY:
            return read_npy(name, wanted)
        case ReferenceKind.CSV:
            return read_csv(name, wanted)
        case ReferenceKind.PARQUET:
            return read_parquet(name, wanted)
        case ReferenceKind.FOLDER if holds_arrays(name):
            return read_arrays(name, wanted)
        case ReferenceKind.FOLDER:
            parts = read_folder(name, size)
        case ReferenceKind.FUNCTION:
            return read_function(name, wanted, workers)
    return chosen_fields(name, parts, wanted)


def _assemble(name: str, parts: Parts, size: tuple[int, int] | None) -> Dataset:
    assert parts.test is not None
    training, test = dict(parts.training), dict(parts.test)
    if size is not None:
        _resize(name, parts, training, test, size)
    parts = replace(parts, training=training, test=test)
    _check_shapes(name, training, test)
    for of, array in training.items():
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 4:
            continue
        if (brightest := int(array.max())) <= DARK:
            scaled = "if they are masks or numbers of levels, scale them to 0 to 255"
            log.warning(
                "%s: %s: almost black: no value exceeds %d of 255; %s", name, of, brightest, scaled
            )
    made = Dataset(
        name,
        training,
        test,
        parts.roles,
        parts.names,
        digest(parts),
        parts.source,
        parts.positions,
        parts.notes,
    )
    _warn_of_classes(made)
    groups, tested = made.groups, made.of_role("groups", test=True)
    if groups is not None and tested is not None and (both := np.intersect1d(groups, tested).size):
        log.warning("%s: %d groups of the test part are in the training part too", name, both)
    return made


def _warn_of_classes(dataset: Dataset) -> None:
    """Names the classes that the test part has and the training part has not."""
    target = dataset.sample.target
    known, tested = dataset.labels, dataset.test_labels
    if target is None or target.classes is None or known is None or tested is None:
        return
    if unseen := sorted({*tested.tolist()} - {*known.tolist()}):
        listed = ", ".join(str(label) for label in unseen[:_LISTED])
        more = f" and {len(unseen) - _LISTED:,} more" if len(unseen) > _LISTED else ""
        log.warning("%s: classes of the test part alone: %s%s", dataset.name, listed, more)


def _resize(
    name: str,
    parts: Parts,
    training: dict[str, Array],
    test: dict[str, Array],
    size: tuple[int, int],
) -> None:
    resized = False
    for part in (training, test):
        for of, array in part.items():
            if isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.ndim == 4:
                part[of], resized = resize(array, size), True
    if not resized:
        fields = ", ".join(parts.training)
        rule = f"there are no images to resize; the fields are: {fields}"
        raise DataError("dataset.size", list(size), rule, "leave it out")


def _check_shapes(name: str, training: Fields, test: Fields) -> None:
    for of, array in test.items():
        other = training.get(of)
        if other is None or isinstance(array, Ragged) or isinstance(other, Ragged):
            continue
        train, tested = other.shape[1:], array.shape[1:]
        if train != tested:
            rule = f"the training {of} have shape {train} (C, H, W), the test {of} {tested}"
            hint = "if only the sizes differ, set its size: [height, width]"
            raise DataError("dataset", name, rule, hint)


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2:
        raise DataError("dataset.size", list(size), "must be two whole numbers: [height, width]")
    height, width = size
    _check_whole("dataset.size", height, 1)
    _check_whole("dataset.size", width, 1)
    return height, width


def _check_whole(field: str, value: object, low: int, high: int | None = None) -> None:
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or value < low
        or (high is not None and value > high)
    ):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise DataError(field, value, f"must be a whole number, {bounds}")


def list_datasets(data_dir: Path) -> list[DatasetInfo]:
    """The named data sets, sorted by name. Quick: files are looked for but not opened."""
    return [_info(name, data_dir) for name in sorted(CATALOGUE)]


def fetch(name: str, data_dir: Path) -> DatasetInfo:
    """Fetch a named data set into the data folder, unless it is there and intact, or built in.

    Raises:
        DataError: no data set of that name, or it cannot be fetched or stored.
    """
    if name not in CATALOGUE:
        hint = nearest(name, CATALOGUE)
        raise DataError("dataset", name, "no data set that can be fetched", hint)
    obtain(CATALOGUE[name], data_dir)
    return _info(name, data_dir)


def _info(name: str, data_dir: Path) -> DatasetInfo:
    entry, path = CATALOGUE[name], stored_path(name, data_dir)
    if entry.built_in:
        state, where = State.BUILT_IN, "scikit-learn"
    elif path.is_file():
        state, where = State.READY, str(path)
    else:
        state, where = State.NOT_FETCHED, ""
    return DatasetInfo(name, entry.description, *entry.counts, entry.sample_shape, state, where)
