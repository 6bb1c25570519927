"""The code that a user's task is made of: which modules belong to it, and when it is the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from foldrace.trainables.user_code import load_object, referenced_module
from foldrace.trainables.user_sources import project_sources, same_code, sources_digest

PROJECT = {
    "task.py": "import math, numpy, foldrace.errors, absent_package\nfrom models import dae\n"
    "import beside\nclass Mine:\n    def late(self):\n        from layers import late\n",
    "beside.py": "import importlib\nother = importlib.import_module('named')\n"
    "from importlib import import_module as load\nNAME = 'by_constant'\nload('by_alias')\n"
    "load(NAME)\nimportlib.import_module(name='by_keyword')\n",
    "named.py": "NAMED = 1\n",
    "by_alias.py": "x = 1\n",
    "by_constant.py": "x = 1\n",
    "by_keyword.py": "x = 1\n",
    "unrelated.py": "x = 1\n",
    "models/__init__.py": "",
    "models/dae.py": "from .parts.block import Block\nfrom . import base\n",
    "models/base.py": "x = 1\n",
    "models/parts/block.py": "from ..base import x\nclass Block: ...\n",
    "layers/late.py": "LATE = 1\n",
}
NAMES = {
    "task.py",
    "beside",
    "named",
    "by_alias",
    "by_constant",
    "by_keyword",
    "models",
    "models.dae",
    "models.base",
    "models.parts.block",
    "layers.late",
}


PACKAGE = {
    "own/__init__.py": "",
    "own/deep/__init__.py": "LEARNING = True\n",
    "own/deep/task.py": "import importlib\nh = importlib.import_module('..beside', __package__)\n"
    "try:\n    importlib.import_module('....beyond', __package__)\nexcept ImportError: pass\n"
    "class Mine: ...\n",
    "own/beside.py": "x = 1\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a task, from which Python imports; forgotten afterwards."""
    known = set(sys.modules)
    write(tmp_path, PROJECT)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - known:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace(", absent_package", ""))


def sources(folder: Path) -> dict[str, str]:
    reference = f"{folder}/task.py:Mine"
    load_object(reference, "task")
    return project_sources(referenced_module(reference))


def test_the_sources_are_the_project_modules_that_a_task_imports(project: Path) -> None:
    found = sources(project)
    assert set(found) == NAMES
    assert found["models.parts.block"] == PROJECT["models/parts/block.py"]
    assert found == sources(project)  # whatever has been imported meanwhile


def test_the_same_code_has_the_same_digest_wherever_it_lies(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sources_digest(sources(project))
    elsewhere = project / "deeper" / "place"
    write(elsewhere, PROJECT)
    for name in NAMES:
        sys.modules.pop(name, None)
    monkeypatch.setattr(sys, "path", [str(elsewhere), *sys.path[1:]])
    assert sources_digest(sources(elsewhere)) == before
    (elsewhere / "models" / "parts" / "block.py").write_text("class Block: x = 1\n")
    assert sources_digest(sources(elsewhere)) != before


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x = 1\n", "x = 1  # the first\n\n\n", True),
        (
            "def f(a, b):\n    return a\n",
            'def f(a,\n      b):\n    """Says."""\n    return a',
            True,
        ),
        ('"""Old."""\nx = 1\n', "x = 1\n", True),
        ("x = 1\n", "x = 1.0\n", False),
        ("x = 'a'\n", "x = 'b'\n", False),
        ("def f(:", "def f(: ", False),
        ("def f(:", "def f(:", True),
        ("sha256:1", "sha256:2", False),
    ],
)
def test_comments_layout_and_docstrings_do_not_change_a_program(
    one: str, other: str, same: bool
) -> None:
    assert same_code(one, other) is same


def test_the_packages_around_a_task_and_what_it_imports_from_above_belong_to_it(
    project: Path,
) -> None:
    write(project, PACKAGE)
    load_object("own.deep.task:Mine", "task")
    found = project_sources(referenced_module("own.deep.task:Mine"))
    assert set(found) == {"own", "own.deep", "own.deep.task", "own.beside"}


def test_a_byte_order_mark_does_not_change_a_program(project: Path) -> None:
    (project / "beside.py").write_bytes(b"\xef\xbb\xbfx = 1\n")
    assert same_code(sources(project)["beside"], "x = 1  # as before")


def test_a_module_that_is_not_text_counts_by_its_bytes(project: Path) -> None:
    (project / "beside.py").write_bytes(
        b"# -*- coding: latin-1 -*-\nname = '\xfc'\nimport named\n"
    )
    found = sources(project)
    assert found["beside"].startswith("sha256:") and "named" in found
