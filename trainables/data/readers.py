"""Reads a user's data set from ``.npz`` and ``.npy`` files or from a function."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from foldrace.errors import DataError, FoldraceError, first_line, printable
from foldrace.trainables.data.arrays import Dataset, Parts, Ragged, check_memory
from foldrace.trainables.data.conversion import holds_images, part_keys, parts_from
from foldrace.trainables.data.fields import fields_from
from foldrace.trainables.data.folder_layout import IMAGE_SUFFIXES
from foldrace.trainables.data.items.reading import are_items, lazy_parts, read_items
from foldrace.trainables.data.mapped import Mapped
from foldrace.trainables.data.parts import Part, part_named
from foldrace.trainables.data.sample import BY_NAME, ROLES, Wanted
from foldrace.trainables.data.tables import frames_by_part, is_frame, parts_of_frames
from foldrace.trainables.user_code import load_object

__all__ = ["holds_arrays", "read_arrays", "read_function", "read_npy", "read_npz"]

log = logging.getLogger(__name__)


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


def read_npy(name: str, wanted: Wanted = BY_NAME) -> Parts:
    """Read the array of a ``.npy`` file into memory: images if it is of bytes with three axes or
    more, else the field ``x``. Raises: DataError: see `read_npz`."""
    path = Path(name).expanduser()
    array = _opened(name, path)
    check_memory(name, array.nbytes)
    key = "images" if array.dtype == np.uint8 and array.ndim >= 3 else "x"
    return _parts_of_mapping(name, {key: np.array(array)}, str(path), wanted)


def holds_arrays(name: str) -> bool:
    """Whether a folder, or one for its training part, holds ``.npy`` files and no images."""
    folder = Path(name).expanduser()
    training = [path for path in _parts_in(folder) if part_named(path.name) is Part.TRAINING]
    return any(_only_arrays(each) for each in (folder, *training))


def _only_arrays(folder: Path) -> bool:
    """Whether there are arrays, and neither images nor folders that could be classes."""
    seen = [path for path in folder.iterdir() if not path.name.startswith(".")]
    classes = any(path.is_dir() and part_named(path.name) is None for path in seen)
    images = any(path.suffix.lower() in IMAGE_SUFFIXES for path in seen)
    return not classes and not images and any(path.suffix == ".npy" for path in seen)


def _parts_in(folder: Path) -> list[Path]:
    """The folders for parts."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and part_named(path.name) is not None
    ]


def _array_files(name: str, folder: Path) -> dict[str, Path]:
    """The ``.npy`` files by the key of their field: ``x``, ``test_x``."""
    found = {path.stem: path for path in sorted(folder.glob("*.npy"))}
    for inner in _parts_in(folder):
        for path in sorted(inner.glob("*.npy")):
            part = part_named(inner.name)
            assert part is not None
            key = f"{part.prefix}_{path.stem}"
            if key in found:
                rule = f"holds {inner.name}/{path.name} and {key}.npy, the same field"
                raise DataError("dataset", name, printable(rule), "keep one of them")
            found[key] = path
    return found


def read_arrays(name: str, wanted: Wanted = BY_NAME) -> Parts:
    """Open the ``.npy`` files of a folder as fields, which stay in their files.

    Arrays of one axis and texts are read into memory. A warning names all other files.

    Raises:
        DataError: see `read_npz`.
    """
    folder = Path(name).expanduser()
    files = _array_files(name, folder)
    others = [path for path in folder.iterdir() if path not in files.values()]
    inner = _parts_in(folder)
    others = [path for path in others if path not in inner]
    others += [path for each in inner for path in each.iterdir() if path not in files.values()]
    if others:
        listed = ", ".join(sorted(str(path.relative_to(folder)) for path in others)[:20])
        more = f" and {len(others) - 20:,} more" if len(others) > 20 else ""
        log.warning("%s: not read: %s%s", name, printable(listed), more)
    values: dict[str, Any] = {}
    for key, path in files.items():
        array = _opened(name, path)
        in_memory = array.ndim < 2 or array.dtype.kind == "U"
        values[key] = np.array(array) if in_memory else Mapped.of(path)
    parts = fields_from(name, values, str(folder), wanted)
    mapped = [of for of, array in parts.training.items() if isinstance(array, Mapped)]
    note = f"read from their files a batch at a time: {', '.join(mapped)}"
    return replace(parts, notes=(note,) if mapped else ())


def _opened(name: str, path: Path) -> np.ndarray[Any, Any]:
    """The array of a ``.npy`` file, not read yet."""
    try:
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of many kinds for a damaged header
        rule = f"{path.name} cannot be read as a .npy file: {first_line(error)}"
        pickled = "allow_pickle" in str(error) or "object" in str(error)
        hint = "arrays of Python objects are not read" if pickled else "is it complete?"
        raise DataError("dataset", name, printable(rule), hint) from error
    if isinstance(array, np.lib.npyio.NpzFile):
        array.close()
        raise DataError("dataset", name, f"{path.name} is a .npz file", "rename it to .npz")
    return array


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


def read_function(name: str, wanted: Wanted = BY_NAME, workers: int | None = None) -> Parts:
    """Call the user's function ``./file.py:function`` or ``package.module:function``.

    It has no arguments, and returns a `Dataset`; a mapping with the keys of a ``.npz`` file; one
    array or tensor; a pair of inputs and targets, x and y; a pandas data frame, or a mapping of
    ``train`` and ``test`` to data frames; what scikit-learn's ``load_…`` functions return; or a
    map-style ``torch.utils.data.Dataset``, or a mapping of ``train`` and ``test`` to such.

    Args:
        workers: the processes that read the items of a map-style data set for each trial, as
            batches need them; None: all items are read once, into memory.

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
    return parts_of(name, value, name, wanted, workers)


def parts_of(
    name: str,
    value: object,
    source: str,
    wanted: Wanted = BY_NAME,
    workers: int | None = None,
) -> Parts:
    """The parts of what a user's function returns. Raises: DataError: see `read_function`."""
    if isinstance(value, Dataset):
        return _parts_of_dataset(name, value, wanted)
    if value is None or isinstance(value, str | bytes | int | float):
        rule = f"must return a Dataset, a mapping or an array; it returned {type(value).__name__}"
        raise DataError("dataset", name, rule)
    if is_frame(value):
        return parts_of_frames(name, {Part.TRAINING: value}, source, wanted)
    if isinstance(value, Mapping) and type(value).__name__ == "Bunch":
        return _parts_of_bunch(name, value, source, wanted)
    if isinstance(value, Mapping) and (frames := frames_by_part(value)) is not None:
        return parts_of_frames(name, frames, source, wanted)
    if are_items(value):
        if workers is not None:
            return lazy_parts(name, value, source, wanted, workers)
        return read_items(name, value, lambda made: _parts_of_mapping(name, made, source, wanted))
    if workers is not None:
        rule = f"is for a Dataset of torch, and {name} returned a {type(value).__name__}"
        raise DataError("dataset.workers", workers, printable(rule), "leave it out")
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


def _parts_of_bunch(name: str, bunch: Mapping[str, Any], source: str, wanted: Wanted) -> Parts:
    """x and y, and the names of its classes, of what scikit-learn's functions return."""
    missing = [key for key in ("data", "target") if key not in bunch]
    if missing:
        raise DataError("dataset", name, f"the Bunch has no {missing[0]}", "return a mapping")
    left_out = [
        key
        for key, value in bunch.items()
        if key not in ("data", "target") and np.ndim(value) > 1 and not is_frame(value)
    ]
    if left_out:
        log.warning("%s: of the Bunch: not read: %s", name, ", ".join(left_out))
    data = bunch["data"]
    if is_frame(data):
        frame = data.assign(y=np.asarray(bunch["target"]))
        return parts_of_frames(name, {Part.TRAINING: frame}, source, wanted)
    parts = fields_from(name, {"x": data, "y": bunch["target"]}, source, wanted)
    target, names = parts.training.get("y"), bunch.get("target_names")
    if not isinstance(target, np.ndarray) or target.ndim != 1 or target.dtype.kind not in "iu":
        return parts
    if "y" in parts.names or names is None or len(names) <= target.max():
        return parts
    return replace(parts, names={**parts.names, "y": tuple(str(one) for one in names)})


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
