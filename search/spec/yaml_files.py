"""From a YAML file and ``--set`` to a plain tree of values, whatever the keys mean."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import yaml

from foldrace.errors import InputError, first_line

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
    """Reads YAML 1.2's plain values, without aliases, tags and duplicate keys.

    ``1e-3`` is a number; ``yes`` and 2024-01-01 are text.
    """

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
                self._refuse(f"the key {name!r}, which is not text", key)
            if name in seen:
                self._refuse(f"the key {name!r} a second time", key)
            seen.add(name)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    @staticmethod
    def _refuse(what: str, where: Any) -> NoReturn:
        raise yaml.MarkedYAMLError(None, None, f"there is {what}", where.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as another type; writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)


def dump_yaml(tree: Mapping[str, Any]) -> str:
    """``tree`` as YAML that ``yaml.safe_load`` and `read_yaml` read alike."""
    return _dump(tree, None, 100)


def inline_yaml(tree: Any) -> str:
    """``tree`` as YAML on one line.

    >>> inline_yaml({"log": [0.001, 0.1]})
    '{log: [0.001, 0.1]}'
    """
    return _dump(tree, True, 1e9).removesuffix("...\n").strip()


def _dump(tree: Any, flow: bool | None, width: float) -> str:
    text: str = yaml.dump(
        tree,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=flow,
        width=width,
    )
    return text


def read_yaml(text: str, source: str) -> Any:
    """The values in ``text``.

    Args:
        source: the name of the text in errors.

    Raises:
        InputError: the text is not YAML; names the line, the column and the text there.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, error.problem or "cannot be read"
        if mark is None:
            raise InputError(source, None, f"is not YAML: {problem}") from error
        lines = text.split("\n")
        line = lines[mark.line].strip()[:80] if mark.line < len(lines) else ""
        hint = "indent with spaces, not tabs" if "'\\t'" in problem else ""
        rule = f"line {mark.line + 1}, column {mark.column + 1}: {problem}" + (
            f", in `{line}`" if line else ""
        )
        raise InputError(source, None, rule, hint) from error
    except yaml.YAMLError as error:
        rule = "is not YAML: it holds characters that are not text"
        raise InputError(source, None, rule) from error
    except ValueError as error:  # a number of thousands of digits
        raise InputError(source, None, f"is not YAML: {error}") from error


def read_file(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: there is no such file, or it is a folder, larger than 1 MB, not text, not
            YAML, empty, or not a mapping.
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
        raise InputError(source, None, f"cannot be read: {first_line(error)}") from error
    if len(data) > _LARGEST_FILE:
        raise InputError(source, None, "is larger than 1 MB, too large for a sweep file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(source, None, f"is not UTF-8 text (byte {error.start})") from error
    tree = read_yaml(text, source)
    if tree is None:
        raise InputError(source, None, "is empty", _examples())
    if not isinstance(tree, Mapping):
        kind = "a list" if isinstance(tree, list) else "a single value"
        rule = f"must be a mapping of keys to values, not {kind}"
        raise InputError(source, None, rule, _examples())
    return tree


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
    close = difflib.get_close_matches(path.name, _yaml_files(path.parent), n=1, cutoff=0.5)
    hint = f"did you mean {path.with_name(close[0])}?" if close else ""
    if not path.parent.is_dir():
        hint = f"there is no folder {path.parent}"
    return "; ".join(filter(None, (hint, _examples())))


def plain(tree: object, field: str = "", depth: int = 0) -> Any:
    """A copy of ``tree`` in Python's own dict, list, str, int, float, bool and None.

    Args:
        field: the tree's name in errors.

    Raises:
        InputError: a value of another type, a key that is not text, text with half a surrogate
            pair (which no file or message can hold), or more than 32 levels.
    """
    if depth > _DEEPEST:
        raise InputError(field[:60] + "...", None, f"has more than {_DEEPEST} levels")
    if isinstance(tree, Mapping):
        for key in tree:
            if not isinstance(key, str):
                raise InputError(field or "spec", key, "must be text, as every key")
            _check_encodable(field or "spec", key)
        return {
            str(k): plain(v, f"{field}.{k}" if field else k, depth + 1) for k, v in tree.items()
        }
    if isinstance(tree, list | tuple):
        return [plain(item, f"{field}[{i}]", depth + 1) for i, item in enumerate(tree)]
    if tree is None or isinstance(tree, bool):
        return tree
    if isinstance(tree, str):
        _check_encodable(field, tree)
    for kind in (str, int, float):
        if isinstance(tree, kind):
            return kind(tree)
    rule = "must be text, a number, true, false, null, a list or a mapping"
    raise InputError(field, tree, rule, type(tree).__name__)


def _check_encodable(field: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        rule = "must be Unicode text, without half a surrogate pair"
        raise InputError(field, ascii(text), rule) from error


def set_value(tree: dict[str, Any], override: str) -> None:
    """Sets one value in ``tree``, in place; missing mappings on the way are created.

    Args:
        override: ``a.b=c``, where c is YAML.

    Raises:
        InputError: names ``--set``: there is no ``=``, a key is empty, c is not YAML, or a key on
            the way does not hold a mapping.
    """
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        rule = "must have the form key=value"
        raise InputError("--set", override, rule, "--set search.trials=40")
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
            hint = f"set it as a whole: {whole}=..."
            raise InputError("--set", override, f"{whole} is not a mapping", hint)
        tree = below
    tree[keys[-1]] = plain(value, "--set")
