"""Imports the classes and functions of a user: ``./file.py:Name`` or ``package.module:Name``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from foldrace.errors import InputError, nearest

__all__ = ["add_folder", "is_of_file", "load_object", "place_and_name", "referenced_module"]

_PREFIX = "_foldrace_"


def load_object(
    reference: str, field: str, noun: str = "", error: type[InputError] = InputError
) -> Any:
    """Import what ``./file.py:Name`` or ``package.module:Name`` refers to.

    A file is imported under a private name, so that it cannot collide with an installed module,
    and is read again at every call. It may import what lies beside it. A module is also looked for
    in the current folder.

    Args:
        reference: where the object is; a relative path starts at the current folder.
        field: the field that an error names: ``task``.
        noun: what the object has to be, for messages; a ``"function"`` must be callable.
        error: the class of the error.

    Raises:
        InputError: no such file or name, or the import raises an exception.
    """
    where, _, name = reference.rpartition(":")
    if where.endswith(".py"):
        module = _import_file(Path(where), field, error)
    else:
        add_folder(Path.cwd())
        try:
            module = importlib.import_module(where)
        except (Exception, SystemExit) as cause:
            rule = (
                f"module {where} does not import: {type(cause).__name__}: {cause}{_moved(cause)}"
            )
            raise error(field, reference, rule) from cause
    found = getattr(module, name, None)
    if found is None or (noun == "function" and not callable(found)):
        own = [
            other
            for other, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        ]
        missing = " ".join(filter(None, (f"{where} has no", noun, name)))
        raise error(field, reference, missing, nearest(name, own) if own else "")
    return found


def place_and_name(reference: str) -> tuple[str, str]:
    """A reference's file, folder or module, and the rest of it.

    >>> place_and_name("./models.py:Mine"), place_and_name("models.dae:X"), place_and_name("x.npz")
    (('./models.py', ':Mine'), ('models.dae:X', ''), ('x.npz', ''))
    """
    where, colon, attribute = reference.rpartition(":")
    return (where, colon + attribute) if where.endswith(".py") else (reference, "")


def referenced_module(reference: str) -> ModuleType:
    """The module of what `load_object` has loaded by this reference."""
    where = reference.rpartition(":")[0]
    return sys.modules[_file_module(Path(where)) if where.endswith(".py") else where]


def is_of_file(module: ModuleType) -> bool:
    """Whether a module was imported from a file, so that no other process can import it."""
    return module.__name__.startswith(_PREFIX)


def _file_module(path: Path) -> str:
    """The private name of a file's module."""
    path = path.expanduser().resolve()
    return f"{_PREFIX}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _import_file(path: Path, field: str, error: type[InputError]) -> ModuleType:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise error(field, str(path), "no such file")
    name = _file_module(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    add_folder(path.parent)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as cause:
        del sys.modules[name]
        rule = f"does not import: {type(cause).__name__}: {cause}{_moved(cause)}"
        raise error(field, str(path), rule) from cause
    return module


def add_folder(folder: Path) -> None:
    """Let modules in this folder be imported, after all others: also late, and by workers here."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _moved(cause: BaseException) -> str:
    """A hint where the code imports a part of Foldrace by a name that it had before."""
    missing = (getattr(cause, "name", None) or "") if isinstance(cause, ImportError) else ""
    if missing.removeprefix("foldrace.").partition(".")[0] != "trainables":
        return ""
    return "; Foldrace is imported as `foldrace`: `from foldrace import layers, Parameter`"
