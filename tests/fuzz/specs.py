"""Sweep files that nobody would write: the shipped ones and others, damaged at random, given to
the command line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from foldrace.cli.app import main
from foldrace.search.spec.sweep_spec import SweepSpec

__all__ = ["Started", "draw_case", "run_case"]

ROOT = Path(__file__).parents[2]
_DATASET = {"name": "digits", "limit": 90, "seed": 0, "size": [12, 12]}

_NASTY: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    17,
    10**30,
    -(10**30),
    2**31,
    2**32,
    2**63,
    10**9,
    0.5,
    -0.0,
    1e-320,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    " ",
    "\t",
    "\n",
    "..",
    "../x",
    "a/../b",
    "/etc/passwd",
    "~",
    "~root/x",
    "x" * 300,
    "x" * 100_000,
    "é" * 200,
    "💥",
    "\u202edcba",
    "\x00",
    "\x1b[31m",
    "\x7f",
    "\u2028",
    "[red]",
    "[/]",
    "{0}",
    "%s",
    "%n",
    "'; drop table runs; --",
    "1e3",
    "yes",
    "null",
    "0x10",
    "1_000",
    "12:30:00",
    "2024-01-01",
    "=",
    "!!python/object/apply:os.system [id]",
    "*a",
    "&a",
    "<<",
    "nan",
    "inf",
    "90s",
    "1h",
    "-1h",
    "9" * 40 + "h",
    "CON",
    "os:system",
    "./nothing.py:f",
    "json:loads",
    "digits",
    "autoencoder",
    "variational",
    "tpe",
    "adam",
    "relu",
    "random",
    [],
    {},
    [[]],
    [None],
    [1, 1],
    [1, 2],
    [2, 1],
    [0, 0],
    [1e-3, 1e-1],
    ["a", "a"],
    list(range(3000)),
    [[1, 1], [3, 9]],
    {"choice": []},
    {"choice": [1, 1]},
    {"choice": [float("nan")]},
    {"log": [0, 1]},
    {"log": [1, float("inf")]},
    {"int": [1, 10**30]},
    {"uniform": [1, 1]},
    {"uniform": [-1e308, 1e308]},
    {"int": [1, 9], "step": 0},
    {"choice": ["adam", "sgd"], "when": {"optimizer": "adam"}},
    {"log_int": [1, 2**70]},
    {"a": {"b": {"c": 1}}},
)
_TOKENS = (
    b"\t",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\r\n",
    b": ",
    b"- ",
    b"? ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"&a ",
    b"*a",
    b"!!python/name:os.system ",
    b"!x ",
    b"---\n",
    b"...\n",
    b"%YAML 9.9\n",
    b"|",
    b">",
    b"'",
    b'"',
    b"#",
    b"<<: ",
    b"\xe2\x80\xa8",
    b"\x1b",
    b"@",
    b"`",
    b"9" * 5000,
    b"1e999",
    b".nan",
    b"-.inf",
    b",",
    b"\\",
    b"name: ../../x\n",
)
_LAUGHS = "\n".join(
    [
        "a0: &a0 [lol, lol]",
        *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)),
    ]
)


class Started(BaseException):
    """The command line has accepted a sweep file, and would now start Ray."""


def _known_keys() -> list[str]:
    schema = SweepSpec.model_json_schema()
    named = {
        name
        for section in (schema, *schema["$defs"].values())
        for name in section.get("properties", {})
    }
    return sorted(
        named
        | {"kind", "lr", "momentum", "latent_dim", "optimizer", "dropout", "choice", "log", "when"}
    )


def _trees() -> list[dict[str, Any]]:
    trees = []
    for path in [
        *sorted((ROOT / "search/specs").rglob("*.yaml")),
        ROOT / "tests/faults/sweep.yaml",
    ]:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        tree["dataset"] = dict(_DATASET)
        trees.append(tree)
    return trees


_KEYS, _TREES = _known_keys(), _trees()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a tree."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(below) for key, below in value.items()}
    return [_copy(below) for below in value] if isinstance(value, list) else value


def _hurt_tree(tree: dict[str, Any], draw: random.Random) -> None:
    places = list(_places(tree))
    if not places:
        return
    inside, key = draw.choice(places)
    match draw.randrange(8):
        case 0 | 1 | 2:
            inside[key] = _copy(draw.choice(_NASTY))
        case 3:
            del inside[key]
        case 4 if isinstance(inside, dict):
            inside[draw.choice(_KEYS)] = _copy(draw.choice(_NASTY))
        case 5:
            other, other_key = draw.choice(places)
            inside[key] = _copy(other[other_key])
        case 6 if isinstance(inside[key], int | float) and not isinstance(inside[key], bool):
            inside[key] *= draw.choice([-1, 0, 1000, 1e-9, 10**12])
        case _:
            deep: Any = draw.choice(_NASTY)
            for _ in range(draw.choice([1, 5, 33, 120])):
                deep = [deep] if draw.random() < 0.5 else {draw.choice(_KEYS): deep}
            inside[key] = deep


def _hurt_text(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    to = min(len(data), at + draw.choice([1, 1, 4, 40]))
    match draw.randrange(8):
        case 0:
            return data[:at] + draw.choice(_TOKENS) + data[at:]
        case 1:
            return data[:at] + draw.choice(_TOKENS) + data[to:]
        case 2:
            return data[:at] + data[to:]
        case 3:
            return data[:at]
        case 4:
            return data[:at] + bytes(draw.randrange(256) for _ in range(to - at)) + data[to:]
        case 5:
            lines = data.split(b"\n")
            lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
            return b"\n".join(lines)
        case 6:
            return data.replace(
                b"  ", draw.choice([b"\t", b" ", b"   ", b"\xc2\xa0"]), draw.randrange(1, 5)
            )
    return draw.choice(
        [
            data.decode("utf-8", "replace").encode("utf-16"),
            b"\xef\xbb\xbf" + data,
            data.replace(b"\n", b"\r\n"),
            data * 3,
            b"[" * 100_000,
            b"{a: " * 5000,
            (_LAUGHS + "\n").encode() + data,
            b"",
            b"\0" * 1000,
            b"- " * 3000,
            b"x: " + b"9" * 20_000,
            data + b"#" * 1_000_000,
            b"'" + data,
            b"? " * 2000,
            bytes(range(256)),
        ]
    )


def draw_case(seed: int) -> tuple[bytes, list[str]]:
    """The text of a sweep file, and what is set beside it."""
    draw = random.Random(f"spec/{seed}")
    tree = _copy(draw.choice(_TREES))
    for _ in range(draw.choice([0, 1, 1, 1, 2, 4])):
        _hurt_tree(tree, draw)
    data = _dumped(tree, draw)
    for _ in range(draw.choice([0, 0, 0, 1, 1, 3])):
        data = _hurt_text(data, draw)
    overrides = []
    if draw.random() < 0.2:
        key = ".".join(draw.choice(_KEYS) for _ in range(draw.choice([1, 2, 2, 40])))
        value = draw.choice(_NASTY)
        overrides = [
            "--set",
            f"{key}={value if isinstance(value, str) else json.dumps(value)}".replace("\0", "\\0"),
        ]
    return data, overrides


def _dumped(tree: dict[str, Any], draw: random.Random) -> bytes:
    try:
        if draw.random() < 0.2:
            return json.dumps(tree).encode("utf-8", "surrogatepass")
        return yaml.safe_dump(tree, allow_unicode=draw.random() < 0.5).encode(
            "utf-8", "surrogatepass"
        )
    except RecursionError:
        return b"{a: " * 400


def run_case(seed: int, folder: Path) -> str:
    """Gives the case to ``foldrace sweep``, up to where it would start; returns ``accepted`` or
    ``refused``.

    Raises:
        AssertionError: it says nothing, ends otherwise than with 2, or would leave the folder of
            sweeps.
        Exception: whatever the command line lets through, which would be a traceback.
    """
    data, overrides = draw_case(seed)
    path, runs = folder / "sweep.yaml", folder / "runs"
    path.write_bytes(data)
    accepted: list[SweepSpec] = []
    out, err = StringIO(), StringIO()
    with ExitStack() as stack:
        stack.enter_context(
            mock.patch("foldrace.search.tune.session.ray_session", _note(accepted))
        )
        stack.enter_context(
            mock.patch("foldrace.search.recording.tracking.import_store_meanwhile")
        )
        for stream, redirect in ((out, redirect_stdout), (err, redirect_stderr)):
            stack.enter_context(redirect(stream))  # type: ignore[arg-type]
        try:
            status = main(
                ["sweep", str(path), "--dir", str(runs), "--data-dir", str(folder), *overrides]
            )
        except Started:
            [spec] = accepted
            assert (runs / spec.name).resolve().parent == runs.resolve(), spec.name
            return "accepted"
    said = err.getvalue()
    assert status == 2, (status, said)
    assert said.strip() and "Traceback" not in said, said
    return "refused"


def _note(accepted: list[SweepSpec]) -> Callable[..., Any]:
    def started(address: str | None, spec: SweepSpec) -> Any:
        accepted.append(spec)
        raise Started

    return started
