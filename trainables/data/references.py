"""What a sweep file's ``dataset`` refers to: a named data set, a file, a folder or a function."""

from __future__ import annotations

import importlib.util
from enum import Enum
from pathlib import Path, PurePath

from foldrace.errors import DataError, nearest

__all__ = ["ReferenceKind", "check_reference", "is_data_file", "reference_kind"]


class ReferenceKind(Enum):
    """What a reference refers to."""

    NAMED = "named"
    NPZ = "npz"
    NPY = "npy"
    CSV = "csv"
    PARQUET = "parquet"
    FOLDER = "folder"
    FUNCTION = "function"


_OF_SUFFIX = {
    ".npz": ReferenceKind.NPZ,
    ".npy": ReferenceKind.NPY,
    ".csv": ReferenceKind.CSV,
    ".parquet": ReferenceKind.PARQUET,
}


def is_data_file(name: str) -> bool:
    """Whether a reference is, by its ending, a file with data."""
    return PurePath(name).suffix.lower() in _OF_SUFFIX


def check_reference(name: str) -> None:
    """Refuse a reference that cannot be a data set.

    Quick: files are looked for but not opened, and nothing is imported.

    Raises:
        DataError: an unknown name, or a file, folder or module that does not exist.
    """
    reference_kind(name)


def reference_kind(name: str) -> ReferenceKind:
    """What a reference refers to, checked as in `check_reference`.

    Raises:
        DataError: see `check_reference`.
    """
    from foldrace.trainables.data.named.catalogue import CATALOGUE  # needs numpy

    if name in CATALOGUE:
        return ReferenceKind.NAMED
    try:
        path = Path(name).expanduser()
        is_folder = bool(name) and path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError("dataset", name, f"is not a usable path: {error}") from error
    if is_folder:
        return ReferenceKind.FOLDER
    if path.is_file():
        if is_data_file(name):
            return _OF_SUFFIX[path.suffix.lower()]
        rule = f"is neither a file that ends in {', '.join(_OF_SUFFIX)} nor a folder"
        raise DataError("dataset", name, rule, "write it with numpy.savez, or pandas' to_csv")
    if ":" in name:
        _check_function(name)
        return ReferenceKind.FUNCTION
    if "/" in name or name.startswith(("~", ".")) or is_data_file(name):
        hint = f"it would be {path.absolute()}"
        raise DataError("dataset", name, "no such file or folder", hint)
    endings = ", ".join(_OF_SUFFIX)
    hint = f"{nearest(name, CATALOGUE)}; or a file ({endings}), a folder, ./file.py:function"
    raise DataError("dataset", name, "unknown data set", hint)


def _check_function(name: str) -> None:
    where, _, attribute = name.rpartition(":")
    if not attribute.isidentifier():
        raise DataError("dataset", name, "must end in the name of a function: ./file.py:function")
    if where.endswith(".py"):
        file = Path(where).expanduser()
        if not file.is_file():
            raise DataError("dataset", name, f"no such file: {file.absolute()}")
        return
    if not all(part.isidentifier() for part in where.split(".")):
        rule = f"{where or 'nothing'} is neither a .py file nor a module"
        raise DataError("dataset", name, rule)
    # Of package.module only the package can be looked for without importing it.
    package = where.partition(".")[0]
    try:
        known = importlib.util.find_spec(package) is not None
    except ValueError:  # a loaded module without a spec, such as __main__
        known = True
    if not known:
        hint = f"for a file, write ./{package}.py:{attribute}"
        raise DataError("dataset", name, f"no module {package}", hint)
