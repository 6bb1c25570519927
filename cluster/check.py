"""``foldrace cluster check``: problems of a cluster's file that can be found offline.

Looked for in a file for ``ray up``, a Kubernetes manifest or a Dockerfile:

- placeholders that are still to be filled in;
- what Ray's own validation refuses (files for ``ray up``);
- versions of images and packages that are not pinned, or not as constraints.txt pins them;
- what would listen or be reachable outside, and a Ray that asks nobody for the token;
- secrets that everyone who sees the file could read.

The values of a cloud, and a manifest's keys, are not checked: ``ray up`` and ``kubectl apply
--dry-run=server`` do that.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from foldrace.cluster.template_files import pinned
from foldrace.errors import InputError, nearest

__all__ = ["Problem", "check_file"]

Keys = tuple[str | int, ...]

_MOST_VALUES, _DEEPEST = 20_000, 60
_LONGEST = 200  # characters shown of Ray's message
_PLACEHOLDER = re.compile(r"\b(?:YOUR_[A-Z_]+|(?:HEAD|WORKER)_ADDRESS|SSH_USER)\b")
_LOOPBACK = r"(?!['\"]?(?:127\.0\.0\.1|localhost|::1)\b)"
_SECRETS = {
    r"\bAKIA[0-9A-Z]{16}\b": "an AWS access key",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----": "a private key",
    r"://[^/\s:@]+:[^/\s:@$]+@": "a password in an address",
    r"\b\w*(?:PASSWORD|PASSWD|SECRET|SECRET_(?:ACCESS_)?KEY|_TOKEN)=['\"]?(?!YOUR_)[^\s'\"$]": (
        "a secret"
    ),
    r"(?i)\b(?:token|password|secret)\w*\s*[=:]\s*['\"]?[0-9a-zA-Z+/]{24,}": (
        "a token or a password"
    ),
}
_COMMANDS = {
    rf"--dashboard-host[ =]{_LOOPBACK}": "the dashboard must listen on 127.0.0.1; use a tunnel",
    rf"(?s)\bmlflow (?:server|ui)\b.*\s(?:--host|-h)[ =]{_LOOPBACK}": (
        "MLflow must listen on 127.0.0.1; use a tunnel"
    ),
    r"\bRAY_AUTH_MODE[= ]['\"]?(?!token\b)\w": "switches the token off; set RAY_AUTH_MODE=token",
}
_OUTSIDE = "is reachable from outside; leave it out, and use a tunnel"
_VALUES = {  # of a key: the values that are wrong, and why
    "serviceType": (r"LoadBalancer|NodePort", _OUTSIDE),
    "type": (r"LoadBalancer|NodePort", _OUTSIDE),
    "kind": (r"Ingress", _OUTSIDE),
    "enableIngress": (r"true", _OUTSIDE),
    "hostNetwork": (r"true", _OUTSIDE),
    "hostPort": (r".+", _OUTSIDE),
    "dashboard-host": (rf"{_LOOPBACK}.+", "the dashboard must listen on 127.0.0.1; use a tunnel"),
}
_INSTRUCTIONS = {  # of a Dockerfile
    r"(?i)EXPOSE ": _OUTSIDE,
    r"(?i)(?:COPY|ADD) .*\bauth_token\b": "puts the token into an image; mount it where it runs",
}


@dataclass(frozen=True)
class Problem:
    """A problem in a file, and what to do.

    Attributes:
        file: its path.
        line: counted from 1.
        field: the path of keys, or a Dockerfile's instruction, or "".
        rule: what is wrong.
        placeholder: whether the line is only still to be filled in.
    """

    file: str
    line: int
    field: str
    rule: str
    placeholder: bool = False

    def __str__(self) -> str:
        parts = (self.field, self.rule)
        return f"{self.file}:{self.line}: " + ": ".join(part for part in parts if part)


@dataclass(frozen=True)
class _Value:
    """A scalar of a YAML document, several that belong together, or a Dockerfile's instruction."""

    line: int
    keys: Keys
    text: str


def check_file(path: Path) -> list[Problem]:
    """The problems of a file for ``ray up``, a Kubernetes manifest or a Dockerfile, line by line.

    Raises:
        InputError: it cannot be read, or is none of these.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("FILE", str(path), f"cannot be read: {error}") from error
    read = _check_dockerfile if "dockerfile" in path.name.lower() else _check_yaml
    found = {  # each once
        Problem(str(path), line, _field(keys), rule, rule.endswith(_TO_FILL_IN)): None
        for line, keys, rule in (*_check_lines(text), *read(path, text))
    }
    return sorted(found, key=lambda problem: (problem.line, problem.placeholder))


_TO_FILL_IN = " is still to be filled in"
_Found = Iterator[tuple[int, Keys, str]]


def _field(keys: Keys) -> str:
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys).lstrip(".")


def _check_lines(text: str) -> _Found:
    """Secrets, comments included, and placeholders, comments left out."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, what in _SECRETS.items():
            if re.search(pattern, line):
                yield number, (), _secret(what)
        code = "" if line.lstrip().startswith("#") else line.partition(" #")[0]
        if found := _PLACEHOLDER.search(code):
            yield number, (), found[0] + _TO_FILL_IN


def _secret(what: str) -> str:
    remedy = "take it from a file or the environment"
    return f"holds {what}, which everyone who sees the file can read; {remedy}"


def _check_command(text: str) -> Iterator[str]:
    """What is wrong with a shell command: listeners, the token, installed versions."""
    yield from (rule for pattern, rule in _COMMANDS.items() if re.search(pattern, text))
    for part in re.split(r"&&|\|\||[;\n]", text):
        found = re.search(r"\bpip3? install\b(.*)", part)
        if not found:
            continue
        packages = [word.strip("'\"") for word in found[1].split() if not word.startswith("-")]
        exact = all(re.search(r"==[\w.]+$|\.whl(?:\)?\[.*\])?$|@ ", word) for word in packages)
        limited = re.search(r"\s(?:--constraints?|-c|--requirements?|-r)(?:[ =]|$)", found[1])
        if not limited and not (packages and exact):
            yield "installs what is newest that day; add --constraint constraints.txt"
        ray = re.search(r"\bray(?:\[[^\]]*\])?==([\w.]+)", found[1])
        if ray and ray[1] != pinned("ray"):
            yield f"installs Ray {ray[1]}, and constraints.txt pins {pinned('ray')}"


def _check_image(image: str) -> Iterator[str]:
    """What is wrong with an image's name: no version, or another Ray than the pinned one."""
    name, _, digest = image.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, ""
    right = f"{pinned('ray')}-py311-gpu"
    if repository.endswith("rayproject/ray-ml"):
        yield f"{image}: ray-ml has not been built since Ray 2.50; use rayproject/ray:{right}"
    elif not digest and tag.split("-")[0] in ("", "latest", "nightly", "main", "master"):
        yield f"{image}: is not pinned: give it a tag with a version, as {repository}:{right}"
    else:
        official = repository.endswith("rayproject/ray")
        found = re.search(r"^(\d+\.\d+\.\d+)" if official else r"ray(\d+\.\d+\.\d+)", tag)
        if found and found[1] != pinned("ray"):
            yield f"{image}: has Ray {found[1]}, and constraints.txt pins {pinned('ray')}"


def _check_dockerfile(path: Path, text: str) -> _Found:
    stages = {"scratch"}
    for number, instruction in _instructions(text):
        word, _, rest = instruction.partition(" ")
        rules = [rule for p, rule in _INSTRUCTIONS.items() if re.match(p, instruction)]
        if word.upper() == "FROM":
            words = [option for option in rest.split() if not option.startswith("--")]
            if not {*words[:1]} & stages and "$" not in rest:
                rules += _check_image(words[0] if words else "")
            stages.update(words[2:3])
        # the words of ["a", "b"]
        command = re.sub(r"[\[\]\"',]+", " ", rest) if rest.startswith("[") else rest
        rules += _check_command(" ".join(command.split()))
        yield from ((number, (word.upper(),), rule) for rule in rules)


def _instructions(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of each instruction of a Dockerfile, with its continued lines joined."""
    began, whole = 0, ""
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.lstrip().startswith("#") or not (whole or line.strip()):
            continue
        began = began or number
        whole += line.strip().removesuffix("\\") + " "
        if not line.rstrip().endswith("\\"):
            yield began, whole.strip()
            began, whole = 0, ""


def _check_yaml(path: Path, text: str) -> _Found:
    """Raises: InputError if it is not YAML, or neither for ``ray up`` nor for Kubernetes."""
    documents = _documents(path, text)
    if not documents:
        raise InputError("FILE", str(path), "is empty")
    for content, values in documents:
        keys = set(content) if isinstance(content, Mapping) else set()
        manifest = {"apiVersion", "kind"} <= keys
        if not manifest and not {"cluster_name", "provider"} & keys:
            rule = "is neither a file for `ray up` (cluster_name, provider) nor a Kubernetes"
            raise InputError("FILE", str(path), f"{rule} manifest (apiVersion, kind)")
        yield from _check_values(values)
        lines = {value.keys: value.line for value in reversed(values)}
        for place, rule in (_check_manifest if manifest else _check_ray_up)(content, values):
            known = place
            while known not in lines:
                known = known[:-1]
            yield lines[known], place, rule


def _documents(path: Path, text: str) -> list[tuple[Any, list[_Value]]]:
    """The content and the values of each document of a file. Raises: InputError."""
    found = []
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            # Before the content is built, which would never end if it refers to itself.
            values = [*_values(node)]
            found.append((loader.construct_document(node), values))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        why = getattr(error, "problem", None) or str(error) or "it refers to itself"
        raise InputError("FILE", str(path), f"is no YAML: {where}{why}") from error
    return [(content, values) for content, values in found if content is not None]


def _values(node: yaml.Node) -> Iterator[_Value]:
    """Every value below a node in the file's order, containers included (as "").

    Also what belongs together: the words of a ``command`` or ``args`` as one command, and a
    ``name`` and ``value`` side by side as NAME=VALUE.
    """
    stack: list[tuple[yaml.Node, Keys, int]] = [(node, (), node.start_mark.line + 1)]
    count = 0
    while stack:
        node, keys, line = stack.pop()
        count += 1
        if count > _MOST_VALUES or len(keys) > _DEEPEST:
            raise yaml.YAMLError("it refers to itself, or unfolds to more than anybody reads")
        yield _Value(line, keys, node.value if isinstance(node, yaml.ScalarNode) else "")
        below: list[tuple[yaml.Node, Keys, int]] = []
        if isinstance(node, yaml.SequenceNode):
            below = [(v, (*keys, i), v.start_mark.line + 1) for i, v in enumerate(node.value)]
            if keys[-1:] in (("command",), ("args",)):
                yield _Value(line, keys, " ".join(str(v.value) for v in node.value))
        elif isinstance(node, yaml.MappingNode):
            below = [(v, (*keys, str(k.value)), k.start_mark.line + 1) for k, v in node.value]
            pair = {str(k.value): v.value for k, v in node.value if isinstance(v, yaml.ScalarNode)}
            if {"name", "value"} <= pair.keys():
                yield _Value(line, (*keys, "value"), f"{pair['name']}={pair['value']}")
        stack += reversed(below)


def _check_values(values: Iterable[_Value]) -> _Found:
    """What is wrong with single values of a document, whatever kind it has."""
    for value in values:
        rules = [*_check_command(value.text)]
        rules += [_secret(what) for p, what in _SECRETS.items() if re.search(p, value.text)]
        name = value.keys[-1] if value.keys else ""
        if name in ("image", "head_image", "worker_image") and value.text:
            rules += _check_image(value.text)
        elif name in ("aws_credentials", "gcp_credentials"):
            rules.append(_secret("credentials"))
        elif name == "rayVersion" and value.text != pinned("ray"):
            rules.append(f"{value.text}: constraints.txt pins {pinned('ray')}")
        elif name in _VALUES and re.fullmatch(_VALUES[str(name)][0], value.text):
            rules.append(f"{value.text}: {_VALUES[str(name)][1]}")
        yield from ((value.line, value.keys, rule) for rule in rules)


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _check_manifest(content: Any, values: list[_Value]) -> Iterator[tuple[Keys, str]]:
    """A Kubernetes manifest: Ray's token, secrets, and who may come in."""
    spec = _mapping(content.get("spec"))
    kind = content["kind"]
    if kind == "RayCluster" and _mapping(spec.get("authOptions")).get("mode") != "token":
        yield ("spec", "authOptions"), "must be {mode: token}; else anybody could run code"
    if kind == "Secret":
        for name in {"data", "stringData"} & set(content):
            yield (name,), _secret("a secret")
    for i, rule in enumerate(_items(spec.get("ingress")) if kind == "NetworkPolicy" else []):
        sources = _items(_mapping(rule).get("from"))
        if not sources or any(not one or _mapping(one).get("ipBlock") for one in sources):
            yield ("spec", "ingress", i), "lets everybody or addresses in; name pods (podSelector)"


def _check_ray_up(content: Any, values: list[_Value]) -> Iterator[tuple[Keys, str]]:
    """A file for ``ray up``: Ray's own validation, Ray's token, and who may come in."""
    import jsonschema  # type: ignore[import-untyped]

    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)
    from ray.autoscaler._private.util import prepare_config, validate_config

    if not any("RAY_AUTH_MODE=token" in value.text for value in values):
        yield (), "RAY_AUTH_MODE=token is set nowhere: Ray would ask nobody for a token"
    group = _mapping(_mapping(content.get("provider")).get("security_group"))
    for i, rule in enumerate(_items(group.get("IpPermissions"))):
        ports = {_mapping(rule).get(name) for name in ("FromPort", "ToPort")}
        if ports != {22}:
            place = ("provider", "security_group", "IpPermissions", i)
            yield place, "only SSH (22) may be reachable from outside; the rest goes through it"
    try:
        validate_config(prepare_config(content))
    except jsonschema.ValidationError as error:
        place, known = tuple(error.absolute_path), _mapping(error.schema).get("properties", {})
        unknown = re.findall(r"'([^']+)'", error.message)
        if error.validator == "additionalProperties" and unknown:
            yield (*place, unknown[0]), f"no such key; {nearest(unknown[0], known)}"
        else:
            yield place, error.message[:_LONGEST]
    except Exception as error:  # Ray raises errors of many kinds
        message = str(error) or type(error).__name__
        yield (), f"Ray refuses it: {message[:_LONGEST]}"
