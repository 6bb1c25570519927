"""The source code that a user's object is made of: its module, and what that imports of theirs."""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.util
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from foldrace.trainables.user_code import is_of_file

__all__ = ["is_of_project", "project_sources", "same_code", "sources_digest"]

_STANDARD = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
_INSTALLED = {"site-packages", "dist-packages"}
_IMPORTERS = {"import_module", "__import__"}


def project_sources(module: ModuleType) -> dict[str, str]:
    """The source of a module, and of every project module that it imports, by its name.

    A project module is one that belongs neither to the standard library, nor to an installed
    package, nor to Foldrace. Imports are found in the source, also those inside functions, and
    those of `importlib.import_module` if it is given a literal name, or a name that stands for
    one. So the same code has the same
    sources, wherever it lies and whatever else the process has imported.

    Args:
        module: an imported one; it belongs to the sources even if it is installed.

    Returns:
        By dotted name, or by file name for a module that was imported from a file: the text, or
        ``sha256:…`` of a module that is not text in UTF-8.
    """
    found: dict[str, str] = {}
    own = Path(module.__file__ or "")
    places = {own.name if is_of_file(module) else module.__name__: own}
    while places:
        name, path = places.popitem()
        try:
            content = path.read_bytes()
        except OSError:  # inside an archive, or built on the fly
            continue
        found[name] = _text(content)
        for imported in _imports(content, name, path):
            known = imported in found or imported in places
            if not known and (file := _project_file(imported)) is not None:
                places[imported] = file
    return dict(sorted(found.items()))


def is_of_project(module: ModuleType) -> bool:
    """Whether a module is the user's own: a file's, or one that is not installed."""
    return is_of_file(module) or _project_file(module.__name__) is not None


def same_code(one: str, other: str) -> bool:
    """Whether two sources are the same program: comments, layout and docstrings do not count.

    >>> same_code("x = 1  # one", "x = (1)"), same_code("x = 1", "x = 2")
    (True, False)
    """
    try:
        return one == other or _program(one) == _program(other)
    except (SyntaxError, ValueError, RecursionError):
        return False


def sources_digest(sources: Mapping[str, str]) -> str:
    """SHA-256, in hex, of the names and the texts; empty if there are none."""
    if not sources:
        return ""
    return hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _program(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        match node:
            case (
                ast.Module(body=body)
                | ast.ClassDef(body=body)
                | ast.FunctionDef(body=body)
                | ast.AsyncFunctionDef(body=body)
            ) if body:
                match body[0]:
                    case ast.Expr(value=ast.Constant(value=str())):
                        del body[0]
    return ast.dump(tree)


def _imports(content: bytes, name: str, path: Path) -> Iterator[str]:
    """The names of all modules that a source may import, packages before what is in them."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):  # compiled code, for instance
        return
    importers, texts = _importers_and_texts(tree)
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    if name == path.name:  # imported from a file, outside any package
        package = ""
    yield from _with_parents(package)  # which Python imports before the module itself
    for node in ast.walk(tree):
        for imported in _named(node, package, importers, texts):
            yield from _with_parents(imported)


def _importers_and_texts(tree: ast.Module) -> tuple[set[str], dict[str, str]]:
    """What `importlib.import_module` is called in a module, and the texts that names stand for."""
    importers, texts = set(_IMPORTERS), dict[str, str]()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module="importlib", names=names):
                importers |= {alias.asname for alias in names if alias.asname}
            case (
                ast.Assign(targets=[ast.Name(id=target)], value=ast.Constant(value=str(text)))
                | ast.AnnAssign(target=ast.Name(id=target), value=ast.Constant(value=str(text)))
            ):
                texts[target] = text
    return importers, texts


def _with_parents(name: str) -> Iterator[str]:
    """``a.b.c`` → ``a``, ``a.b``, ``a.b.c``."""
    parts = name.split(".") if name else []
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def _named(
    node: ast.AST, package: str, importers: set[str], texts: dict[str, str]
) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            above = package.split(".")[: max(0, len(package.split(".")) - level + 1)]
            base = ".".join(filter(None, [*(above if level else ()), module]))
            yield from (f"{base}.{alias.name}" for alias in names if base)
        case ast.Call(
            func=ast.Name(id=called) | ast.Attribute(attr=called),
            args=args,
            keywords=keywords,
        ) if called in importers:
            named = [keyword.value for keyword in keywords if keyword.arg == "name"]
            match [*args, *named]:
                case [ast.Constant(value=str(text)), *_]:
                    pass
                case [ast.Name(id=constant), *_]:
                    text = texts.get(constant, "")
                case _:
                    text = ""
            if text:
                with suppress(ImportError):  # beyond the top-level package
                    yield importlib.util.resolve_name(text, package)


def _project_file(name: str) -> Path | None:
    """The file of a project module; None if it is not one, or not a module at all."""
    if name.partition(".")[0] == "foldrace":
        return None
    spec = _spec(name)
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    path = Path(spec.origin)
    if _INSTALLED & set(path.parts) or any(map(path.resolve().is_relative_to, _STANDARD)):
        return None
    return path


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is; nothing is imported for it."""
    above, _, _ = name.rpartition(".")
    try:
        if not above:
            return importlib.util.find_spec(name)
        parent = _spec(above)
        if parent is None or parent.submodule_search_locations is None:
            return None
        return importlib.machinery.PathFinder.find_spec(name, parent.submodule_search_locations)
    except (ImportError, ValueError, AttributeError):  # a module without a spec, for instance
        return None
