"""What travels from a laptop to a cluster: the folder of a sweep file, without what git
ignores."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pathspec

from foldrace.errors import InputError

__all__ = ["LIMIT", "files_of", "pack"]

LIMIT = 100 * 10**6
"""Bytes that may travel."""

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


def files_of(folder: Path) -> list[Path]:
    """The files below a folder that travel, in order: none that a .gitignore there or above it, up
    to the repository's root, or git's usual sense, leaves out.

    Raises:
        InputError: a link that leads out of the folder, or to another folder; its target would not
            be there.
    """
    root = folder.resolve()
    return sorted(
        _walk(root, root, [*_rules_above(root), (root, pathspec.GitIgnoreSpec.from_lines(_NEVER))])
    )


def _rules_above(root: Path) -> list[Rule]:
    """Those of the folders between a repository's root and a folder in it; none where there is no
    repository."""
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
        if path.is_symlink() and (path.is_dir() or not path.resolve().is_relative_to(root)):
            rule = (
                "is a link to a folder" if path.is_dir() else f"is a link that leads out of {root}"
            )
            raise InputError(
                "code", str(path), rule, "copy the file there, or name it in .gitignore"
            )
        if directory:
            yield from _walk(root, path, rules)
        elif path.is_file():
            yield path


def _is_ignored(path: Path, directory: bool, rules: list[Rule]) -> bool:
    """The last rule that says something of a path decides."""
    ignored = False
    for place, rule in rules:
        said = rule.check_file(f"{path.relative_to(place).as_posix()}{'/' * directory}").include
        ignored = ignored if said is None else said
    return ignored


def pack(folder: Path, into: Path, *, limit: int = LIMIT) -> list[Path]:
    """Copies what travels; returns the files, relative to both folders.

    Raises:
        InputError: they take more than ``limit`` bytes; the largest are named.
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
            f"holds {total / 1e6:,.0f} MB, and at most {limit / 1e6:,.0f} MB travel; the largest:"
            f" {named}"
        )
        raise InputError("code", str(root), rule, "name in .gitignore what a sweep does not need")
    for path in files:
        target = into / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(path.stat().st_mode & 0o777)
    return [path.relative_to(root) for path in files]
