"""``foldrace cluster check``: problems of a cluster's file that can be found offline.

These are placeholders that are left, what Ray's own validation refuses, versions that are not as
constraints.txt pins them, what would be reachable from outside, and secrets. A cloud's settings
and a manifest's keys are not checked; ``kubectl apply --dry-run=server`` checks the latter.
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
from foldrace.errors import InputError, first_line, nearest

__all__ = ["Problem", "check_file"]

_Keys = tuple[str | int, ...]
_Value = tuple[int, _Keys, str]  # line, path of keys, text
_Found = Iterator[tuple[int, _Keys, str]]  # line, path of keys, what is wrong

_MOST_VALUES, _DEEPEST = 20_000, 60
_LONGEST = 200  # characters shown of Ray's message
_PLACEHOLDER = re.compile(r"\b(?:YOUR_[A-Z_]+|(?:HEAD|WORKER)_ADDRESS|SSH_USER)\b")
_LOOPBACK = r"(?!['\"]?(?:127\.0\.0\.1|localhost|::1)\b)"
_SECRET_VARIABLE = r"\w*(?:PASSWORD|PASSWD|SECRET|SECRET_(?:ACCESS_)?KEY|_TOKEN)"
_SECRETS = {
    r"\bAKIA[0-9A-Z]{16}\b": "an AWS access key",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----": "a private key",
    r"://[^/\s:@]+:[^/\s:@$]+@": "a password in an address",
    rf"\b{_SECRET_VARIABLE}=['\"]?(?!YOUR_)[^\s'\"$]": "a secret",
    r"(?i)\b(?:token|password|secret)\w*\s*[=:]\s*['\"]?[0-9a-zA-Z+/]{24,}": "a token or password",
}
_OUTSIDE = "is reachable from outside; leave it out, and use a tunnel"
_COMMANDS = {
    rf"--dashboard-host[ =]{_LOOPBACK}": "the dashboard must listen on 127.0.0.1; use a tunnel",
    rf"(?s)\bmlflow (?:server|ui)\b.*\s(?:--host|-h)[ =]{_LOOPBACK}": (
        "MLflow must listen on 127.0.0.1; use a tunnel"
    ),
    r"\bRAY_AUTH_MODE[= ]['\"]?(?!token\b)\w": "switches the token off; set RAY_AUTH_MODE=token",
    r"(?i)^(?:COPY|ADD) .*\bauth_token\b": "puts the token into an image; mount it where it runs",
    r"(?i)^EXPOSE ": _OUTSIDE,
}
_REACHABLE = {  # by key, values that let others in
    "serviceType": "LoadBalancer|NodePort",
    "type": "LoadBalancer|NodePort",
    "kind": "Ingress",
    "enableIngress": "true",
    "hostNetwork": "true",
    "hostPort": ".+",
    "dashboard-host": f"{_LOOPBACK}.+",
}


@dataclass(frozen=True)
class Problem:
    """A problem in a file: its line, its path of keys or "", and what is wrong.

    A ``placeholder`` is a line that is right but for what is still to be filled in.
    """

    file: str
    line: int
    field: str
    rule: str
    placeholder: bool = False

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else ""
        return f"{self.file}:{self.line}: {field}{self.rule}"


def check_file(path: Path) -> list[Problem]:
    """The problems of a file for ``ray up``, a Kubernetes manifest or a Dockerfile, line by line.

    Raises:
        InputError: it cannot be read, or is none of these.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("FILE", str(path), f"cannot be read: {first_line(error)}") from error
    check = _check_dockerfile if "dockerfile" in path.name.lower() else _check_yaml
    found = [Problem(str(path), n, _field(keys), rule) for n, keys, rule in check(path, text)]
    for number, line in enumerate(text.splitlines(), 1):
        secrets = [what for pattern, what in _SECRETS.items() if re.search(pattern, line)]
        found += [Problem(str(path), number, "", _secret(what)) for what in secrets]
        code = "" if line.lstrip().startswith("#") else line.partition(" #")[0]
        if left := _PLACEHOLDER.search(code):
            rule = f"{left[0]} is still to be filled in"
            found.append(Problem(str(path), number, "", rule, placeholder=True))
    return sorted({*found}, key=lambda problem: (problem.line, problem.placeholder, str(problem)))


def _field(keys: _Keys) -> str:
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in keys).lstrip(".")


def _secret(what: str) -> str:
    return f"holds {what}, readable by all who see the file; take it from the environment"


def _check_command(text: str) -> Iterator[str]:
    """What is wrong with a shell command: listeners, the token, installed versions."""
    yield from (rule for pattern, rule in _COMMANDS.items() if re.search(pattern, text))
    for part in re.split(r"&&|\|\||[;\n]", text):
        if not (found := re.search(r"\bpip3? install\b(.*)", part)):
            continue
        packages = [word.strip("'\"") for word in found[1].split() if not word.startswith("-")]
        exact = all(re.search(r"==[\w.]+$|\.whl(?:\[.*\])?$|@ ", word) for word in packages)
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
    official = repository.endswith("rayproject/ray")
    found = re.search(r"^(\d+\.\d+\.\d+)" if official else r"ray(\d+\.\d+\.\d+)", tag)
    if repository.endswith("rayproject/ray-ml"):
        yield f"{image}: ray-ml has not been built since Ray 2.50; use rayproject/ray:{right}"
    elif not digest and tag.split("-")[0] in ("", "latest", "nightly", "main", "master"):
        yield f"{image}: is not pinned: give it a tag with a version, as {repository}:{right}"
    elif found and found[1] != pinned("ray"):
        yield f"{image}: has Ray {found[1]}, and constraints.txt pins {pinned('ray')}"


def _check_dockerfile(path: Path, text: str) -> _Found:
    stages = {"scratch"}
    for number, instruction in _instructions(text):
        word, _, rest = instruction.partition(" ")
        rules: list[str] = []
        if word.upper() == "FROM":
            words = [option for option in rest.split() if not option.startswith("--")]
            if not {*words[:1]} & stages and "$" not in rest:
                rules += _check_image(words[0] if words else "")
            stages.update(words[2:3])
        words = re.sub(r"[\[\]\"',]+", " ", rest).split() if rest.startswith("[") else [rest]
        rules += _check_command(" ".join([word, *words]))
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
    for content, values in _documents(path, text):
        keys = set(content) if isinstance(content, Mapping) else set()
        manifest = {"apiVersion", "kind"} <= keys
        if not manifest and not {"cluster_name", "provider"} & keys:
            rule = "is neither a file for `ray up` (cluster_name, provider) nor a Kubernetes"
            raise InputError("FILE", str(path), f"{rule} manifest (apiVersion, kind)")
        yield from _check_values(values)
        lines = {keys: line for line, keys, _ in reversed(values)}
        for place, rule in (_check_manifest if manifest else _check_ray_up)(content, values):
            known = [place[:n] for n in range(len(place), -1, -1) if place[:n] in lines]
            yield lines[known[0]], place, rule


def _documents(path: Path, text: str) -> list[tuple[Any, list[_Value]]]:
    """The content and the values of each document of a file. Raises: InputError."""
    found = []
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_node() and (node := loader.get_node()):
            # Before the content is built, which would never end if it refers to itself.
            values = [*_values(node)]
            if (content := loader.construct_document(node)) is not None:
                found.append((content, values))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        why = getattr(error, "problem", None) or str(error) or "it refers to itself"
        raise InputError("FILE", str(path), f"is no YAML: {where}{why}") from error
    if not found:
        raise InputError("FILE", str(path), "is empty")
    return found


def _values(node: yaml.Node) -> Iterator[_Value]:
    """Every value below a node in the file's order, containers included (as "").

    Also what belongs together: the words of a ``command`` or ``args`` as one command, and a
    ``name`` and ``value`` side by side as NAME=VALUE.
    """
    stack: list[tuple[yaml.Node, _Keys, int]] = [(node, (), node.start_mark.line + 1)]
    count = 0
    while stack:
        node, keys, line = stack.pop()
        count += 1
        if count > _MOST_VALUES or len(keys) > _DEEPEST:
            raise yaml.YAMLError("it refers to itself, or unfolds to more than anybody reads")
        yield (line, keys, node.value if isinstance(node, yaml.ScalarNode) else "")
        below: list[tuple[yaml.Node, _Keys, int]] = []
        if isinstance(node, yaml.SequenceNode):
            below = [(v, (*keys, i), v.start_mark.line + 1) for i, v in enumerate(node.value)]
            if keys[-1:] in (("command",), ("args",)):
                yield (line, keys, " ".join(str(v.value) for v in node.value))
        elif isinstance(node, yaml.MappingNode):
            below = [(v, (*keys, str(k.value)), k.start_mark.line + 1) for k, v in node.value]
            pair = {str(k.value): v.value for k, v in node.value if isinstance(v, yaml.ScalarNode)}
            if {"name", "value"} <= pair.keys():
                yield (line, (*keys, "value"), f"{pair['name']}={pair['value']}")
        stack += reversed(below)


def _check_values(values: Iterable[_Value]) -> _Found:
    """What is wrong with single values of a document, whatever kind it has."""
    for line, keys, text in values:
        rules = [*_check_command(text)]
        rules += [_secret(what) for p, what in _SECRETS.items() if re.search(p, text)]
        name = str(keys[-1]) if keys else ""
        if name in ("image", "head_image", "worker_image") and text:
            rules += _check_image(text)
        elif name in ("aws_credentials", "gcp_credentials"):
            rules.append(_secret("credentials"))
        elif name == "rayVersion" and text != pinned("ray"):
            rules.append(f"{text}: constraints.txt pins {pinned('ray')}")
        elif name in _REACHABLE and re.fullmatch(_REACHABLE[name], text):
            rules.append(f"{text}: {_OUTSIDE}")
        yield from ((line, keys, rule) for rule in rules)


def _get(value: Any, *keys: str | int) -> Any:
    """The value below nested keys; None if one is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _items(value: Any, *keys: str | int) -> list[Any]:
    """The list below nested keys; an empty one if there is none."""
    return found if isinstance(found := _get(value, *keys), list) else []


def _check_manifest(content: Any, values: list[_Value]) -> Iterator[tuple[_Keys, str]]:
    """A Kubernetes manifest: Ray's token, secrets, and who may come in."""
    kind = content["kind"]
    if kind == "RayCluster" and _get(content, "spec", "authOptions", "mode") != "token":
        yield ("spec", "authOptions"), "must be {mode: token}; else anybody could run code"
    for name in {"data", "stringData"} & set(content) if kind == "Secret" else ():
        yield (name,), _secret("a secret")
    for i, rule in enumerate(_items(content, "spec", "ingress")):
        sources = _items(rule, "from")
        wide = not sources or any(not one or _get(one, "ipBlock") for one in sources)
        if kind == "NetworkPolicy" and wide:
            yield ("spec", "ingress", i), "lets everybody or addresses in; name pods (podSelector)"


def _check_ray_up(content: Any, values: list[_Value]) -> Iterator[tuple[_Keys, str]]:
    """A file for ``ray up``: Ray's own validation, Ray's token, and who may come in."""
    import jsonschema  # type: ignore[import-untyped]
    from ray.autoscaler._private.util import prepare_config, validate_config

    # Ray's notes, among them on the files in file_mounts, are for `ray up`.
    logging.getLogger("ray.autoscaler").setLevel(logging.ERROR)
    if isinstance(content.get("file_mounts"), dict):
        content = {**content, "file_mounts": {}}
    if not any("RAY_AUTH_MODE=token" in text for _, _, text in values):
        yield (), "RAY_AUTH_MODE=token is set nowhere: Ray would ask nobody for a token"
    place: _Keys = ("provider", "security_group", "IpPermissions")
    for i, rule in enumerate(_items(content, *place)):
        if {_get(rule, "FromPort"), _get(rule, "ToPort")} != {22}:
            yield (*place, i), "only SSH (22) may be reachable; everything else goes through it"
    try:
        validate_config(prepare_config(content))
    except jsonschema.ValidationError as error:
        place, known = tuple(error.absolute_path), _get(error.schema, "properties") or ()
        unknown = re.findall(r"'([^']+)'", error.message)
        if error.validator == "additionalProperties" and unknown:
            yield (*place, unknown[0]), f"no such key; {nearest(unknown[0], known)}"
        else:
            yield place, error.message[:_LONGEST]
    except Exception as error:  # Ray raises errors of many kinds
        yield (), f"Ray refuses it: {(str(error) or type(error).__name__)[:_LONGEST]}"
