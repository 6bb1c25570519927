"""The files that are sent to a cluster: a sweep file's folder, without what git ignores."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pathspec

from foldrace.errors import InputError

__all__ = ["LIMIT", "files_of", "pack"]

LIMIT = 100 * 10**6
"""Bytes that may be sent."""

_NEVER = (
    ".git/",
    "__pycache__/",
    "*.pyc",
    ".venv/",
    "venv/",
    ".mypy_cache/",
    ".pytest_cache/",
    ".ruff_cache/",
    "mlruns/",
)
_SHOWN = 5

Rule = tuple[Path, pathspec.GitIgnoreSpec]
"""A folder, and the ignore patterns that apply below it."""


def files_of(folder: Path) -> list[Path]:
    """The files below a folder that are sent, in order.

    Left out is what a ``.gitignore`` names, in the folder or above it up to the repository's root,
    and what is never code (``.git``, virtual environments, caches).

    Raises:
        InputError: a link leads out of the folder, or to another folder; its target would not be
            sent.
    """
    root = folder.resolve()
    never = (root, pathspec.GitIgnoreSpec.from_lines(_NEVER))
    return sorted(_walk(root, root, [*_rules_above(root), never]))


def _rules_above(root: Path) -> list[Rule]:
    """The rules of the folders above, up to the repository's root; none without a repository."""
    folders = [root, *root.parents]
    top = next((i for i, folder in enumerate(folders) if (folder / ".git").exists()), 0)
    return [rule for folder in reversed(folders[1 : top + 1]) for rule in _rules_of(folder)]


def _rules_of(folder: Path) -> list[Rule]:
    ignore = folder / ".gitignore"
    if not ignore.is_file():
        return []
    lines = ignore.read_text(encoding="utf-8", errors="replace").splitlines()
    return [(folder, pathspec.GitIgnoreSpec.from_lines(lines))]


def _walk(root: Path, folder: Path, rules: list[Rule]) -> Iterator[Path]:
    rules = [*rules, *_rules_of(folder)]
    for path in sorted(folder.iterdir()):
        directory = path.is_dir() and not path.is_symlink()
        if _is_ignored(path, directory, rules):
            continue
        if path.is_symlink():
            _check_link(path, root)
        if directory:
            yield from _walk(root, path, rules)
        elif path.is_file():
            yield path


def _check_link(path: Path, root: Path) -> None:
    """Raises: InputError if a link's target would not be sent."""
    if path.is_dir():
        rule = "is a link to a folder"
    elif not path.resolve().is_relative_to(root):
        rule = f"is a link that leads out of {root}"
    else:
        return
    raise InputError("code", str(path), rule, "copy the file there, or name it in .gitignore")


def _is_ignored(path: Path, directory: bool, rules: list[Rule]) -> bool:
    """Whether a path is ignored; the last rule that matches it decides."""
    ignored = False
    for folder, patterns in rules:
        name = f"{path.relative_to(folder).as_posix()}{'/' * directory}"
        match = patterns.check_file(name).include
        ignored = ignored if match is None else match
    return ignored


def pack(folder: Path, into: Path, *, limit: int = LIMIT) -> list[Path]:
    """Copies the files that are sent; returns their paths, relative to both folders.

    Raises:
        InputError: they take more than ``limit`` bytes; the message names the largest.
    """
    root = folder.resolve()
    files = files_of(root)
    sizes = {path: path.stat().st_size for path in files}
    if (total := sum(sizes.values())) > limit:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:_SHOWN]
        named = ", ".join(
            f"{path.relative_to(root)} ({sizes[path] / 1e6:,.1f} MB)" for path in largest
        )
        rule = (
            f"holds {total / 1e6:,.0f} MB, and at most {limit / 1e6:,.0f} MB are sent; the"
            f" largest: {named}"
        )
        raise InputError("code", str(root), rule, "name in .gitignore what a sweep does not need")
    for path in files:
        target = into / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(path.stat().st_mode & 0o777)
    return [path.relative_to(root) for path in files]
