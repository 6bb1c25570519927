"""A task and what lies beside it reach workers that have none of its files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray.cloudpickle as cloudpickle

from foldrace.search.preparing.pickling import pickle_by_value
from foldrace.trainables.tasks.loading import LoadedTask, load_task

TASK = """
import torch
import beside
from parts.deep import scale

class Mine:
    def build(self, params, sample_shape):
        return torch.nn.Linear(beside.WIDTH, 1)

    def losses(self, model, images, params):
        from late import shift
        return {"loss": scale(images) + shift()}
"""
FILES = {
    "own_by_value.py": TASK,
    "beside.py": "WIDTH = 3\n",
    "parts/__init__.py": "",
    "parts/deep.py": "from .factor import FACTOR\ndef scale(x):\n    return FACTOR * x\n",
    "parts/factor.py": "FACTOR = 2\n",
    "late.py": "def shift():\n    return 1\n",
}
WORKER = """
import pickle, sys, torch
task = pickle.load(open(sys.argv[1], "rb"))
print(task.implementation.build({}, None).in_features)
sys.path.append(sys.argv[2])
print(task.implementation.losses(None, torch.ones(1), {})["loss"].item())
"""


@pytest.fixture
def task(tmp_path: Path) -> Iterator[LoadedTask]:
    known, path = set(sys.modules), list(sys.path)
    for name, text in FILES.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text)
    yield load_task(f"{tmp_path}/own/own_by_value.py:Mine")
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def test_what_a_task_imports_travels_with_it(task: LoadedTask, tmp_path: Path) -> None:
    assert set(task.sources) == {
        "own_by_value.py",
        "beside",
        "parts",
        "parts.deep",
        "parts.factor",
        "late",
    }
    assert_it_travels(task, tmp_path)


def test_a_module_of_ones_own_travels_like_a_file(task: LoadedTask, tmp_path: Path) -> None:
    """A sweep may be resumed in another folder, or its workers be on other machines."""
    by_name = load_task("own_by_value:Mine")
    assert sys.modules[type(by_name.implementation).__module__].__name__ == "own_by_value"
    assert_it_travels(by_name, tmp_path)


def assert_it_travels(task: LoadedTask, tmp_path: Path) -> None:
    own = sys.modules[type(task.implementation).__module__]
    pickle_by_value([own])
    names = ("beside", "parts", "parts.deep", "parts.factor")
    registered = [*(sys.modules[name] for name in names), own]
    try:
        parcel = tmp_path / "task.pkl"
        parcel.write_bytes(cloudpickle.dumps(task))
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "late.py").write_text(FILES["late.py"])
    search = [entry for entry in sys.path if "own" not in Path(entry).parts]
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(parcel), str(tmp_path / "elsewhere")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
        cwd=tmp_path,
    )
    assert done.stdout == "3\n3.0\n", done.stderr


def test_a_module_in_the_current_folder_is_found(
    task: LoadedTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "models.py").write_text("from late import shift\n" + TASK)
    monkeypatch.chdir(tmp_path / "here")
    assert load_task("models:Mine").name == "Mine"
