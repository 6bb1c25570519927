"""Who may import whom, read from the source; and what a worker's interpreter really loads."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("trainables", "search", "analysis", "cluster")
ALLOWED = {
    "trainables": {"trainables"},
    "search": {"search", "trainables"},
    "analysis": {"analysis", "search", "trainables"},
    "cluster": {"cluster", "search", "trainables"},
}
BELOW_ALL = {"commands", "errors", "files"}


def imported(tree):
    """(top-level package, whole name) of every import anywhere in a file, also inside
    functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names = [node.module]
        elif isinstance(node, ast.Call) and getattr(
            node.func, "attr", getattr(node.func, "id", "")
        ) in (
            "import_module",
            "__import__",
        ):
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
        else:
            continue
        yield from ((name.partition(".")[0], name) for name in names)


def files(package):
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, package
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())) for path in found]


def test_the_reader_sees_every_way_to_import():
    source = """
import a.b, c
from d.e import f
def g():
    from h import i
    importlib.import_module("j.k")
if TYPE_CHECKING:
    import l
"""
    assert {top for top, _ in imported(ast.parse(source))} == {"a", "c", "d", "h", "j", "l"}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package):
    wrong = [
        f"{path} imports {name}"
        for path, tree in files(package)
        for top, name in imported(tree)
        if top == "foldrace" and name.split(".")[1] not in ALLOWED[package] | BELOW_ALL
    ]
    assert not wrong


def test_everything_is_imported_by_its_one_address():
    """A folder's own name would be found in this project's folder alone, and in a user's
    `search.py`."""
    wrong = [
        f"{path} imports {name}"
        for package in ("foldrace", *PACKAGES, "tests")
        for path, tree in files(package)
        for top, name in imported(tree)
        if top in PACKAGES
    ]
    assert not wrong


def test_every_package_is_installed():
    """setuptools is told of each package by name: one that is left out is missing from a wheel."""
    folders = {
        path.parent for top in ("foldrace", *PACKAGES) for path in (ROOT / top).rglob("*.py")
    }
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(
        name if name.startswith("foldrace") else f"foldrace.{name}" for name in names
    )
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_training_knows_ray_in_one_file_and_no_tracker_or_tuner_at_all():
    users = {
        (path, top)
        for path, tree in files("trainables")
        for top, _ in imported(tree)
        if top in ("ray", "mlflow", "optuna")
    }
    assert users == {("trainables/ray/trainable.py", "ray")}


HEAVY = ("torch", "ray", "mlflow", "optuna", "matplotlib", "sklearn", "pandas")
SCRIPT = f"""
import importlib, sys
def loaded(*names):
    for name in names:
        importlib.import_module(name)
    return [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
tasks, training = "foldrace.trainables.tasks", "foldrace.trainables.training"
light = [tasks + ".protocol", tasks + ".parameters", tasks + ".autoencoder"]
print(loaded(*light, training + ".splits"))
print(loaded(training + ".cross_validation", tasks + ".autoencoder_network"))
"""


def test_a_sweep_file_is_checked_without_torch_and_training_needs_torch_alone():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["[]", "['torch']"], done.stderr
