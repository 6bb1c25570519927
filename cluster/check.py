"""``foldrace cluster check FILE…``: what is wrong with a cluster's file, found without a cloud.

Ray's own validation knows its own keys, and nothing of what a provider is told, of what is open to whom, or of what is
not pinned; that is looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainables.errors import InputError

__all__ = ["Document", "Finding", "check_file", "pinned"]

_CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
_PLACEHOLDER = re.compile(r"\b(?:YOUR_[A-Z_]+|(?:HEAD|WORKER)_ADDRESS|SSH_USER)\b")
_SECRETS = (
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), "an AWS access key"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"), "a private key"),
    (re.compile(r"://[^/\s:@]+:[^/\s:@$]+@"), "a password in an address"),
    (re.compile(r"(?i)\b(?:token|password|secret)\w*\s*[=:]\s*['\"]?[0-9a-zA-Z+/]{24,}"), "a token or a password"),
)


@dataclass(frozen=True)
class Finding:
    """Something amiss: where, and what to do.

    Attributes:
        field: the path of keys; empty for a line that has none.
        open: nothing is wrong, but a line has still to be filled in.
    """

    file: str
    line: int
    field: str
    rule: str
    open: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: " + ": ".join(part for part in (self.field, self.rule) if part)


class Document:
    """One YAML document of a file, and where its values stand."""

    def __init__(self, path: Path, node: yaml.Node) -> None:
        self.path, self._lines = path, dict[tuple[Any, ...], int]()
        self.values: Any = self._read(node, ())
        self.line = node.start_mark.line + 1

    def _read(self, node: yaml.Node, place: tuple[Any, ...]) -> Any:
        self._lines[place] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            found = {}
            for key, value in node.value:
                found[key.value] = self._read(value, (*place, key.value))
                self._lines[*place, key.value] = key.start_mark.line + 1
            return found
        if isinstance(node, yaml.SequenceNode):
            return [self._read(value, (*place, i)) for i, value in enumerate(node.value)]
        return yaml.safe_load(yaml.serialize(node))

    def finding(self, place: tuple[Any, ...], rule: str) -> Finding:
        """Something amiss at a place, or at what holds it."""
        known = place
        while known not in self._lines:
            known = known[:-1]
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
        return Finding(str(self.path), self._lines[known], field, rule)

    def walk(self) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Every (place, value) in it."""
        yield from _walk(self.values, ())


def _walk(value: Any, place: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield place, value
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _walk(below, (*place, key))
    elif isinstance(value, list):
        for i, below in enumerate(value):
            yield from _walk(below, (*place, i))


def pinned(package: str) -> str:
    """The version of a package in constraints.txt."""
    found = re.search(rf"^{re.escape(package)}==(\S+)$", _CONSTRAINTS.read_text(), re.MULTILINE)
    if found is None:
        raise InputError("constraints.txt", package, "is not pinned there")
    return found[1]


def check_file(path: Path) -> list[Finding]:
    """All that is amiss in a file for `ray up`, a KubeRay manifest or a Dockerfile, line by line.

    Raises:
        InputError: it cannot be read, or is none of these.
    """
    from cluster.check_image import check_dockerfile
    from cluster.check_kuberay import check_manifest
    from cluster.check_ray_up import check_cluster

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("FILE", str(path), f"cannot be read: {error}") from error
    found = [*_check_text(path, text)]
    if path.name.startswith("Dockerfile"):
        return _in_order([*found, *check_dockerfile(path, text)])
    try:
        documents = [
            Document(path, node) for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None
        ]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise InputError("FILE", str(path), f"is no YAML: {where}{getattr(error, 'problem', error)}") from error
    for document in documents:
        check = _kind(document, check_cluster, check_manifest)
        if check is None:
            rule = (
                "is neither a file for `ray up` (cluster_name, provider) nor a Kubernetes manifest (apiVersion, kind)"
            )
            raise InputError("FILE", str(path), rule)
        found += check(document)
    return _in_order(found)


def _kind(
    document: Document, cluster: Callable[[Document], list[Finding]], manifest: Callable[[Document], list[Finding]]
) -> Callable[[Document], list[Finding]] | None:
    values = document.values
    if not isinstance(values, Mapping):
        return None
    if "apiVersion" in values and "kind" in values:
        return manifest
    return cluster if {"cluster_name", "provider"} & set(values) else None


def _in_order(found: list[Finding]) -> list[Finding]:
    return sorted(dict.fromkeys(found), key=lambda finding: (finding.line, finding.open))


def _check_text(path: Path, text: str) -> Iterator[Finding]:
    """Secrets, and lines that have still to be filled in."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, what in _SECRETS:
            if pattern.search(line):
                rule = (
                    f"holds {what}, which everyone who sees the file can read; take it from a file or the environment"
                )
                yield Finding(str(path), number, "", rule)
        code = line.partition(" #")[0]
        if not line.lstrip().startswith("#") and (found := _PLACEHOLDER.search(code)):
            yield Finding(str(path), number, "", f"{found[0]} has still to be filled in", open=True)
