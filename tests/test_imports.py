"""Which module may import which, read from the source; and what a worker really loads."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("trainables", "search", "analysis", "cluster")
ALLOWED = {
    "trainables": {"trainables"},
    "search": {"search", "trainables"},
    "analysis": {"analysis", "search", "trainables"},
    "cluster": {"cluster", "search", "trainables"},
}
BELOW_ALL = {"command_hints", "errors", "files", "private"}

# The rooms of each package from the bottom up. A module imports only from its own room and from
# lower levels: not from other rooms of its level. A room is a sub-package or a single module; what
# is in none of these belongs to the lowest level.
LEVELS = {
    "trainables": (
        {"trainables.cpu", "trainables.data"},
        {"trainables.tasks"},
        {"trainables.training"},
        {"trainables.ray"},
    ),
    "search": (
        {"search.spec"},
        {"search.sampling", "search.scheduling", "search.recording"},
        {"search.preparing"},
        {"search.tune"},
        {"search.sweeps"},
    ),
    "analysis": (
        {"analysis.records"},
        {"analysis.statistics"},
        {"analysis.reports"},  # the kit that all reports are made with
        {
            "analysis.simulate",
            "analysis.reports.comparison",
            "analysis.reports.latent",
            "analysis.reports.sweep",
            "analysis.reports.vae",
        },
        {"analysis.reports.make"},
        {"analysis.study"},
    ),
}
MOST_FILES = 13


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


@cache
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


def modules():
    """The tree of each module, by its name without ``foldrace.``."""
    found = {}
    for package in ("foldrace", *PACKAGES):
        for path, tree in files(package):
            parts = path.removesuffix(".py").removeprefix("foldrace/").split("/")
            if len(parts) > 1 and parts[-1] == "__init__":
                parts.pop()
            found[".".join(parts)] = tree
    return found


def import_graph(trees):
    """The modules of ours that each module imports, also inside functions and for types only."""
    graph = {}
    for module, tree in trees.items():
        graph[module] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("foldrace."):
                source = node.module.removeprefix("foldrace.")
                inside = {f"{source}.{alias.name}" for alias in node.names}
                graph[module] |= (inside & trees.keys()) or {source}
            elif isinstance(node, ast.Import):
                graph[module] |= {alias.name.removeprefix("foldrace.") for alias in node.names}
        graph[module] = (graph[module] & trees.keys()) - {module}
    return graph


def room_of(module):
    """(room, level) of a module: the longest name in `LEVELS` that it begins with."""
    levels = LEVELS[module.partition(".")[0]]
    found = [
        (room, level)
        for level, rooms in enumerate(levels, 1)
        for room in rooms
        if f"{module}.".startswith(f"{room}.")
    ]
    return max(found, key=lambda each: len(each[0]), default=(module.partition(".")[0], 0))


def wrong_imports(graph):
    for module, imports in graph.items():
        package = module.partition(".")[0]
        for other in imports if package in LEVELS else ():
            if other.partition(".")[0] == package:
                (room, level), (other_room, other_level) = room_of(module), room_of(other)
                if other_room != room and other_level >= level:
                    yield module, other


def cycles(graph):
    """The modules of each group that import each other, sorted."""
    groups = networkx.strongly_connected_components(networkx.DiGraph(graph))
    return {tuple(sorted(group)) for group in groups if len(group) > 1}


def test_rooms_and_circles_are_seen():
    graph = {
        "search.tune.tuner": {"search.spec.space", "search.sweeps.run"},
        "search.sweeps.run": {"search.tune.tuner", "search.text"},
        "search.spec.space": set(),
        "search.text": set(),
        "search.sampling.samplers": {"search.scheduling.asha"},
        "search.scheduling.asha": {"search.scheduling.bracket"},
        "search.scheduling.bracket": set(),
    }
    assert set(wrong_imports(graph)) == {
        ("search.tune.tuner", "search.sweeps.run"),
        ("search.sampling.samplers", "search.scheduling.asha"),
    }
    assert cycles(graph) == {("search.sweeps.run", "search.tune.tuner")}
    assert room_of("analysis.reports.page") == ("analysis.reports", 3)
    assert room_of("analysis.reports.sweep.report") == ("analysis.reports.sweep", 4)


def test_rooms_import_from_lower_levels_only():
    assert not set(wrong_imports(import_graph(modules())))


def test_no_modules_import_each_other():
    assert not cycles(import_graph(modules()))


def test_no_folder_holds_too_many_files():
    folders = Counter(
        path.parent.relative_to(ROOT).as_posix()
        for package in ("foldrace", *PACKAGES, "tests")
        for path in (ROOT / package).rglob("*.py")
    )
    assert not {folder: count for folder, count in folders.items() if count > MOST_FILES}


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


def test_training_imports_ray_in_one_file_and_no_tracker_or_tuner_at_all():
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
light = [tasks + ".loading", tasks + ".parameters", tasks + ".autoencoder"]
rooms = ("splits", "ladder", "options", "reports", "seeds")
print(loaded(*light, *(training + "." + name for name in rooms)))
print(loaded(training + ".cross_validation", tasks + ".autoencoder_network"))
rooms = ("work", "checkpoint", "limits", "picture", "process")
print(loaded(*("foldrace.trainables.ray." + name for name in rooms)))
"""


def test_a_sweep_file_is_checked_without_torch_and_training_needs_torch_alone():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines() == ["[]", *["['torch']"] * 2], done.stderr
