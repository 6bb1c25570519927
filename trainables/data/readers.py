"""Reads a user's data set from a ``.npz`` file or from a function."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from foldrace.errors import DataError, FoldraceError
from foldrace.trainables.data.arrays import Dataset, Parts, Ragged, check_memory
from foldrace.trainables.data.conversion import holds_images, part_keys, parts_from
from foldrace.trainables.data.fields import fields_from
from foldrace.trainables.data.sample import BY_NAME, ROLES, Wanted
from foldrace.trainables.user_code import load_object

__all__ = ["read_function", "read_npz"]


def read_npz(name: str, wanted: Wanted = BY_NAME) -> Parts:
    """Read the arrays of a ``.npz`` file. Nothing is unpickled; a warning names what is not read.

    An array ``NAME_lengths`` says how many of the elements of ``NAME`` each sample has.

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
                keys = list(file.files)
                if not wanted.named and holds_images({key: _axes(file.zip, key) for key in keys}):
                    keys = list(part_keys(name, keys).values())
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
    return _parts_of_mapping(name, values, str(path), wanted)


def _member(archive: zipfile.ZipFile, key: str) -> str:
    """The file of the array that NumPy calls ``key``."""
    return key if key in archive.namelist() else f"{key}.npy"


def _bytes_of(archive: zipfile.ZipFile, key: str) -> int:
    """The uncompressed size of an array."""
    return archive.getinfo(_member(archive, key)).file_size


def _axes(archive: zipfile.ZipFile, key: str) -> int:
    """The number of axes of an array, from its header; 0 if it is none."""
    with archive.open(_member(archive, key)) as file:
        try:
            first = np.lib.format.read_magic(file) == (1, 0)
            header = np.lib.format.read_array_header_1_0(file) if first else ()
            return len((header or np.lib.format.read_array_header_2_0(file))[0])
        except ValueError:
            return 0


def read_function(name: str, wanted: Wanted = BY_NAME) -> Parts:
    """Call the user's function ``./file.py:function`` or ``package.module:function``.

    It has no arguments, and returns a `Dataset`, a mapping with the keys of a ``.npz`` file, or
    only the training images, as an array or a tensor; or a pair of inputs and targets, x and y.

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
    return parts_of(name, value, name, wanted)


def parts_of(name: str, value: object, source: str, wanted: Wanted = BY_NAME) -> Parts:
    """The parts of what a user's function returns. Raises: DataError: see `read_function`."""
    if isinstance(value, Dataset):
        return _parts_of_dataset(name, value, wanted)
    if value is None or isinstance(value, str | bytes | int | float):
        rule = f"must return a Dataset, a mapping or an array; it returned {type(value).__name__}"
        raise DataError("dataset", name, rule)
    if isinstance(value, tuple) and len(value) == 2:
        value = dict(zip(("x", "y"), value, strict=True))
    if not isinstance(value, Mapping):
        axes = getattr(value, "ndim", None)
        key = "x" if axes is not None and axes < 3 else "images"
        value = {key: value}
    if not all(isinstance(key, str) for key in value):
        rule = "must return a mapping with names as its keys: images, labels, …"
        raise DataError("dataset", name, rule)
    return _parts_of_mapping(name, value, source, wanted)


def _parts_of_mapping(name: str, values: Mapping[str, Any], source: str, wanted: Wanted) -> Parts:
    axes = {key: _axes_of(value) for key, value in values.items() if value is not None}
    if not wanted.named and holds_images(axes):
        return parts_from(name, values, source)
    return fields_from(name, _joined_lengths(name, values), source, wanted)


def _axes_of(value: Any) -> int:
    try:
        return len(np.shape(value))
    except (TypeError, ValueError):  # of unequal lengths
        return 1


def _joined_lengths(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with ``NAME`` and ``NAME_lengths`` as one field of sequences."""
    made = dict(values)
    for key in values:
        of = key.removesuffix("_lengths")
        if of == key or of not in values:
            continue
        lengths, elements = np.asarray(made.pop(key)), np.asarray(values[of])
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any():
            rule = f"{key} must be one whole number per sample, at least 0"
            raise DataError("dataset", name, rule)
        if int(lengths.sum()) != len(elements):
            rule = f"{key} sum to {int(lengths.sum()):,}, and {of} has {len(elements):,} elements"
            raise DataError("dataset", name, rule)
        made[of] = Ragged(elements, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    return made


def _parts_of_dataset(name: str, data: Dataset, wanted: Wanted) -> Parts:
    """The parts of a `Dataset` that a user has made, checked. Raises: DataError."""
    values = {**data.training, **{f"test_{of}": array for of, array in data.test.items()}}
    source = data.source or name
    if "images" in data.training and not wanted.named:
        if not len(data.test["images"]):
            values = dict(data.training)
        parts = parts_from(name, values, source, channels_first=True)
    else:
        roles = {role: getattr(data.roles, role) for role in ROLES}
        given = Wanted(wanted.inputs, {**roles, **wanted.roles})
        parts = fields_from(name, values, source, given)
    named = {of: texts for of, texts in data.names.items() if of in parts.fields}
    return replace(parts, names={**parts.names, **named})
