"""``foldrace cluster check FILE…``: what is wrong with a cluster's file, found without a cloud.

Ray's own validation knows its own keys, and nothing of what a provider is told, of what is open to
whom, or of what is not pinned; that is looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from foldrace.errors import InputError, nearest

__all__ = [
    "LONGEST",
    "PLACEHOLDER",
    "Document",
    "Finding",
    "check_file",
    "items",
    "listens_outside",
    "mapping",
    "pinned",
    "unknown_keys",
]

LONGEST = 200
"""Characters that are shown of what somebody else's validation says."""

PLACEHOLDER = re.compile(r"\b(?:YOUR_[A-Z_]+|(?:HEAD|WORKER)_ADDRESS|SSH_USER)\b")
_CONSTRAINTS = Path(__file__).parent / "templates" / "constraints.txt"
_MOST_VALUES, _DEEPEST = 20_000, 60
_LOOPBACK = r"(?!['\"]?(?:127\.0\.0\.1|localhost|::1)\b)"
_LISTENERS = (
    (
        re.compile(rf"--dashboard-host[ =]{_LOOPBACK}"),
        "the dashboard is to listen on 127.0.0.1; SSH leads there",
    ),
    (
        re.compile(rf"\bmlflow (?:server|ui)\b.*\s(?:--host|-h)[ =]{_LOOPBACK}", re.DOTALL),
        "MLflow is to listen on 127.0.0.1; SSH leads there",
    ),
)
_SECRETS = (
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), "an AWS access key"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"), "a private key"),
    (re.compile(r"://[^/\s:@]+:[^/\s:@$]+@"), "a password in an address"),
    (
        re.compile(
            r"\b\w*(?:PASSWORD|PASSWD|SECRET|SECRET_(?:ACCESS_)?KEY|_TOKEN)=['\"]?(?!YOUR_)[^\s'\"$]"
        ),
        "a secret",
    ),
    (
        re.compile(r"(?i)\b(?:token|password|secret)\w*\s*[=:]\s*['\"]?[0-9a-zA-Z+/]{24,}"),
        "a token or a password",
    ),
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
        return f"{self.file}:{self.line}: " + ": ".join(
            part for part in (self.field, self.rule) if part
        )


class Document:
    """One YAML document of a file, and where its values stand."""

    def __init__(self, path: Path, node: yaml.Node, loader: yaml.SafeLoader) -> None:
        self.path, self._lines, self._loader = path, dict[tuple[Any, ...], int](), loader
        self.twice: list[Finding] = []
        self.values: Any = self._read(node, ())

    def _read(self, node: yaml.Node, place: tuple[Any, ...]) -> Any:
        if len(self._lines) > _MOST_VALUES or len(place) > _DEEPEST:
            raise yaml.YAMLError("it refers to itself, or unfolds to more than anybody reads")
        self._lines[place] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self._read(value, (*place, i)) for i, value in enumerate(node.value)]
        return self._loader.construct_object(node)

    def _read_mapping(self, node: yaml.MappingNode, place: tuple[Any, ...]) -> dict[str, Any]:
        own: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a key must be a word", problem_mark=key.start_mark
                )
            if key.value in own:
                field = ".".join(str(part) for part in (*place, key.value))
                rule = "stands here twice, and only the last one counts"
                self.twice.append(Finding(str(self.path), key.start_mark.line + 1, field, rule))
            own.add(key.value)
        self._loader.flatten_mapping(node)  # what `<<` brings in
        found = {}
        for key, value in node.value:
            found[key.value] = self._read(value, (*place, key.value))
            self._lines[*place, key.value] = key.start_mark.line + 1
        return found

    def finding(self, place: tuple[Any, ...], rule: str) -> Finding:
        """Something amiss at a place, or at what holds it."""
        known = place
        while known not in self._lines:
            known = known[:-1]
        field = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in place
        ).lstrip(".")
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


def mapping(value: Any) -> Mapping[str, Any]:
    """A value that should be a mapping; what is none is told by a schema, and read as an empty
    one."""
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Any]:
    """A value that should be a list, in the same way."""
    return value if isinstance(value, list) else []


def unknown_keys(
    document: Document, place: tuple[Any, ...], given: Iterable[str], known: Iterable[str]
) -> Iterator[Finding]:
    """Those that nobody reads, each with the nearest that is read."""
    known = set(known)
    for key in given:
        if key not in known:
            yield document.finding((*place, key), f"no such key; {nearest(key, known)}")


def listens_outside(command: str) -> Iterator[str]:
    """What a command lets listen on more than the loopback."""
    yield from (rule for pattern, rule in _LISTENERS if pattern.search(command))


def pinned(package: str) -> str:
    """The version of a package in constraints.txt, or the installed one where that file is not at
    hand."""
    if not _CONSTRAINTS.is_file():
        return metadata.version(package)
    found = re.search(rf"^{re.escape(package)}==(\S+)$", _CONSTRAINTS.read_text(), re.MULTILINE)
    if found is None:
        raise InputError("constraints.txt", package, "is not pinned there")
    return found[1]


def check_file(path: Path) -> list[Finding]:
    """All that is amiss in a file for `ray up`, a KubeRay manifest or a Dockerfile, line by line.

    Raises:
        InputError: it cannot be read, or is none of these.
    """
    from foldrace.cluster.check_image import check_dockerfile
    from foldrace.cluster.check_kuberay import check_manifest
    from foldrace.cluster.check_ray_up import check_cluster

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("FILE", str(path), f"cannot be read: {error}") from error
    found = [*_check_text(path, text)]
    if "dockerfile" in path.name.lower():
        return _in_order([*found, *check_dockerfile(path, text)])
    documents = _documents(path, text)
    if not documents:
        raise InputError("FILE", str(path), "is empty")
    for document in documents:
        check = _kind(document, check_cluster, check_manifest)
        if check is None:
            rule = (
                "is neither a file for `ray up` (cluster_name, provider) nor a Kubernetes manifest"
                " (apiVersion, kind)"
            )
            raise InputError("FILE", str(path), rule)
        found += [*document.twice, *check(document)]
    return _in_order(found)


def _documents(path: Path, text: str) -> list[Document]:
    try:
        loader = yaml.SafeLoader(text)
        found = []
        while loader.check_node():
            node = loader.get_node()
            if node is not None and not (isinstance(node, yaml.ScalarNode) and node.value == ""):
                found.append(Document(path, node, loader))
        return found
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        why = getattr(error, "problem", None) or (error if str(error) else "it refers to itself")
        raise InputError("FILE", str(path), f"is no YAML: {where}{why}") from error


def _kind(
    document: Document,
    cluster: Callable[[Document], list[Finding]],
    manifest: Callable[[Document], list[Finding]],
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
                    f"holds {what}, which everyone who sees the file can read; take it from a file"
                    " or the environment"
                )
                yield Finding(str(path), number, "", rule)
        code = line.partition(" #")[0]
        if not line.lstrip().startswith("#") and (found := PLACEHOLDER.search(code)):
            yield Finding(
                str(path), number, "", f"{found[0]} has still to be filled in", open=True
            )
