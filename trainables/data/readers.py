"""Reads a user's data set from a ``.npz`` file or from a function."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from foldrace.errors import DataError, FoldraceError
from foldrace.trainables.data.arrays import ARRAYS, Dataset, Parts, check_memory
from foldrace.trainables.data.conversion import part_keys, parts_from
from foldrace.trainables.user_code import load_object

__all__ = ["read_function", "read_npz"]


def read_npz(name: str) -> Parts:
    """Read the arrays of a ``.npz`` file. Nothing is unpickled; a warning names what is not read.

    Raises:
        DataError: no such file, damaged, not a ``.npz`` file, or an array that cannot be used.
    """
    path = Path(name).expanduser()
    try:
        with path.open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                rule = "is not a .npz file, or not a complete one"
                raise DataError("dataset", name, rule, "write it with numpy.savez")
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                keys = part_keys(name, file.files).values()
                check_memory(name, sum(_bytes_of(file.zip, key) for key in keys))
                values = {key: file[key] for key in keys}
    except DataError:
        raise
    # zipfile, zlib and NumPy raise many kinds of errors for a damaged file.
    except Exception as error:
        rule = f"cannot be read as a .npz file: {type(error).__name__}: {error}"
        pickled = "allow_pickle" in str(error)
        hint = "arrays of Python objects are not read" if pickled else "is it complete?"
        raise DataError("dataset", name, rule, hint) from error
    return parts_from(name, values, str(path))


def _bytes_of(archive: zipfile.ZipFile, key: str) -> int:
    """The uncompressed size of the array that NumPy calls ``key``."""
    member = key if key in archive.namelist() else f"{key}.npy"
    return archive.getinfo(member).file_size


def read_function(name: str) -> Parts:
    """Call the user's function ``./file.py:function`` or ``package.module:function``.

    It has no arguments, and returns a `Dataset`, a mapping with the keys of a ``.npz`` file, or
    only the training images, as an array or a tensor.

    Raises:
        DataError: no such file, module or function; it raises an exception; or its result cannot
            be used.
    """
    function = load_object(name, "dataset", "function", DataError)
    try:
        value = function()
    except FoldraceError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError("dataset", name, f"raised {type(error).__name__}: {error}") from error
    if isinstance(value, Dataset):
        return _parts_of(name, value)
    if value is None or isinstance(value, str | bytes | int | float):
        rule = f"must return a Dataset, a mapping or an array; it returned {type(value).__name__}"
        raise DataError("dataset", name, rule)
    if not isinstance(value, Mapping):
        return parts_from(name, {"images": value}, name)
    if not all(isinstance(key, str) for key in value):
        rule = "must return a mapping with names as its keys: images, labels, …"
        raise DataError("dataset", name, rule)
    return parts_from(name, value, name)


def _parts_of(name: str, data: Dataset) -> Parts:
    """The parts of a `Dataset` that a user has made, checked. Raises: DataError."""
    if not (isinstance(data.images, np.ndarray) and isinstance(data.test_images, np.ndarray)):
        rule = "must fill images and test_images with arrays"
        raise DataError("dataset", name, rule, "or return a mapping")
    arrays = {part: getattr(data, part) for part in ARRAYS}
    if not len(data.test_images):
        arrays |= {"test_images": None, "test_labels": None}
    parts = parts_from(name, arrays, data.source or name, channels_first=True)
    return replace(parts, class_names=tuple(data.class_names) or parts.class_names)
