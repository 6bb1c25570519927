"""Data sets by name, as arrays of bytes in memory.

What a name may be:

``fashion-mnist``, ``mnist``, ``kmnist``, ``cifar10``
    fetched once into the data folder.
``digits``
    scikit-learn's, built in; resized to 28×28 unless a size is given.
a ``.npz`` file
    ``images`` (or ``x_train``), and where there are any ``labels`` (``y_train``), ``groups``,
    ``test_images`` (``x_test``) and ``test_labels`` (``y_test``). Images are (N, H, W), (N, C, H,
    W) or (N, H, W, C) with 1, 3 or 4 channels (if both could be, (N, C, H, W)), of bytes, or of
    floating point numbers in [0, 1].
a folder
    of images, or of one folder of images a class; or ``train/`` and ``test/`` of either kind.
``./file.py:function`` or ``package.module:function``
    called with no arguments; returns a `Dataset`, a mapping with the keys of a ``.npz`` file, or
    the images alone.

Where there is no test part, a tenth of the images is held out as one, the same ones every time
(whole groups, where there are groups). Importing this module imports neither torch, torchvision,
scikit-learn nor Ray.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from foldrace.errors import DataError, nearest
from foldrace.trainables.data.arrays import Dataset, Parts, digest, hold_out, resize, subset
from foldrace.trainables.data.catalogue import CATALOGUE, obtain
from foldrace.trainables.data.readers import read_folder, read_function, read_npz
from foldrace.trainables.data.sources import DIGITS, read_digits
from foldrace.trainables.data.store import stored_path

__all__ = [
    "Dataset",
    "DatasetInfo",
    "State",
    "check_reference",
    "fetch",
    "list_datasets",
    "load_dataset",
]

DIGITS_SIZE = (28, 28)
_MAX_SEED = 2**32 - 1

Notify = Callable[[str], None]
"""Is told, in one line each, what a fetch is doing."""


class State(Enum):
    """Whether a data set with a name is at hand."""

    READY = "ready"
    BUILT_IN = "built in"
    NOT_FETCHED = "not fetched"


@dataclass(frozen=True)
class DatasetInfo:
    """A data set with a name, for a list.

    Attributes:
        training, test: numbers of images.
        sample_shape: (channels, height, width), as it is loaded by default.
        where: the file it is stored in, or the package it is built into; empty if it is not
            fetched.
    """

    name: str
    description: str
    training: int
    test: int
    sample_shape: tuple[int, int, int]
    state: State
    where: str


class _Kind(Enum):
    NAMED = "named"
    DIGITS = "digits"
    NPZ = "npz"
    FOLDER = "folder"
    FUNCTION = "function"


def check_reference(name: str) -> None:
    """Refuses what cannot be a data set, quickly: files are looked for, but not opened, and
    nothing is imported.

    Raises:
        DataError: an unknown name, or a file, folder or module that does not exist.
    """
    if _kind(name) is _Kind.FUNCTION:
        _check_function(name)


def _kind(name: str) -> _Kind:
    """What ``name`` refers to. Raises: DataError, if to nothing."""
    if name in CATALOGUE:
        return _Kind.NAMED
    if name == DIGITS:
        return _Kind.DIGITS
    try:
        path = Path(name).expanduser()
        is_folder = bool(name) and path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError("dataset", name, f"is no path that can be followed: {error}") from error
    if is_folder:
        return _Kind.FOLDER
    if path.is_file():
        if path.suffix.lower() == ".npz":
            return _Kind.NPZ
        raise DataError(
            "dataset",
            name,
            "is neither a .npz file nor a folder of images",
            "write it with numpy.savez",
        )
    if ":" in name:
        return _Kind.FUNCTION
    if "/" in name or name.startswith(("~", ".")) or path.suffix.lower() == ".npz":
        raise DataError(
            "dataset", name, "no such file or folder", f"it would be {path.absolute()}"
        )
    hint = nearest(name, [*CATALOGUE, DIGITS])
    raise DataError(
        "dataset",
        name,
        "unknown data set",
        f"{hint}; or a .npz file, a folder, ./file.py:function",
    )


def _check_function(name: str) -> None:
    where, _, attribute = name.rpartition(":")
    if not attribute.isidentifier():
        raise DataError("dataset", name, "must end in the name of a function: ./file.py:function")
    if where.endswith(".py"):
        if not Path(where).expanduser().is_file():
            raise DataError(
                "dataset", name, f"no such file: {Path(where).expanduser().absolute()}"
            )
        return
    if not all(part.isidentifier() for part in where.split(".")):
        raise DataError(
            "dataset", name, f"{where or 'nothing'} is neither a .py file nor a module"
        )
    # Of package.module only the package can be looked for without importing it.
    package = where.partition(".")[0]
    try:
        known = importlib.util.find_spec(package) is not None
    except ValueError:  # a module without a spec, such as __main__: it is there
        known = True
    if not known:
        raise DataError(
            "dataset",
            name,
            f"no module {package}",
            f"for a file, write ./{package}.py:{attribute}",
        )


def load_dataset(
    name: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    data_dir: Path,
    notify: Notify = lambda _: None,
) -> Dataset:
    """The data set that ``name`` refers to (see this module's head), fetched if it must be.

    Args:
        limit: take this many of the training images, chosen at random by ``seed``; the test part
            stays whole.
        seed: 0 to 2³² - 1.
        size: (height, width) to resize to, bilinear with antialiasing; None: as they are (digits:
            28×28).
        data_dir: the folder that fetched data sets are kept in; made if needed.

    Raises:
        DataError: no such data set; it cannot be fetched, read or used; or a limit, seed or size
            out of range.
    """
    _check_whole("dataset.seed", seed, 0, _MAX_SEED)
    if limit is not None:
        _check_whole("dataset.limit", limit, 1, None)
    if size is not None:
        size = _checked_size(size)
    check_reference(name)
    kind = _kind(name)
    if kind is _Kind.DIGITS and size is None:
        size = DIGITS_SIZE
    parts = hold_out(name, _read(kind, name, size, data_dir, notify))
    if limit is not None:
        if limit > len(parts.images):
            rule = f"must be at most the number of training images, {len(parts.images)}"
            raise DataError("dataset.limit", limit, rule)
        parts = subset(parts, limit, seed)
    return _assemble(name, parts, size)


def _read(
    kind: _Kind, name: str, size: tuple[int, int] | None, data_dir: Path, notify: Notify
) -> Parts:
    match kind:
        case _Kind.NAMED:
            return obtain(CATALOGUE[name], data_dir, notify)
        case _Kind.DIGITS:
            return read_digits()
        case _Kind.NPZ:
            return read_npz(name)
        case _Kind.FOLDER:
            return read_folder(name, size)
        case _Kind.FUNCTION:
            return read_function(name)


def _assemble(name: str, parts: Parts, size: tuple[int, int] | None) -> Dataset:
    images, test_images = parts.images, parts.test_images
    assert test_images is not None
    if size is not None:
        images, test_images = resize(images, size), resize(test_images, size)
    train, test = images.shape[1:], test_images.shape[1:]
    if train != test:
        rule = f"the training images have shape {train} (C, H, W), the test images {test}"
        raise DataError(
            "dataset", name, rule, "where only the sizes differ, give it a size: [height, width]"
        )
    return Dataset(
        name=name,
        images=images,
        labels=parts.labels,
        groups=parts.groups,
        test_images=test_images,
        test_labels=parts.test_labels,
        class_names=parts.class_names,
        digest=digest(replace(parts, images=images, test_images=test_images)),
        source=parts.source,
        positions=parts.positions,
    )


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    if len(size) != 2:
        raise DataError("dataset.size", list(size), "must be two whole numbers: [height, width]")
    height, width = size
    _check_whole("dataset.size", height, 1, None)
    _check_whole("dataset.size", width, 1, None)
    return height, width


def _check_whole(field: str, value: object, low: int, high: int | None) -> None:
    within = isinstance(value, int) and not isinstance(value, bool) and low <= value
    if not within or (high is not None and isinstance(value, int) and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise DataError(field, value, f"must be a whole number, {bounds}")


def list_datasets(data_dir: Path) -> list[DatasetInfo]:
    """The data sets with a name, sorted, and whether each is at hand. Looks for files, opens
    none."""
    return [_info(name, data_dir) for name in sorted([*CATALOGUE, DIGITS])]


def fetch(name: str, data_dir: Path, notify: Notify = lambda _: None) -> DatasetInfo:
    """Sees to it that the data set with that name is in the data folder, whole; one that is built
    in always is.

    Raises:
        DataError: no data set with that name, or it cannot be fetched or stored.
    """
    if name in CATALOGUE:
        obtain(CATALOGUE[name], data_dir, notify)
    elif name != DIGITS:
        raise DataError(
            "dataset", name, "no data set that can be fetched", nearest(name, [*CATALOGUE, DIGITS])
        )
    return _info(name, data_dir)


def _info(name: str, data_dir: Path) -> DatasetInfo:
    if name == DIGITS:
        description = "handwritten digits, small (scikit-learn's; a tenth held out)"
        return DatasetInfo(
            name, description, 1617, 180, (1, *DIGITS_SIZE), State.BUILT_IN, "scikit-learn"
        )
    entry = CATALOGUE[name]
    path = stored_path(name, data_dir)
    ready = path.is_file()
    state = State.READY if ready else State.NOT_FETCHED
    where = str(path) if ready else ""
    return DatasetInfo(name, entry.description, *entry.counts, entry.sample_shape, state, where)
