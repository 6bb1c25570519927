"""From a YAML file and ``--set`` to a plain tree of values; nothing here knows what the keys
mean."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import yaml

from foldrace.errors import InputError

__all__ = ["dump_yaml", "inline_yaml", "plain", "read_file", "read_yaml", "set_value"]

_LARGEST_FILE = 1_000_000
_DEEPEST = 32
_EXAMPLES = Path(__file__).parents[1] / "specs"

_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
    r"|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)
_SCALARS = {
    "null": (re.compile(r"~$|null$|Null$|NULL$|$"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"true$|True$|TRUE$|false$|False$|FALSE$"), list("tTfF")),
    "int": (re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789")),
    "float": (_FLOAT, list("-+0123456789.")),
}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values (``1e-3`` is a number; ``yes`` and 2024-01-01 are text), and only
    what a spec needs: no aliases, no tags, no duplicate keys."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self._refuse(f"an alias (*{event.anchor}); write the value out", event)
        if getattr(event, "tag", None) is not None:
            self._refuse(f"a tag ({event.tag}); leave it out", event)
        if self._depth == _DEEPEST:
            self._refuse(f"more than {_DEEPEST} levels", event)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                self._refuse(f"the key {name!r}, which is no text", key)
            if name in seen:
                self._refuse(f"the key {name!r} a second time", key)
            seen.add(name)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    @staticmethod
    def _refuse(what: str, where: Any) -> NoReturn:
        raise yaml.MarkedYAMLError(None, None, f"there is {what}", where.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML version would read as something else; writes values out each
    time."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """``tree`` as YAML that ``yaml.safe_load`` and `read_yaml` read alike."""
    text: str = yaml.dump(
        tree,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=100,
    )
    return text


def inline_yaml(tree: Any) -> str:
    """``tree`` as YAML on one line."""
    text: str = yaml.dump(
        tree,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=True,
        width=1e9,
    )
    return text.removesuffix("...\n").strip()


def read_yaml(text: str, source: str) -> Any:
    """The values in ``text``; ``source`` names it in errors.

    Raises:
        InputError: what is not YAML, with line, column and what stands there.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, error.problem or "cannot be read"
        if mark is None:
            raise InputError(source, None, f"is no YAML: {problem}") from error
        lines = text.split("\n")
        line = lines[mark.line].strip()[:80] if mark.line < len(lines) else ""
        hint = "indent with spaces, not tabs" if "'\\t'" in problem else ""
        rule = f"line {mark.line + 1}, column {mark.column + 1}: {problem}" + (
            f", in `{line}`" if line else ""
        )
        raise InputError(source, None, rule, hint) from error
    except yaml.YAMLError as error:
        raise InputError(
            source, None, "is no YAML: it holds characters that are no text"
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise InputError(source, None, f"is no YAML: {error}") from error


def read_file(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: no such file, a folder, more than 1 MB, no text, no YAML, empty, or no mapping.
    """
    source = str(path)
    try:
        if path.is_dir():
            raise InputError(source, None, "is a folder, not a sweep file")
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError as error:
        raise InputError(source, None, "no such file", _where_else(path)) from error
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(source, None, f"cannot be read: {error}") from error
    if len(data) > _LARGEST_FILE:
        raise InputError(source, None, "is larger than 1 MB, too large for a sweep file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(source, None, f"is no UTF-8 text (byte {error.start})") from error
    tree = read_yaml(text, source)
    if tree is None:
        raise InputError(source, None, "is empty", _examples())
    if not isinstance(tree, Mapping):
        raise InputError(
            source, None, f"must be a mapping of keys to values, not {_kind(tree)}", _examples()
        )
    return tree


def _kind(tree: object) -> str:
    return "a list" if isinstance(tree, list) else "a single value"


def _yaml_files(folder: Path) -> dict[str, Path]:
    try:
        return {p.name: p for p in sorted(folder.iterdir()) if p.suffix in {".yaml", ".yml"}}
    except OSError:
        return {}


def _examples() -> str:
    names = _yaml_files(_EXAMPLES)
    return f"examples in {_EXAMPLES}: {', '.join(names)}" if names else ""


def _where_else(path: Path) -> str:
    if path.name in _yaml_files(_EXAMPLES):
        return f"did you mean {_EXAMPLES / path.name}?"
    if not path.parent.is_dir():
        return "; ".join(filter(None, (f"there is no folder {path.parent}", _examples())))
    close = difflib.get_close_matches(path.name, _yaml_files(path.parent), n=1, cutoff=0.5)
    return "; ".join(
        filter(None, (f"did you mean {path.with_name(close[0])}?" if close else "", _examples()))
    )


def plain(tree: object, field: str = "", depth: int = 0) -> Any:
    """A copy of ``tree`` in Python's own dict, list, str, int, float, bool and None.

    Raises:
        InputError: other values, keys that are no text, or more than 32 levels.
    """
    if depth > _DEEPEST:
        raise InputError(field[:60] + "...", None, f"has more than {_DEEPEST} levels")
    if isinstance(tree, Mapping):
        for key in tree:
            if not isinstance(key, str):
                raise InputError(field or "spec", key, "must be text, as every key")
        return {
            str(k): plain(v, f"{field}.{k}" if field else k, depth + 1) for k, v in tree.items()
        }
    if isinstance(tree, list | tuple):
        return [plain(item, f"{field}[{i}]", depth + 1) for i, item in enumerate(tree)]
    if tree is None or isinstance(tree, bool):
        return tree
    for kind in (str, int, float):
        if isinstance(tree, kind):
            return kind(tree)
    raise InputError(
        field,
        tree,
        "must be text, a number, true, false, null, a list or a mapping",
        type(tree).__name__,
    )


def set_value(tree: dict[str, Any], override: str) -> None:
    """Puts what ``a.b=c`` says into ``tree``, in place; c is YAML, and missing mappings on the way
    are made.

    Raises:
        InputError: field ``--set``: no ``=``, an empty key, c is no YAML, or the way leads through
            something else.
    """
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(
            "--set", override, "must have the form key=value", "--set search.trials=40"
        )
    try:
        value = read_yaml(text, "value")
    except InputError as error:
        raise InputError("--set", override, f"the {error}") from error
    for i, key in enumerate(keys[:-1], 1):
        below = tree.get(key)
        if below is None:
            below = tree[key] = {}
        if not isinstance(below, dict):
            whole = ".".join(keys[:i])
            raise InputError(
                "--set", override, f"{whole} is no mapping", f"set it as a whole: {whole}=..."
            )
        tree = below
    tree[keys[-1]] = plain(value, "--set")
